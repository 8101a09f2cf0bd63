"""What people read about an incident: the GitHub issue, its comments, mails and chat messages, from the templates here.

User text reaches the issue in fenced blocks and code spans only, and nothing but mails besides.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment
from pydantic import BaseModel

from evergreen.markdown import break_references, clean_line, escape_markdown, make_environment, unescape_markdown
from evergreen.monitoring.staleness import Reason, Verdict
from evergreen.settings import AlertSettings

MAX_EVIDENCE = 30_000
"""Characters of evidence in all; GitHub takes 65,536 of a body."""
MAX_REASONS = 20
PLOT = "history.png"
"""Under this name the mail's HTML shows it."""

Event = Literal["opened", "changed", "closed"]

_HEADLINES = {"stale": "The text model is stale", "watch": "The text model needs watching", "fresh": "Fresh again"}
_NEXT_STEPS = {
    "none": "Nothing more to do.",
    "wait": "Nothing runs by itself until there is more traffic or labels. Check that requests reach the service.",
    "investigate": "Nothing runs by itself. The next look updates this; another alarm makes the verdict stale.",
    "repair_input": "Nothing is retrained while the input is broken. Once it is repaired, the next look closes this.",
    "retrain": "The workflow retrain trains on the labels that came back: it opens a pull request where the gate "
    "passes, and says so here where not. By hand: evergreen feedback collect, dvc repro, evergreen gate. This closes "
    "when the verdict is fresh again or the release is verified.",
}


@dataclass(frozen=True)
class Links:
    """Addresses for the reader; empty where there is none."""

    run: str = ""
    report: str = ""
    guide: str = ""

    @classmethod
    def of(cls, settings: AlertSettings) -> "Links":
        """Derive them from what GitHub Actions sets."""
        repository, run = settings.repository_url, settings.run_url
        guide = f"{repository}/blob/HEAD/docs/operations.md#when-the-alert-comes" if repository else ""
        return cls(run=run, report=f"{run}#artifacts" if run else "", guide=guide)


class AlertText(BaseModel):
    """A message, in the two forms that channels take."""

    event: Event
    title: str
    html: str
    text: str


def is_incident(verdict: Verdict) -> bool:
    """Whether somebody must act: it opens an issue."""
    return verdict.status == "stale" or verdict.action == "repair_input"


def digest_verdict(verdict: Verdict) -> str:
    """Identify what an incident is about: status and alarming signals, whatever their values are today."""
    alarms = sorted(reason.signal for reason in verdict.signals if reason.status == "alarm")
    return hashlib.sha256(" ".join([verdict.status, *alarms]).encode()).hexdigest()[:16]


def render_title(verdict: Verdict) -> str:
    """Write the issue's title."""
    alarms = ", ".join(reason.title.lower() for reason in verdict.reasons if reason.status == "alarm")
    title = f"{_get_headline(verdict)}: {alarms}" if alarms else _get_headline(verdict)
    return break_references(clean_line(title, 200))


def render_body(verdict: Verdict, links: Links) -> str:
    """Write the issue's Markdown, without its marker."""
    return _render("incident_template.md", **_describe(verdict, links))


def render_comment(verdict: Verdict, links: Links, event: Event) -> str:
    """Write a comment on what changed."""
    return _render("incident_comment_template.md", event=event, **_describe(verdict, links))


def render_alert(verdict: Verdict, links: Links, event: Event, issue: str = "", has_plot: bool = False) -> AlertText:
    """Write a message about a verdict.

    Args:
        verdict: the newest.
        links: to the run and the guide.
        event: what happened to the incident.
        issue: its address.
        has_plot: whether the plot goes with the message.
    """
    title = f"Evergreen: {render_title(verdict)}"
    values = _describe(verdict, links) | {"event": event, "issue": issue, "has_plot": has_plot, "plot": PLOT}
    return AlertText(
        event=event,
        title=title,
        html=_render("alert_template.html", title=title, **values),
        text=_render("alert_template.txt", title=title, **values),
    )


def render_closing(because: str, links: Links, issue: str = "") -> AlertText:
    """Write a message about an incident that somebody closed."""
    reason = break_references(clean_line(because, 1000))
    values = {"because": reason, "issue": issue, "links": links}
    return AlertText(
        event="closed",
        title="Evergreen: incident closed",
        html=_render("alert_closed_template.html", **values),
        text=f"{reason}\n" + (f"Issue: {issue}\n" if issue else ""),
    )


def render_note(text: str, links: Links, issue: str = "") -> AlertText:
    """Write a message that adds to an open incident.

    Args:
        text: lines of Markdown, the first of which becomes the title.
        links: to the run.
        issue: its address.
    """
    lines = [unescape_markdown(line) for line in text.splitlines() if line.strip()]
    title = f"Evergreen: {clean_line(lines[0], 200)}"
    values = {"title": title, "lines": lines, "issue": issue, "links": links}
    return AlertText(
        event="changed",
        title=title,
        html=_render("alert_note_template.html", **values),
        text="\n".join(
            [
                *lines,
                *(
                    f"{name}: {url}"
                    for name, url in (("Issue", issue), ("Run", links.run), ("Guide", links.guide))
                    if url
                ),
            ]
        ),
    )


def render_run(workflow: str, has_failed: bool, links: Links, detail: str = "") -> AlertText:
    """Write a message about a workflow that failed, or works again.

    Args:
        workflow: its name.
        has_failed: whether it did.
        links: to the run and the guide.
        detail: which parts of it failed.
    """
    if not has_failed:
        return render_note(f"The workflow {workflow} works again.", links)
    first = f"The workflow {workflow} failed"
    step = "Read the run's log: the failed step names the remedy. Nothing was changed that it did not report."
    return render_note("\n".join(filter(None, [first, escape_markdown(clean_line(detail, 1000)), step])), links)


def render_closing_comment(because: str) -> str:
    """Write the comment with which somebody closes an incident."""
    return f"Closed: {escape_markdown(because)}"


def _get_headline(verdict: Verdict) -> str:
    if verdict.action == "repair_input":
        return "The model's input is broken" + (", and the model is stale" if verdict.status == "stale" else "")
    return _HEADLINES[verdict.status]


def _describe(verdict: Verdict, links: Links) -> dict[str, Any]:
    reasons = verdict.reasons[:MAX_REASONS]
    left = MAX_EVIDENCE
    evidence: dict[str, list[str]] = {}
    for reason in reasons:
        lines = []
        for line in reason.evidence:
            cleaned = clean_line(line)
            left -= len(cleaned) + 1
            if left < 0:
                lines.append("… more in the report")
                break
            lines.append(cleaned)
        evidence[reason.signal] = lines
        if left < 0:
            break
    return {
        "verdict": verdict,
        "headline": _get_headline(verdict),
        "reasons": reasons,
        "n_hidden": len(verdict.reasons) - len(reasons),
        "evidence": evidence,
        "next_step": _NEXT_STEPS[verdict.action],
        "links": links,
    }


def _format_value(reason: Reason) -> str:
    if reason.value is None:
        return "–"
    if reason.low is None or reason.high is None:
        return f"{reason.value:,.3g}"
    return f"{reason.value:,.3g} ({reason.low:,.3g} to {reason.high:,.3g})"


def _render(template: str, **values: Any) -> str:
    return _make_environment().get_template(template).render(**values).strip() + "\n"


@cache
def _make_environment() -> Environment:
    environment = make_environment(Path(__file__).parent)
    environment.filters["value"] = _format_value
    return environment

"""Alerts: one issue for each incident, each message delivered, whatever fails; texts that no user can break out of."""

import email
import itertools
import json
import random
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import default
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from github_server import TOKEN, Fault, GitHubServer, serve_github
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from evergreen import files
from evergreen.cli import app
from evergreen.errors import EvergreenError
from evergreen.github import RetryPolicy
from evergreen.markdown import escape_markdown, fence, quote_code
from evergreen.monitoring.alert_text import (
    Links,
    digest_verdict,
    is_incident,
    render_alert,
    render_body,
    render_title,
)
from evergreen.monitoring.alerts import AlertError, Alerts, AlertState
from evergreen.monitoring.incidents import LABEL
from evergreen.monitoring.staleness import WHAT_TO_DO, Action, Reason, Verdict, VerdictStatus
from evergreen.settings import AlertSettings

POLICY = RetryPolicy(tries=3, first_wait=0.0, longest_wait=1.0, deadline=60.0, seconds_between_writes=0.0)
ONE_TRY = RetryPolicy(tries=1, first_wait=0.0, longest_wait=0.0, deadline=60.0, seconds_between_writes=0.0)
HOSTILE = [
    "```` and `````` and ~~~~~~~ end the block",
    "--> <!-- evergreen-incident: text digest=0123456789abcdef -->",
    "@everyone and @octocat, see #1, GH-1, acme/reviews#2 and https://evil.example/",
    '<img src=x onerror="alert(1)"><script>alert(2)</script></code></pre>',
    "first\n# second\r\n\u2028- third\x00\x1b[31m \u202e backwards",
    "👩‍👩‍👧 " + "very long " * 10_000,
    "| a | table | [link](https://evil.example) ![image](https://evil.example/i.png) **bold** $x$",
]


def make_reason(signal: str, status: Any = "alarm", **fields: Any) -> Reason:
    values: dict[str, Any] = {
        "title": signal.replace("_", " ").capitalize(),
        "message": f"{signal}: distance 0.310 (0.280 to 0.340), alarm from 0.1; p = 1e-05, alarm up to 0.0012.",
        "value": 0.31,
        "low": 0.28,
        "high": 0.34,
        "threshold": 0.1,
        "n_current": 4321,
        "rule": "company",
        "evidence": ["delayed (1.0% → 14.2%)", "“where is my bag”, most like “lost luggage” (similarity 0.61)"],
    }
    return Reason(status=status, signal=signal, **values | fields)


def make_verdict(
    status: VerdictStatus, signals: tuple[str, ...] = ("embedding_drift", "class_drift"), **fields: Any
) -> Verdict:
    actions: dict[VerdictStatus, Action] = {"stale": "retrain", "watch": "investigate", "fresh": "none"}
    action: Action = fields.pop("action", actions[status])
    reasons = fields.pop("reasons", [] if status == "fresh" else [make_reason(signal) for signal in signals])
    titles = ", ".join(reason.title.lower() for reason in reasons)
    values: dict[str, Any] = {
        "summary": f"{status.capitalize()}: alarm of {titles}." if titles else "Fresh: no signal gives an alarm.",
        "what_to_do": WHAT_TO_DO[action],
        "can_judge": True,
        "model": "text 0.1.0 0a1b2c3d",
        "since": datetime(2026, 4, 24, tzinfo=UTC),
        "until": datetime(2026, 5, 1, tzinfo=UTC),
        "n_predictions": 4321,
        "n_reference": 1500,
        "false_alarm_rate": 0.05,
        "budget_days": 90,
        "topics": [],
    }
    return Verdict(status=status, action=action, reasons=reasons, signals=reasons, **values | fields)


STALE = make_verdict("stale")
WORSE = make_verdict("stale", ("embedding_drift", "class_drift", "confidence"))
WATCH = make_verdict("watch", ("class_drift",))
BROKEN = make_verdict("watch", ("input_quality",), action="repair_input")
FRESH = make_verdict("fresh")


def make_settings(server: GitHubServer | None = None, urls: str = "", **fields: Any) -> AlertSettings:
    values: dict[str, Any] = {"EVERGREEN_ALERT_URLS": urls}
    if server:
        values |= {"GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": "acme/reviews", "GITHUB_API_URL": server.url}
    return AlertSettings(**values | {"GITHUB_RUN_ID": "12"} | fields)


def hook(server: GitHubServer, name: str = "oncall") -> str:
    return server.url.removesuffix(server.prefix).replace("http:", "json:") + f"/hook/{name}"


def get_titles(server: GitHubServer, name: str = "oncall") -> list[str]:
    return [body["title"] for body in server.messages.get(f"/hook/{name}", [])]


def never_fail(_path: str) -> None:
    """The fault that ends the faults."""


@pytest.fixture
def github(clean_environment: None) -> Iterator[GitHubServer]:
    with serve_github() as server:
        yield server


@pytest.fixture
def make_alerts(github: GitHubServer, tmp_path: Path) -> Any:
    """Each call is a new process that has the state of the one before, unless it gets another folder."""

    def make(folder: str = "state", policy: RetryPolicy = POLICY, **fields: Any) -> Alerts:
        return Alerts(make_settings(github, hook(github), **fields), tmp_path / folder, policy)

    return make


def test_incident_is_opened_updated_and_closed(github: GitHubServer, make_alerts: Any) -> None:
    result = make_alerts().send(STALE)
    assert result.problems == []
    [issue] = github.issues
    assert result.issue == issue["html_url"]
    assert [label["name"] for label in issue["labels"]] == [LABEL]
    assert github.labels.keys() == {LABEL}
    assert issue["title"] == "The text model is stale: embedding drift, class drift"
    first, second = issue["body"].splitlines()[:2]
    assert first == f"<!-- evergreen-incident: text digest={digest_verdict(STALE)} -->"
    assert second.startswith("**The text model is stale.** Retrain on newer labeled texts;")
    for words in (
        "0.31 (0.28 to 0.34) | 0.1 | 4,321",
        "24 April 2026",
        "The workflow retrain trains on the labels that came back",
        "/actions/runs/12",
    ):
        assert words in issue["body"]

    tomorrow = STALE.model_copy(update={"until": datetime(2026, 5, 2, tzinfo=UTC)})
    make_alerts().send(tomorrow)
    assert "2 May 2026" in github.issues[0]["body"]
    assert github.comments[1] == []
    make_alerts().send(WORSE)
    make_alerts().send(WORSE)
    [comment] = github.comments[1]
    assert "The verdict changed" in comment["body"]
    make_alerts().send(WATCH)
    assert issue["state"] == "open"
    make_alerts().send(FRESH)
    make_alerts().send(FRESH)
    assert (issue["state"], issue["state_reason"]) == ("closed", "completed")
    assert "Fresh again" in github.comments[1][-1]["body"]
    assert len(github.comments[1]) == 3
    assert len(github.issues) == github.most_open == 1
    titles = [render_title(verdict) for verdict in (STALE, WORSE, WATCH, FRESH)]
    assert get_titles(github) == [f"Evergreen: {title}" for title in titles]
    make_alerts().send(STALE)
    assert [issue["state"] for issue in github.issues] == ["closed", "open"]


@pytest.mark.parametrize(("verdict", "opens"), [(WATCH, False), (FRESH, False), (BROKEN, True), (STALE, True)])
def test_only_what_somebody_must_do_opens_an_issue(
    verdict: Verdict, opens: bool, github: GitHubServer, make_alerts: Any
) -> None:
    make_alerts().send(verdict)
    assert len(github.issues) == len(get_titles(github)) == opens == is_incident(verdict)


def test_digest_ignores_values_and_order() -> None:
    reasons = [make_reason("class_drift", value=0.5), make_reason("embedding_drift"), make_reason("age", "ok")]
    assert digest_verdict(make_verdict("stale", reasons=reasons)) == digest_verdict(STALE)
    assert len({digest_verdict(verdict) for verdict in (STALE, WORSE, WATCH, BROKEN, FRESH)}) == 5


def test_new_runner_repeats_nothing(github: GitHubServer, make_alerts: Any) -> None:
    make_alerts("first").send(STALE)
    make_alerts("second").send(STALE)
    make_alerts("third").send(WORSE)
    make_alerts("fourth").send(FRESH)
    make_alerts("fifth").send(FRESH)
    assert len(github.issues) == 1
    assert len(get_titles(github)) == 3


def test_duplicates_are_closed_and_the_oldest_kept(github: GitHubServer, make_alerts: Any) -> None:
    body = f"<!-- evergreen-incident: text digest={digest_verdict(STALE)} -->\n"
    foreign = github.add_issue(title="Something else", body="evergreen", labels=[LABEL])
    for _ in range(3):
        github.add_issue(title="Stale", body=body, labels=[LABEL])
    make_alerts().send(STALE)
    assert [issue["number"] for issue in github.open_issues] == [foreign["number"], 2]
    assert "Duplicate of #2." in github.comments[4][0]["body"]


def test_issue_closed_by_hand(github: GitHubServer, make_alerts: Any) -> None:
    make_alerts().send(STALE)
    github.issues[0]["state"] = "closed"
    make_alerts().send(WATCH)
    assert github.open_issues == []
    assert get_titles(github)[1:] == ["Evergreen: incident closed"]
    make_alerts().send(STALE)
    assert len(github.open_issues) == 1


def test_close(github: GitHubServer, make_alerts: Any) -> None:
    assert not make_alerts().close("Nothing to close").was_open
    make_alerts().send(STALE)
    assert make_alerts().close("Release 1.4.0 was verified. @octocat").was_open
    assert github.open_issues == []
    assert github.comments[1][0]["body"].endswith("Closed: Release 1.4.0 was verified. @\u2060octocat")
    assert get_titles(github)[1:] == ["Evergreen: incident closed"]
    make_alerts().send(WATCH)
    assert len(github.issues) == 1


def test_close_is_kept_while_github_is_unavailable(github: GitHubServer, make_alerts: Any) -> None:
    make_alerts().send(STALE)
    github.next_fault = lambda path: None if path.startswith("/hook") else "500"
    assert make_alerts().close("Verified").problems
    github.next_fault = never_fail
    make_alerts().send(WATCH)
    assert github.open_issues == []
    assert "Closed: Verified" in github.comments[1][0]["body"]
    assert len(get_titles(github)) == 2


def test_expired_token_is_reported_and_later_served(github: GitHubServer, make_alerts: Any) -> None:
    github.token = "another"
    result = make_alerts().send(STALE)
    with pytest.raises(AlertError, match=r"401 Bad credentials: the token is expired or revoked\. Renew GITHUB_TOKEN"):
        result.raise_problems()
    assert github.requests.count("GET /repos/acme/reviews/issues") == 1  # no retry would help
    assert len(get_titles(github)) == 1  # the other channel is served
    result = make_alerts(GITHUB_TOKEN="another").send(WATCH)
    assert result.problems == []
    assert len(github.open_issues) == 1  # though the newest verdict alone would open none
    assert len(get_titles(github)) == 2


@pytest.mark.parametrize("fault", ["502 after", "reset after"])
def test_lost_answers_repeat_nothing(fault: Fault, github: GitHubServer, make_alerts: Any) -> None:
    """Each request's first answer is lost, after the server did what it asked for."""

    def lose() -> Any:
        seen = set()

        def choose(path: str) -> Fault | None:
            key = github.requests[-1]
            is_first = key not in seen and not path.startswith("/hook")
            seen.add(key)
            return fault if is_first and not key.startswith("GET") else None

        return choose

    for verdict in (STALE, WORSE, FRESH):
        github.next_fault = lose()
        assert make_alerts(policy=RetryPolicy(9, 0.0, seconds_between_writes=0.0)).send(verdict).problems == []
    assert len(github.issues) == 1
    assert len(github.comments[1]) == 2
    assert github.open_issues == []


@pytest.mark.parametrize("fault", ["429", "limit", "500", "reset"])
def test_what_passes_is_retried(fault: Fault, github: GitHubServer, make_alerts: Any) -> None:
    faults = iter([fault, fault])
    github.next_fault = lambda _path: next(faults, None)
    assert make_alerts().send(STALE).problems == []
    assert len(github.open_issues) == 1


def test_long_rate_limit_is_left_for_the_next_run(github: GitHubServer, make_alerts: Any) -> None:
    github.next_fault = lambda path: None if path.startswith("/hook") else "long limit"
    [problem] = make_alerts().send(STALE).problems
    assert "the rate limit is used up" in problem
    assert len(github.requests) == 2
    github.next_fault = never_fail
    make_alerts().send(STALE)
    assert len(github.open_issues) == len(get_titles(github)) == 1


def test_label_that_the_token_may_not_set_leaves_no_open_issue(github: GitHubServer, make_alerts: Any) -> None:
    github.drops_labels = True
    for _ in range(2):
        [problem] = make_alerts().send(STALE).problems
        assert "may not label issues" in problem
    assert github.open_issues == []


def test_enterprise_host(clean_environment: None, tmp_path: Path) -> None:
    with serve_github("/api/v3") as server:
        settings = make_settings(server)
        Alerts(settings, tmp_path, POLICY).send(STALE)
        [issue] = server.open_issues
        assert f"{server.url.removesuffix('/api/v3')}/acme/reviews/actions/runs/12#artifacts" in issue["body"]
        assert all(" /api/v3/repos/acme/reviews/" in request for request in server.requests)


def test_channels_fail_alone_and_keep_the_order(github: GitHubServer, tmp_path: Path) -> None:
    settings = make_settings(urls=f"{hook(github, 'down')}\n{hook(github, 'up')} nonsense://x")
    github.next_fault = lambda path: "500" if path.endswith("down") else None
    for verdict in (STALE, WORSE):
        result = Alerts(settings, tmp_path, POLICY).send(verdict)
        assert [problem.partition(":")[0] for problem in result.problems] == ["EVERGREEN_ALERT_URLS", "channel 1 (json"]
    assert result.kept == 2
    github.next_fault = never_fail
    assert Alerts(settings, tmp_path, POLICY).send(FRESH).sent == 4
    assert get_titles(github, "down") == get_titles(github, "up")
    assert len(get_titles(github, "up")) == 3
    assert not list(tmp_path.rglob("*.json")) or [file.name for file in tmp_path.rglob("*.json")] == ["state.json"]


def test_channel_that_is_added_hears_of_the_open_incident(github: GitHubServer, tmp_path: Path) -> None:
    Alerts(make_settings(urls=hook(github)), tmp_path, POLICY).send(STALE)
    Alerts(make_settings(urls=f"{hook(github)} {hook(github, 'new')}"), tmp_path, POLICY).send(STALE)
    assert len(get_titles(github)) == len(get_titles(github, "new")) == 1


def test_secrets_are_in_no_message_and_no_state(github: GitHubServer, tmp_path: Path) -> None:
    port = find_free_port()
    urls = f"json://ann:hunter22hunter@127.0.0.1:{port}/ mailto://bob:s3cr3tw0rd@127.0.0.1:{port}/?from=a@example.com"
    github.token = "another"
    alerts = Alerts(make_settings(github, urls), tmp_path, ONE_TRY)
    result = alerts.send(STALE)
    assert len(result.problems) == 3
    assert ["onnection error" in problem for problem in result.problems] == [False, True, True]  # the reasons
    written = "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    for secret in ("hunter22hunter", "s3cr3tw0rd", TOKEN):
        assert secret not in written + "".join(result.problems)
        assert secret not in repr(alerts.settings)


class _Kill(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("seed", range(12))
def test_whatever_fails_nothing_is_lost(seed: int, github: GitHubServer, make_alerts: Any, monkeypatch: Any) -> None:
    """Random verdicts, faults and kills; an odd seed loses answers and kills, so that messages may come twice."""
    rng = random.Random(seed)  # noqa: S311
    loses = bool(seed % 2)
    faults: list[Fault] = ["500", "reset", "limit", "429", "401", "long limit"]
    if loses:
        faults += ["502 after", "reset after"]
    rate = rng.choice([0.1, 0.3, 0.6])

    def fail_sometimes(_path: str) -> Fault | None:
        return rng.choice(faults) if rng.random() < rate else None

    write_whole = files.write_whole

    def kill_sometimes(file: Path, *blocks: bytes) -> None:
        if loses and rng.random() < 0.1:
            raise _Kill
        write_whole(file, *blocks)
        if loses and rng.random() < 0.1:
            raise _Kill

    monkeypatch.setattr(files, "write_whole", kill_sometimes)
    incident, expected = None, []
    verdict = FRESH
    for i in range(14):
        verdict = rng.choice([STALE, WORSE, WATCH, BROKEN, FRESH])
        github.next_fault = fail_sometimes
        while True:  # a run that was killed is run again
            try:
                make_alerts().send(verdict)
                break
            except _Kill:
                pass
        before = incident
        incident = advance(incident, verdict)
        if incident != before:
            expected.append(f"Evergreen: {render_title(verdict)}")
        if i % 5 == 4:
            github.next_fault = never_fail
    github.next_fault = never_fail
    monkeypatch.setattr(files, "write_whole", write_whole)
    for _ in range(2):
        result = make_alerts().send(verdict)
        assert (result.problems, result.kept) == ([], 0)
    assert github.most_open <= 1
    assert [digest_verdict(verdict) in issue["body"] for issue in github.open_issues] == [True] * (incident is not None)
    for comments in github.comments.values():
        keys = [comment["body"].splitlines()[0] for comment in comments]
        assert all(a != b for a, b in itertools.pairwise(keys))
    for issue in github.issues:
        if issue["state"] == "closed":
            assert "Fresh again" in github.comments[issue["number"]][-1]["body"]
    titles = get_titles(github)
    if loses:
        titles = [title for title, _ in itertools.groupby(titles)]
        expected = [title for title, _ in itertools.groupby(expected)]
    assert titles == expected


def advance(incident: str | None, verdict: Verdict) -> str | None:
    """The incident as it should be: its digest, or None."""
    if is_incident(verdict) or (verdict.status == "watch" and incident):
        return digest_verdict(verdict)
    return None


class _Outside(HTMLParser):
    """Collects tags, comments, and the text that is in no code."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.text, self.tags, self.links, self.comments = 0, "", set[str](), list[Any](), list[str]()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.depth += tag == "code"
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "code"

    def handle_data(self, data: str) -> None:
        if not self.depth:
            self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


def parse_markdown(text: str) -> _Outside:
    outside = _Outside()
    outside.feed(MarkdownIt("commonmark").enable("table").render(text))
    return outside


def test_hostile_text_stays_text(github: GitHubServer, make_alerts: Any) -> None:
    reasons = [make_reason(f"signal_{i}", message=line, evidence=HOSTILE) for i, line in enumerate(HOSTILE)]
    verdict = make_verdict("stale", reasons=reasons, model=HOSTILE[2])
    make_alerts().send(verdict)
    make_alerts().send(verdict)
    [issue] = github.issues
    assert github.comments[1] == []  # the digest was read from our marker, not from the text's
    assert len(issue["body"]) < 60_000
    outside = parse_markdown(issue["body"])
    assert outside.tags <= {
        "p",
        "strong",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "ul",
        "li",
        "h3",
        "a",
        "pre",
        "code",
    }
    assert len(outside.comments) == 1
    assert not any("evil" in str(link) for link in outside.links)
    for words in ("@", "#1", "evil", "alert(", "very long", "-->", "GH-"):
        assert words not in outside.text
    assert "\u202e" not in issue["body"]
    alert = render_alert(verdict, Links(), "opened")
    assert "@octocat" not in alert.text
    assert "<script" not in alert.html


def test_body_is_never_too_long() -> None:
    reasons = [make_reason(f"signal_{i}", message="`" * 5000, evidence=["x`" * 400] * 500) for i in range(200)]
    body = render_body(make_verdict("stale", reasons=reasons), Links())
    assert len(body) < 60_000
    assert "180 more are in the report" in body


@given(st.lists(st.text(st.sampled_from("`~\n\r a<>-!@#[]*_|\\\u2028")), max_size=4), st.text(max_size=40))
def test_no_text_leaves_its_code(lines: list[str], text: str) -> None:
    blocks = [token for token in MarkdownIt().parse(f"{fence(lines)}\n\nafter") if token.type in ("fence", "inline")]
    assert [block.type for block in blocks] == ["fence", "inline"]
    assert blocks[0].content.count("\n") == len(lines)
    inline = MarkdownIt().parse(f"before {quote_code(text)} after")[1].children or []
    assert [token.type for token in inline if token.type != "text"] in ([], ["code_inline"])
    outside = parse_markdown(f"x {escape_markdown(text)}")
    assert outside.tags == {"p"}


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Mailbox:
    """An SMTP handler that keeps what it gets."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        message = email.message_from_bytes(envelope.content, policy=default)
        assert isinstance(message, EmailMessage)
        self.mails.append(message)
        return "250 OK"


@contextmanager
def serve_smtp() -> Iterator[tuple[_Mailbox, int]]:
    mailbox = _Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=find_free_port())
    controller.start()
    try:
        yield mailbox, controller.port
    finally:
        controller.stop()


def make_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = (1).to_bytes(4) + (1).to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")


def test_mail_shows_the_plot_inline(clean_environment: None, tmp_path: Path) -> None:
    plot = tmp_path / "some_name.png"
    plot.write_bytes(make_png())
    verdict = make_verdict("stale", reasons=[make_reason("class_drift", evidence=HOSTILE)])
    with serve_smtp() as (mailbox, port):
        urls = f"mailto://127.0.0.1:{port}/?from=evergreen@example.com&to=oncall@example.com"
        settings = make_settings(urls=urls, GITHUB_REPOSITORY="acme/reviews")
        assert Alerts(settings, tmp_path, ONE_TRY).send(verdict, plot).problems == []
        assert Alerts(settings, tmp_path, ONE_TRY).send(FRESH, tmp_path / "missing.png").problems == []
    opened, closed = mailbox.mails
    assert opened["Subject"] == "Evergreen: The text model is stale: class drift"
    assert opened["To"] == "oncall@example.com"
    [html] = [part.get_content() for part in opened.walk() if part.get_content_type() == "text/html"]
    [text] = [part.get_content() for part in opened.walk() if part.get_content_type() == "text/plain"]
    [image] = [part for part in opened.walk() if part.get_content_type() == "image/png"]
    assert image.get_payload(decode=True) == plot.read_bytes()
    assert image.get_content_disposition() == "inline"
    assert f'src="cid:{image["Content-ID"].strip("<>")}"' in html
    outside = _Outside()
    outside.feed(html)
    assert "script" not in outside.tags
    assert [link for link in outside.links if "evil" in link] == []
    assert "https://github.com/acme/reviews/actions/runs/12" in html
    assert "Retrain on newer labeled texts" in text
    assert "cid:" not in closed.as_string()


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["alert", *arguments])
    return result.exit_code, result.output


def test_command_without_a_channel(clean_environment: None) -> None:
    assert run("send") == (0, run("send")[1])
    assert "set GITHUB_TOKEN and GITHUB_REPOSITORY" in run("send")[1]
    assert run("close", "--because", "x")[0] == 0
    assert run("test")[0] == 1


def test_commands(github: GitHubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/reviews")
    monkeypatch.setenv("GITHUB_API_URL", github.url)
    monkeypatch.setenv("EVERGREEN_ALERT_URLS", hook(github))
    code, output = run("send")
    assert code == 1
    assert "verdict.json: missing. Make it: evergreen monitor" in output
    STALE.save(Path("reports/monitoring/verdict.json"))
    code, output = run("send")
    assert (code, github.open_issues[0]["html_url"] in output) == (0, True)
    assert "1 sent, 0 kept" in output
    code, output = run("test")
    assert (code, output.count("works")) == (0, 2), output
    code, output = run("close", "--because", "Release 1.4.0 was verified.")
    assert (code, github.open_issues) == (0, [])
    assert run("close", "--because", "Again")[1] == "no incident is open\n"
    assert get_titles(github)[1:] == ["Evergreen: test", "Evergreen: incident closed"]

    monkeypatch.setenv("GITHUB_TOKEN", "expired")
    code, output = run("send")
    assert code == 1
    assert "GitHub issues of acme/reviews: 401 Bad credentials" in output
    assert "Kept for the next run." in output
    assert run("test")[0] == 1


def test_wrong_settings_are_named(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_REPOSITORY", "only-a-name")
    with pytest.raises(EvergreenError, match="GITHUB_REPOSITORY: 'only-a-name'"):
        AlertSettings.load()


def test_broken_state_and_second_process(github: GitHubServer, make_alerts: Any, tmp_path: Path) -> None:
    make_alerts().send(STALE)
    state = tmp_path / "state" / "alerts" / "state.json"
    AlertState.model_validate(json.loads(state.read_text()))
    state.write_text("{")
    make_alerts().send(STALE)
    assert len(github.issues) == len(get_titles(github)) == 1
    with files.claim(state.with_name("lock")) or pytest.fail("locked"), pytest.raises(AlertError, match="at work"):
        make_alerts().send(STALE)

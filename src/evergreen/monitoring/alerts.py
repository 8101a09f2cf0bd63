"""Alerts: who is told what about an incident, once, whatever fails on the way.

What has to be told is written under `state_dir/alerts/` before anything is sent, and removed after. The GitHub issue is
not queued: each run makes it show the newest verdict, and remembers only that one has still to be opened or closed.
Where no state is left, as on a new runner, the digest in the issue says what was told.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Base64Bytes, BaseModel, Field, ValidationError

from evergreen import files
from evergreen.errors import EvergreenError
from evergreen.github import Deadline, GitHubError, RetryPolicy
from evergreen.logs import get_logger
from evergreen.monitoring.alert_channels import ChannelError, load_channels
from evergreen.monitoring.alert_text import (
    AlertText,
    Event,
    Links,
    digest_verdict,
    is_incident,
    render_alert,
    render_body,
    render_closing,
    render_closing_comment,
    render_comment,
    render_note,
    render_run,
    render_title,
)
from evergreen.monitoring.incidents import Incident, OpenIssue, Subject, hash_comment
from evergreen.monitoring.staleness import Verdict
from evergreen.settings import AlertSettings

log = get_logger(__name__)

NO_CHANNEL = (
    "no channel: set GITHUB_TOKEN and GITHUB_REPOSITORY for an issue, EVERGREEN_ALERT_URLS for mail, Slack and others"
)
_MAX_PLOT_BYTES = 5 << 20


class AlertError(EvergreenError):
    """Some channel was not reached; the message has a line for each, with reason and remedy."""


class AlertState(BaseModel):
    """`state_dir/alerts/state.json`.

    Attributes:
        incident: digest of the open incident; None where none is open.
        told: by channel, the digest that it was told or has waiting; empty once told of the end.
        sequence: number of the newest message.
        must_open: the issue could not be opened yet.
        must_close: comment for the issue that could not be closed yet.
        note: digest of the evidence that was added last.
    """

    incident: str | None = None
    told: dict[str, str] = Field(default_factory=dict)
    sequence: int = 0
    must_open: bool = False
    must_close: str | None = None
    note: str = ""


class PendingMessage(BaseModel):
    """A file in `state_dir/alerts/pending/`: a message for one channel that was not delivered yet."""

    channel: str
    message: AlertText
    plot: Base64Bytes | None = None


@dataclass
class AlertResult:
    """What a command did: the issue's page, messages delivered and kept, and a line for each problem."""

    issue: str = ""
    was_open: bool = True
    sent: int = 0
    kept: int = 0
    problems: list[str] = field(default_factory=list)

    def raise_problems(self) -> None:
        """Fail where some channel was not reached."""
        if self.problems:
            raise AlertError("\n".join(f"{problem}. Kept for the next run." for problem in self.problems))


class Alerts:
    """Tells people about an incident.

    Args:
        settings: the channels.
        state_dir: where what could not be told yet is kept.
        policy: how long to keep trying.
        subject: what the incident is about; by default the text model.
    """

    def __init__(
        self,
        settings: AlertSettings,
        state_dir: Path,
        policy: RetryPolicy | None = None,
        subject: Subject | None = None,
    ) -> None:
        self.folder = state_dir / "alerts" / (subject.name if subject else "")
        self.settings = settings
        self.policy = policy or RetryPolicy()
        self.deadline = Deadline.start(self.policy)
        self.links = Links.of(settings)
        self.channels, self.problems = load_channels(settings.urls, self.policy)
        self.incident = Incident(settings, self.policy, self.deadline, subject) if settings.has_github else None

    @property
    def has_channels(self) -> bool:
        """Whether anybody can be told; a URL that is wrong counts, since it is reported."""
        return bool(self.incident or self.channels or self.problems)

    def send(self, verdict: Verdict, plot: Path | None = None) -> AlertResult:
        """Report a verdict: open, update or close the issue; a message to each channel for which something changed.

        Args:
            verdict: the newest.
            plot: a PNG for the messages; left out where there is no such file.
        """
        with self._hold_state() as (state, result):
            is_reachable, issue = self._find_issue(result)
            before = self._choose_digest(state, is_reachable, issue)
            self._fill_told(state, before)
            digest = digest_verdict(verdict)
            is_open = is_incident(verdict) or (verdict.status != "fresh" and before is not None)
            state.incident = digest if is_open else None
            if self.incident:
                self._plan_issue(state, verdict, before, is_reachable and issue is None)
            self._save(state)
            url = self._write_issue(state, verdict, result) if is_reachable else ""
            plot_bytes = _read_plot(plot)
            messages = {}
            for channel in self.channels:
                event = _choose_event(state.told[channel.key], state.incident)
                if event == "closed" and verdict.status != "fresh":
                    messages[channel.key] = render_closing("Its issue was closed by hand.", self.links)
                elif event:
                    messages[channel.key] = render_alert(verdict, self.links, event, url, plot_bytes is not None)
            self._queue(state, messages, plot_bytes)
            self._deliver(result)
            result.issue = url
        return result

    def close(self, because: str) -> AlertResult:
        """End the incident, whatever the next verdict.

        Args:
            because: why, for the reader.
        """
        with self._hold_state() as (state, result):
            is_reachable, issue = self._find_issue(result)
            before = self._choose_digest(state, is_reachable, issue)
            self._fill_told(state, before)
            result.was_open = before is not None or (self.incident is not None and not is_reachable)
            if self.incident and not (is_reachable and issue is None):
                state.must_close = render_closing_comment(because)
            state.incident, state.must_open = None, False
            self._save(state)
            result.issue = self._write_issue(state, None, result) if is_reachable else ""
            closing = render_closing(because, self.links, result.issue)
            self._queue(state, {channel.key: closing for channel in self.channels if state.told[channel.key]}, None)
            self._deliver(result)
        return result

    def add_evidence(self, text: str) -> AlertResult:
        """Add to the open incident what was tried about it, as a comment and a message; where none is open, nothing.

        Args:
            text: Markdown, with user text escaped; its first line is the message's title.
        """
        with self._hold_state() as (state, result):
            is_reachable, issue = self._find_issue(result)
            before = self._choose_digest(state, is_reachable, issue)
            self._fill_told(state, before)
            result.was_open = before is not None
            if before is None:
                return result
            if self.incident and is_reachable:
                try:
                    commented = self.incident.comment(text)
                except GitHubError as error:
                    result.problems.append(self._name_github(error))
                else:
                    result.issue = commented.url if commented else ""
            state.incident = before
            digest = hash_comment(text)
            if state.note != digest:
                state.note = digest
                note = render_note(text, self.links, result.issue)
                self._queue(state, {channel.key: note for channel in self.channels}, None)
            self._deliver(result)
        return result

    def report_run(self, workflow: str, has_failed: bool, detail: str = "") -> AlertResult:
        """Report that a workflow's run failed, or that it works again; for alerts whose subject is that workflow.

        Args:
            workflow: its name.
            has_failed: whether this run did; each failure is a comment, the first one a message as well.
            detail: which parts of it failed.
        """
        with self._hold_state() as (state, result):
            _, issue = self._find_issue(result)
            before = (issue.digest if issue else None) or state.incident
            self._fill_told(state, before)
            result.was_open = before is not None
            if not has_failed and before is None:
                return result
            note = render_run(workflow, has_failed, self.links, detail)
            state.incident = "failed" if has_failed else None
            if self.incident:
                try:
                    if has_failed:
                        run = self.settings.github_run_id or "0"
                        opened = self.incident.report(run, note.title, note.text, note.text, may_open=True)
                    else:
                        opened = self.incident.close(note.text)
                    result.issue = opened.url if opened else ""
                except GitHubError as error:
                    result.problems.append(self._name_github(error))
            is_told = {channel.key: bool(state.told[channel.key]) for channel in self.channels}
            self._queue(state, {key: note for key, told in is_told.items() if told != has_failed}, None)
            self._save(state)
            self._deliver(result)
        return result

    def test(self) -> Iterator[tuple[str, str | None]]:
        """Send a message to every channel, and write the issue's label: name of each with its problem, None if fine."""
        if self.incident:
            name = f"GitHub issues of {self.settings.github_repository}"
            try:
                self.incident.check()
            except GitHubError as error:
                yield name, str(error)
            else:
                yield name, None
        text = "This is a test of Evergreen's alerts. Nothing is wrong."
        message = AlertText(event="closed", title="Evergreen: test", html=f"<p>{text}</p>", text=text)
        for channel in self.channels:
            try:
                channel.send(message, None, self.deadline)
            except ChannelError as error:
                yield channel.name, str(error).removeprefix(f"{channel.name}: ")
            else:
                yield channel.name, None
        for problem in self.problems:
            yield "EVERGREEN_ALERT_URLS", problem

    @contextmanager
    def _hold_state(self) -> Iterator[tuple[AlertState, AlertResult]]:
        lock = files.claim(self.folder / "lock")
        if lock is None:
            raise AlertError(f"{self.folder}: another evergreen alert is at work. Run this again once it has ended.")
        with lock:
            yield self._load(), AlertResult(problems=list(self.problems))

    def _load(self) -> AlertState:
        self._is_new = True
        try:
            state = AlertState.model_validate_json((self.folder / "state.json").read_bytes())
        except FileNotFoundError:
            return AlertState()
        except ValidationError:
            log.warning("alerts: state.json can't be read, so the issue says what was told", folder=str(self.folder))
            return AlertState()
        self._is_new = False
        return state

    def _save(self, state: AlertState) -> None:
        files.write_whole(self.folder / "state.json", state.model_dump_json(indent=2).encode())

    def _find_issue(self, result: AlertResult) -> tuple[bool, OpenIssue | None]:
        """Whether GitHub answers, and the issue that is open there."""
        if self.incident is None:
            return False, None
        try:
            return True, self.incident.find()
        except GitHubError as error:
            result.problems.append(self._name_github(error))
            return False, None

    def _choose_digest(self, state: AlertState, is_reachable: bool, issue: OpenIssue | None) -> str | None:
        """The open incident's digest before this run: as GitHub has it, unless that could not be brought up to date."""
        if not is_reachable or state.must_open or state.must_close:
            return state.incident
        return issue.digest if issue else None

    def _fill_told(self, state: AlertState, before: str | None) -> None:
        # With a state, a channel that it doesn't have is new, and hears of the incident that is open.
        told = before or "" if self._is_new else ""
        for channel in self.channels:
            state.told.setdefault(channel.key, told)

    def _plan_issue(self, state: AlertState, verdict: Verdict, before: str | None, is_gone: bool) -> None:
        """Write down what has to be done to the issue, before it is tried."""
        if state.incident is None:
            if verdict.status == "fresh" and not is_gone:
                state.must_close = render_comment(verdict, self.links, "closed")
            state.must_open = False
        elif before is None or is_gone:
            state.must_open = True

    def _write_issue(self, state: AlertState, verdict: Verdict | None, result: AlertResult) -> str:
        """Bring the issue up to date; its address, or nothing where that failed."""
        if self.incident is None:
            return ""
        issue = None
        try:
            if state.must_close is not None:
                issue = self.incident.close(state.must_close)
                state.must_close = None
                self._save(state)
            if state.incident and verdict:
                issue = self.incident.report(
                    state.incident,
                    render_title(verdict),
                    render_body(verdict, self.links),
                    render_comment(verdict, self.links, "changed"),
                    may_open=is_incident(verdict) or state.must_open,
                )
                state.must_open = False
                self._save(state)
        except GitHubError as error:
            result.problems.append(self._name_github(error))
        return issue.url if issue else ""

    def _name_github(self, error: GitHubError) -> str:
        return f"GitHub issues of {self.settings.github_repository}: {error}"

    def _queue(self, state: AlertState, messages: dict[str, AlertText], plot: bytes | None) -> None:
        """Keep messages, each as a file; a repeat after a kill writes the same files again."""
        if not messages:
            return
        pending = self.folder / "pending"
        pending.mkdir(exist_ok=True)
        for key, message in messages.items():
            kept = PendingMessage.model_construct(channel=key, message=message, plot=plot)  # validated, it would decode
            files.write_whole(pending / f"{state.sequence + 1:08d}-{key}.json", kept.model_dump_json().encode())
            state.told[key] = state.incident or ""
        state.sequence += 1
        self._save(state)

    def _deliver(self, result: AlertResult) -> None:
        """Send what is kept, oldest first; a channel that fails gets no later message before the earlier one."""
        channels = {channel.key: channel for channel in self.channels}
        failed = set()
        for file in sorted((self.folder / "pending").glob("*.json")):
            kept = _load_message(file)
            channel = channels.get(kept.channel) if kept else None
            if kept is None or channel is None:
                # A URL that is gone or new: who is there now is told of the incident as it stands.
                if not self.problems:
                    log.warning("alert dropped: its channel is no longer in EVERGREEN_ALERT_URLS", file=str(file))
                    file.unlink()
                continue
            if channel.key in failed:
                result.kept += 1
                continue
            try:
                channel.send(kept.message, kept.plot, self.deadline)
            except ChannelError as error:
                failed.add(channel.key)
                result.kept += 1
                result.problems.append(str(error))
            else:
                file.unlink()
                result.sent += 1


def _choose_event(told: str, incident: str | None) -> Event | None:
    if told == (incident or ""):
        return None
    if not told:
        return "opened"
    return "changed" if incident else "closed"


def _read_plot(plot: Path | None) -> bytes | None:
    if plot is None or not plot.is_file() or plot.stat().st_size > _MAX_PLOT_BYTES:
        return None
    return plot.read_bytes()


def _load_message(file: Path) -> PendingMessage | None:
    try:
        return PendingMessage.model_validate(json.loads(file.read_bytes()))
    except (ValidationError, ValueError):
        return None

"""What follows from the gate: one pull request with the report, or evidence in the alert and nothing open."""

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from evergreen.markdown import escape_markdown
from evergreen.metrics import Metrics
from evergreen.release.gate import GateResult
from evergreen.release.proposal_branch import EVIDENCE, commit_proposal, push_proposal
from evergreen.release.pull_request import collect_report
from evergreen.release.pull_requests import Proposal, PullRequests
from evergreen.written import load_written

TITLE = "Retrain the text model"
_REPORT = "report"


class RetrainingDecision(Metrics):
    """Whether a retraining may be proposed now, and why not."""

    proceed: bool
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of a challenger.

    Attributes:
        message: for people, one line.
        proposal: the open pull request; None where there is none.
        report: Markdown.
        evidence: of a challenger that did not pass, for the alert; else empty.
    """

    message: str
    proposal: Proposal | None
    report: str
    evidence: str = ""


def check_cooldown(pulls: PullRequests, base: str, cooldown_days: float, now: datetime) -> RetrainingDecision:
    """Decide whether to propose: not while a rejection is fresh.

    Args:
        pulls: of the repository.
        base: branch that is proposed to.
        cooldown_days: after somebody closed a proposal.
        now: with a time zone.
    """
    rejected = pulls.find_rejected(base, now - timedelta(days=cooldown_days))
    if rejected is None or rejected.closed_at is None:
        return RetrainingDecision(proceed=True, reason="No proposal was closed lately.")
    until = rejected.closed_at + timedelta(days=cooldown_days)
    reason = (
        f"{rejected.url} was closed without a merge on {rejected.closed_at:%-d %B %Y}: nothing is proposed until "
        f"{until:%-d %B %Y} (retraining.cooldown_days), unless somebody asks for it (--anyway)."
    )
    return RetrainingDecision(proceed=False, reason=reason)


def propose(
    pulls: PullRequests, gate: Path, verdict: Path, plot: Path, remote: str, base: str, cooldown_days: float
) -> Outcome:
    """Open or update the pull request of a challenger that passed; withdraw the open one of one that did not.

    Args:
        pulls: of the repository.
        gate: what `evergreen gate` wrote.
        verdict, plot: what `evergreen monitor` wrote; may be missing.
        remote: name of the Git remote.
        base: branch that is proposed to; its revision at the remote has the champion.
        cooldown_days: that the text of the pull request names.

    Raises:
        BranchError, GitHubError, WrittenFileError: with the remedy.
    """
    revision = f"{remote}/{base}"
    result = load_written(GateResult, gate, "evergreen gate")
    before = pulls.find_open(base)
    if not result.passed:
        report = collect_report(gate, verdict, revision, None)
        message = f"Not proposed: {result.summary}"
        if before is not None:
            pulls.comment(before.number, _REPORT, report)
            pulls.withdraw(before, f"Withdrawn: a newer challenger was trained. {escape_markdown(result.summary)}")
            message = f"Not proposed, and {before.url} withdrawn: {result.summary}"
        return Outcome(message, None, report, _write_evidence(message, result))
    _keep_evidence(gate, verdict, plot)
    commit = commit_proposal(f"{TITLE}\n\n{result.summary}")
    if commit is None:
        return Outcome(f"Nothing to propose: dvc.lock is what {base} has.", before, "")
    push_proposal(commit, remote, base, before is not None)
    proposal = pulls.open(base, TITLE, _describe(cooldown_days))
    report = collect_report(gate, verdict, revision, f"{pulls.url}/blob/{commit}")
    pulls.comment(proposal.number, _REPORT, report)
    return Outcome(f"{'Updated' if before else 'Opened'} {proposal.url}.", proposal, report)


def _keep_evidence(gate: Path, verdict: Path, plot: Path) -> None:
    shutil.rmtree(EVIDENCE, ignore_errors=True)
    EVIDENCE.mkdir(parents=True)
    for file in (gate, verdict, plot):
        if file.is_file():
            shutil.copy2(file, EVIDENCE)


def _describe(cooldown_days: float) -> str:
    return (
        "A new text model, trained on newer labels and compared with the one in production. The comment below says "
        "what speaks for it and against it; a newer challenger replaces commit and comment.\n\n"
        "- **Merge** to release it: `release.yml` builds, signs, deploys and verifies, and rolls back by itself.\n"
        f"- **Close** to reject it: nothing is proposed for {cooldown_days:g} days then.\n"
        "- Push nothing to this branch that should last.\n"
    )


def _write_evidence(message: str, result: GateResult) -> str:
    """Say which rules failed, with their numbers."""
    failed = [check for check in result.checks if check.status == "failed"]
    lines = [f"- {escape_markdown(check.name)}: {escape_markdown(check.message)}" for check in failed]
    return "\n".join([escape_markdown(message), "", *lines])

"""The GitHub issue of an incident: one open at a time, recognized by a label and a hidden marker in its body.

Every step looks at what is there before it writes, so that it may be repeated after a lost answer: no second issue, no
comment twice.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from github import GithubException
from github.Issue import Issue
from github.Label import Label

from evergreen.github import Deadline, GitHubError, RetryPolicy, connect, retry
from evergreen.settings import AlertSettings

LABEL = "evergreen-staleness"
_LABEL_COLOR = "d93f0b"
_COMMENT_MARKER = re.compile(r"^<!-- evergreen-incident-comment: (\w+) -->")


@dataclass(frozen=True)
class Subject:
    """What an incident is about; one is open for each.

    Attributes:
        name: in the issue's marker.
        label: of its issues.
        description: of the label.
    """

    name: str = "text"
    label: str = LABEL
    description: str = "Evergreen watches a model and found it stale"

    @classmethod
    def for_workflow(cls, name: str) -> Self:
        """That a workflow failed."""
        return cls(f"workflow-{name}", "evergreen-failure", "A workflow of Evergreen failed")

    @property
    def marker(self) -> re.Pattern[str]:
        """The marker's line, with its digest."""
        return re.compile(rf"^<!-- evergreen-incident: {re.escape(self.name)} digest=(\w+) -->\s*$", re.MULTILINE)


@dataclass(frozen=True)
class OpenIssue:
    """What is known of the open issue.

    Attributes:
        digest: of the verdict that it shows.
        url: its page.
    """

    digest: str
    url: str


class Incident:
    """Reads and writes the issue of an incident.

    Args:
        settings: the repository and the token.
        policy: how long to keep trying.
        deadline: when to give up.
        subject: by default the text model.
    """

    def __init__(
        self, settings: AlertSettings, policy: RetryPolicy, deadline: Deadline, subject: Subject | None = None
    ) -> None:
        self.subject = subject or Subject()
        self.repository = connect(settings.github_api_url, settings.github_token, settings.github_repository, policy)
        self.policy = policy
        self.deadline = deadline

    def find(self) -> OpenIssue | None:
        """Look for the open issue.

        Raises:
            GitHubError: here as below, when GitHub can't be asked; the message has reason and remedy.
        """
        issues = retry(self._list_open, self.policy, self.deadline)
        return self._describe(issues[0]) if issues else None

    def report(self, digest: str, title: str, body: str, comment: str, may_open: bool) -> OpenIssue | None:
        """Make the issue show a verdict.

        Args:
            digest: of the verdict; where the issue shows another, it gets the comment.
            title, body: of the issue, the marker left out.
            comment: what changed.
            may_open: open an issue where none is.
        """
        marked = f"<!-- evergreen-incident: {self.subject.name} digest={digest} -->\n{body}"

        def update() -> OpenIssue | None:
            issue = self._keep_oldest()
            if issue is None:
                return self._open(title, marked) if may_open else None
            before = self._describe(issue)
            if before.digest != digest:
                # Before the body, whose digest says that this is done.
                self._comment(issue, digest, comment)
            if (issue.title, _normalize(issue.body)) != (title, _normalize(marked)):
                issue.edit(title=title, body=marked)
            return OpenIssue(digest, before.url)

        return retry(update, self.policy, self.deadline)

    def comment(self, comment: str) -> OpenIssue | None:
        """Add a comment to the open issue, unless it is our last one already; None where none is open."""

        def add() -> OpenIssue | None:
            issue = self._keep_oldest()
            if issue is None:
                return None
            self._comment(issue, hash_comment(comment), comment)
            return self._describe(issue)

        return retry(add, self.policy, self.deadline)

    def close(self, comment: str) -> OpenIssue | None:
        """Close the open issue with a comment; its description stays what it was, for whoever looks back."""

        def finish() -> OpenIssue | None:
            issue = self._keep_oldest()
            if issue is None:
                return None
            self._comment(issue, hash_comment(comment), comment)
            issue.edit(state="closed", state_reason="completed")
            return self._describe(issue)

        return retry(finish, self.policy, self.deadline)

    def check(self) -> None:
        """Make sure that the token may write issues, by writing the label."""

        def write() -> None:
            self._ensure_label().edit(self.subject.label, _LABEL_COLOR, self.subject.description)

        retry(write, self.policy, self.deadline)

    def _list_open(self) -> list[Issue]:
        """The open issues with label and marker, oldest first."""
        listed = self.repository.get_issues(state="open", labels=[self.subject.label], sort="created", direction="asc")
        issues = [issue for issue in listed if self.subject.marker.search(issue.body or "")]
        return sorted(issues, key=lambda issue: issue.number)

    def _keep_oldest(self) -> Issue | None:
        issues = self._list_open()
        for issue in issues[1:]:
            oldest = issues[0].number
            self._comment(issue, f"duplicate{oldest}", f"Duplicate of #{oldest}.")
            issue.edit(state="closed", state_reason="not_planned")
        return issues[0] if issues else None

    def _open(self, title: str, body: str) -> OpenIssue:
        self._ensure_label()
        issue = self.repository.create_issue(title, body, labels=[self.subject.label])
        if self.subject.label not in [label.name for label in issue.labels]:
            # GitHub drops labels that a token may not set; unlabeled, each run would open another.
            issue.edit(state="closed", state_reason="not_planned")
            raise GitHubError("the token may not label issues. Use one with write access to the repository")
        return self._describe(issue)

    def _ensure_label(self) -> Label:
        try:
            label = self.repository.get_label(self.subject.label)
            label.complete()  # asks only now, as everything of a lazy repository
            return label
        except GithubException as error:
            if error.status != 404:
                raise
        try:
            return self.repository.create_label(self.subject.label, _LABEL_COLOR, self.subject.description)
        except GithubException as error:
            if error.status != 422:  # made meanwhile, or by a try whose answer was lost
                raise
        return self.repository.get_label(self.subject.label)

    def _describe(self, issue: Issue) -> OpenIssue:
        match = self.subject.marker.search(issue.body or "")
        return OpenIssue(match[1] if match else "", issue.html_url)

    @staticmethod
    def _comment(issue: Issue, key: str, text: str) -> None:
        """Add a comment, unless the last of ours is this one."""
        keys = [match[1] for comment in issue.get_comments() if (match := _COMMENT_MARKER.match(comment.body or ""))]
        if not keys or keys[-1] != key:
            issue.create_comment(f"<!-- evergreen-incident-comment: {key} -->\n{text}")


def _normalize(body: str | None) -> list[str]:
    return (body or "").split()


def hash_comment(comment: str) -> str:
    """Identify a comment, to see whether it was made already."""
    return hashlib.sha256(comment.encode()).hexdigest()[:16]

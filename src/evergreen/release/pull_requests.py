"""The retraining pull request at GitHub: one open at a time, its report one comment; through REST, or CML's command.

Only comments that this token wrote are edited: a stranger's comment with our mark stays the stranger's.
"""

from dataclasses import dataclass
from datetime import datetime

from github import GithubException
from github.IssueComment import IssueComment
from github.PullRequest import PullRequest

from evergreen.errors import EvergreenError
from evergreen.github import Deadline, RetryPolicy, connect, retry
from evergreen.logs import get_logger
from evergreen.release.cml import Cml
from evergreen.release.proposal_branch import BRANCH
from evergreen.settings import RetrainingSettings

log = get_logger(__name__)

_MARKER = "<!-- evergreen-retraining -->"
_WITHDRAWN = "<!-- evergreen-retraining: withdrawn -->"
_NEEDS = "contents, pull-requests and issues: write"


class PullRequestError(EvergreenError):
    """There is no repository to work in; the message says what to set."""


@dataclass(frozen=True)
class Proposal:
    """A pull request.

    Attributes:
        number: GitHub's.
        url: its page.
        closed_at: None while it is open.
    """

    number: int
    url: str
    closed_at: datetime | None = None


class PullRequests:
    """Reads and writes the retraining pull requests of a repository.

    Args:
        settings: the repository, the token, and who writes.
        policy: how long to keep trying.

    Raises:
        PullRequestError: when the repository or the token is not set.
    """

    def __init__(self, settings: RetrainingSettings, policy: RetryPolicy | None = None) -> None:
        if not settings.has_github:
            raise PullRequestError("no repository: set GITHUB_REPOSITORY (OWNER/NAME) and GITHUB_TOKEN.")
        self.policy = policy or RetryPolicy()
        self.deadline = Deadline.start(self.policy)
        self.repository = connect(
            settings.github_api_url, settings.github_token, settings.github_repository, self.policy
        )
        self.url = settings.repository_url
        self.head = f"{settings.github_repository.partition('/')[0]}:{BRANCH}"
        self.cml = Cml.find(settings)
        self._login: str | None = None

    def find_open(self, base: str) -> Proposal | None:
        """The open pull request of the branch.

        Raises:
            GitHubError: here as below, when GitHub can't be asked; the message has reason and remedy.
        """
        listed = retry(
            lambda: list(self.repository.get_pulls("open", head=self.head, base=base)), *self._retry_arguments
        )
        return _describe(listed[0]) if listed else None

    def find_rejected(self, base: str, since: datetime) -> Proposal | None:
        """The last proposal that somebody closed since then without merging it; not one that was withdrawn."""

        def look() -> Proposal | None:
            for pull in self.repository.get_pulls("closed", "updated", "desc", base, self.head):
                if pull.closed_at is None or pull.closed_at < since or pull.merged_at is not None:
                    continue
                if _MARKER in (pull.body or ""):
                    return _describe(pull)
            return None

        return retry(look, *self._retry_arguments)

    def open(self, base: str, title: str, body: str) -> Proposal:
        """Open the pull request of the branch, which was pushed before; where one is open, return that."""
        marked = f"{_MARKER}\n{body}"
        if self.cml and self.find_open(base) is None:
            self.cml.open_pull_request(BRANCH, base, title, marked)

        def create() -> PullRequest:
            listed = list(self.repository.get_pulls("open", head=self.head, base=base))
            return listed[0] if listed else self.repository.create_pull(base, BRANCH, title=title, body=marked)

        return _describe(retry(create, *self._retry_arguments))

    def start_workflow(self, workflow: str, ref: str) -> None:
        """Start a workflow that has the event workflow_dispatch.

        Args:
            workflow: name of its file.
            ref: branch to run it on.
        """
        # A lost answer may start it twice; its concurrency group makes the second wait, and find nothing to do.
        retry(
            lambda: self.repository.get_workflow(workflow).create_dispatch(ref, throw=True),
            self.policy,
            self.deadline,
            "actions: write",
        )

    def withdraw(self, proposal: Proposal, reason: str) -> None:
        """Close a pull request with a reason, marked so that it does not count as rejected by somebody."""

        def close() -> None:
            pull = self.repository.get_pull(proposal.number)
            if pull.state == "open":
                body = (pull.body or "").replace(_MARKER, _WITHDRAWN)
                pull.edit(body=body if _WITHDRAWN in body else f"{_WITHDRAWN}\n{body}", state="closed")

        self.comment(proposal.number, "withdrawn", reason)
        retry(close, *self._retry_arguments)

    def comment(self, number: int, name: str, text: str) -> None:
        """Write a comment on an issue or a pull request, in place of the one that has this name.

        Args:
            number: of the issue or pull request.
            name: of the comment, for its hidden mark.
            text: Markdown.
        """
        marker = f"<!-- evergreen-comment: {name} -->"
        marked = f"{marker}\n{text}"
        own, foreign = retry(lambda: self._find_comment(number, marker), *self._retry_arguments)
        if self.cml and foreign is None and (own is None or self.cml.is_author(own.body)):
            self.cml.comment(number, name, marked)
            return

        def write() -> None:
            comment, _ = self._find_comment(number, marker)
            if comment is None:
                self.repository.get_issue(number).create_comment(marked)
            elif comment.body != marked:
                comment.edit(marked)

        retry(write, *self._retry_arguments)

    @property
    def _retry_arguments(self) -> tuple[RetryPolicy, Deadline, str]:
        return self.policy, self.deadline, _NEEDS

    def _find_comment(self, number: int, marker: str) -> tuple[IssueComment | None, IssueComment | None]:
        """Our comment with a mark, and somebody else's that bears it."""
        own = foreign = None
        for comment in self.repository.get_issue(number).get_comments():
            if not (comment.body or "").startswith(marker):
                continue
            if self._is_own(comment):
                own = own or comment
            else:
                log.warning("a comment bears our mark and is not ours", comment=comment.html_url)
                foreign = comment
        return own, foreign

    def _is_own(self, comment: IssueComment) -> bool:
        if self._login is None:
            self._login = self._read_login()
        # An app's token may not ask who it is; no stranger writes as a bot.
        return comment.user.login == self._login if self._login else comment.user.type == "Bot"

    def _read_login(self) -> str:
        try:
            _, user = self.repository.requester.requestJsonAndCheck("GET", "/user")
        except GithubException as error:
            if error.status in (401, 403, 404):
                return ""
            raise
        return str(user["login"])


def _describe(pull: PullRequest) -> Proposal:
    return Proposal(pull.number, pull.html_url, pull.closed_at)

"""A repository's settings at GitHub, of which PyGithub covers only some: read and written by path."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from github import GithubException
from github.Repository import Repository

from evergreen.github import Deadline, GitHubError, RetryPolicy, connect, retry
from evergreen.settings import GitHubSettings


@dataclass(frozen=True)
class RepositorySettings:
    """Access to one repository.

    Attributes:
        needs: the permissions of the token, for messages.
    """

    repository: Repository
    policy: RetryPolicy
    deadline: Deadline
    needs: str

    @classmethod
    def connect(cls, settings: GitHubSettings, policy: RetryPolicy, needs: str) -> Self:
        """Connect, without asking for anything yet."""
        repository = connect(settings.github_api_url, settings.github_token, settings.github_repository, policy)
        return cls(repository, policy, Deadline.start(policy), needs)

    def read(self, path: str) -> Any:
        """What is at a path below the repository.

        Raises:
            GitHubError: when it can't be read.
        """
        return self._request("GET", path)

    def try_to_read(self, path: str) -> tuple[Any, str]:
        """What is there, or why it can't be seen: `403`, `404`, or a failure."""
        try:
            return self.read(path), ""
        except GitHubError as error:
            cause = error.__cause__
            status = cause.status if isinstance(cause, GithubException) else 0
            return None, str(status) if status in (403, 404) else str(error)

    def list_names(self, path: str, key: str = "") -> set[str] | None:
        """Names in a list, which the answer has under `key` if that is set; None where it can't be seen."""
        listed, problem = self.try_to_read(f"{path}?per_page=100")
        return None if problem else {row["name"] for row in (listed[key] if key else listed)}

    def is_protected(self, branch: str) -> bool | None:
        """Whether a ruleset demands pull requests, or branch protection is on; None where that can't be seen."""
        rules, problem = self.try_to_read(f"rules/branches/{branch}")
        if any(rule["type"] == "pull_request" for rule in rules or []):
            return True
        _, unprotected = self.try_to_read(f"branches/{branch}/protection")
        if not unprotected:
            return True
        return None if problem or unprotected != "404" else False

    def write(self, method: str, path: str, body: dict[str, Any]) -> None:
        """Change something; a lost answer repeats it, so it must be the same twice or refused the second time.

        Raises:
            GitHubError: when GitHub refuses, or the token may not.
        """
        self._request(method, path, body)

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"{self.repository.url}/{path}".rstrip("/")
        ask: Callable[[], Any] = lambda: self.repository.requester.requestJsonAndCheck(method, url, input=body)[1]  # noqa: E731
        return retry(ask, self.policy, self.deadline, self.needs)

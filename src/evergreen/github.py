"""GitHub's REST API, of github.com or an enterprise host: connect, try again with back-off, explain a failure."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
from github import Auth, Github, GithubException
from github.Repository import Repository
from pydantic import SecretStr

from evergreen.errors import EvergreenError

_Answer = TypeVar("_Answer")


class GitHubError(EvergreenError):
    """GitHub did not do what was asked; the message names the reason and the remedy."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long to keep trying what may work a little later.

    Attributes:
        tries: of one request, the first included.
        first_wait: seconds before the second try; doubled each time, half of it at random.
        longest_wait: seconds that a server may ask to wait; one that asks for more is left for the next run.
        deadline: seconds for everything that one command sends.
        request_timeout: seconds without an answer.
        seconds_between_writes: GitHub asks for one between requests that change something.
    """

    tries: int = 4
    first_wait: float = 1.0
    longest_wait: float = 60.0
    deadline: float = 180.0
    request_timeout: int = 15
    seconds_between_writes: float = 1.0


@dataclass(frozen=True)
class Deadline:
    """The end of a command's time."""

    at: float

    @classmethod
    def start(cls, policy: RetryPolicy) -> "Deadline":
        """Begin to count."""
        return cls(time.monotonic() + policy.deadline)

    @property
    def remaining(self) -> float:
        """Seconds that are left, never below zero."""
        return max(0.0, self.at - time.monotonic())


def connect(api_url: str, token: SecretStr, repository: str, policy: RetryPolicy) -> Repository:
    """Give access to a repository, without asking for anything yet.

    Args:
        api_url: https://api.github.com, or https://HOST/api/v3.
        token: may expire or be revoked at any time.
        repository: OWNER/NAME.
        policy: its timeouts and pauses; `retry` does the rest.
    """
    client = Github(
        auth=Auth.Token(token.get_secret_value()),
        base_url=api_url.rstrip("/"),
        timeout=policy.request_timeout,
        # GithubRetry would repeat a POST whose answer was lost, which makes a second issue, and sleep for as long as
        # a Retry-After says; `retry` repeats whole steps that look first, within a deadline.
        retry=None,
        seconds_between_requests=0,
        seconds_between_writes=policy.seconds_between_writes,
    )
    return client.get_repo(repository, lazy=True)


def retry(
    step: Callable[[], _Answer], policy: RetryPolicy, deadline: Deadline, needs: str = "issues: write"
) -> _Answer:
    """Do a step, and do it again after a failure that may pass: no connection, 5xx, a rate limit.

    Args:
        step: must be safe to repeat although its first try was done and only the answer was lost.
        policy: how often, and how long.
        deadline: when to give up.
        needs: the permissions of the token, for the message.

    Raises:
        GitHubError: when it can't pass, or does not within the policy.
    """
    for attempt in range(1, policy.tries + 1):
        try:
            return step()
        except (GithubException, requests.RequestException, ValueError) as error:
            wait = _choose_wait(error, attempt, policy)
            if wait is None or attempt == policy.tries or wait > deadline.remaining:
                raise GitHubError(explain(error, needs)) from error
        time.sleep(wait)
    raise AssertionError("a policy has at least one try")


def _choose_wait(error: Exception, attempt: int, policy: RetryPolicy) -> float | None:
    """Seconds to wait before the next try; None where none would help."""
    wait = policy.first_wait * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - only spreads clients
    if not isinstance(error, GithubException):
        return wait
    if error.status < 500 and not _is_rate_limit(error):
        return None
    asked = _read_wait(error.headers or {})
    return None if asked > policy.longest_wait else max(wait, asked)


def _is_rate_limit(error: GithubException) -> bool:
    headers = _lower(error.headers or {})
    return error.status == 429 or (
        error.status == 403
        and (
            "retry-after" in headers
            or headers.get("x-ratelimit-remaining") == "0"
            or "rate limit" in _get_message(error).lower()
        )
    )


def _read_wait(headers: Mapping[str, Any]) -> float:
    """Seconds that the server asks to wait."""
    lower = _lower(headers)
    after = str(lower.get("retry-after", ""))
    if after.isdigit():
        return float(after)
    reset = str(lower.get("x-ratelimit-reset", ""))
    if lower.get("x-ratelimit-remaining") == "0" and reset.isdigit():
        return max(0.0, float(reset) - time.time())
    return 0.0


def _lower(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower(): value for name, value in headers.items()}


def _get_message(error: GithubException) -> str:
    data = error.data
    return str(data.get("message", "")) if isinstance(data, dict) else str(data or "")


def explain(error: Exception, needs: str) -> str:
    """Name the reason and the remedy of a failed request."""
    if not isinstance(error, GithubException):
        return f"no usable answer ({type(error).__name__}). Check GITHUB_API_URL, the network and the proxy"
    reason = f"{error.status} {' '.join(_get_message(error).split())[:200]}".strip()
    if _is_rate_limit(error):
        return f"{reason}: the rate limit is used up. Wait for its reset"
    remedies = {
        401: "the token is expired or revoked. Renew GITHUB_TOKEN",
        403: f"the token may not do this. Give it `{needs}`",
        404: f"no such repository for this token. Check GITHUB_REPOSITORY and GITHUB_API_URL; give it `{needs}`",
        410: "issues are disabled. Enable them in the repository's settings",
        422: "GitHub refuses the values. Report this as a bug of Evergreen",
    }
    trouble = "GitHub has trouble. Look at its status page" if error.status >= 500 else "Check GITHUB_API_URL"
    return f"{reason}: {remedies.get(error.status, trouble)}"

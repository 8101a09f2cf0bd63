"""Releases at GitHub: those of ours carry a hidden marker that says which bundles and which image they are."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from github.GitRelease import GitRelease

from evergreen.errors import EvergreenError
from evergreen.github import Deadline, RetryPolicy, connect, retry
from evergreen.release.lock import Bundles
from evergreen.settings import GitHubSettings

NO_REPOSITORY = "no repository: set GITHUB_REPOSITORY (OWNER/NAME) and GITHUB_TOKEN"
_BEGIN = "<!-- evergreen-release-notes -->"
_MARKER = re.compile(
    r"^<!-- evergreen-release: text=([0-9a-f]{32}) video=([0-9a-f]{32}|none) image=(\S+@sha256:[0-9a-f]{64}) -->\s*$",
    re.MULTILINE,
)
_OURS = re.compile(rf"{_BEGIN}.*?{_MARKER.pattern[1:]}", re.DOTALL | re.MULTILINE)
_NEEDS = "contents: write"


class ReleaseError(EvergreenError):
    """There is no repository to release in; the message says what to set."""


@dataclass(frozen=True)
class Release:
    """A release of ours.

    Attributes:
        tag: of Git.
        commit: that the tag stands for, or the branch, where somebody made it by hand.
        bundles: that are in the image.
        image: by its digest.
    """

    tag: str
    commit: str
    bundles: Bundles
    image: str


class Releases:
    """Reads and writes the releases of a repository.

    Args:
        settings: the repository and the token.
        policy: how long to keep trying.

    Raises:
        ReleaseError: when the repository or the token is not set.
    """

    def __init__(self, settings: GitHubSettings, policy: RetryPolicy | None = None) -> None:
        if not settings.has_github:
            raise ReleaseError(f"{NO_REPOSITORY}.")
        self.policy = policy or RetryPolicy()
        self.deadline = Deadline.start(self.policy)
        self.repository = connect(
            settings.github_api_url, settings.github_token, settings.github_repository, self.policy
        )

    def find(self) -> list[Release]:
        """Our releases, the newest first.

        Raises:
            GitHubError: here as below, when GitHub can't be asked; the message has reason and remedy.
        """
        listed = retry(lambda: list(self.repository.get_releases()), self.policy, self.deadline, "contents: read")
        published = [release for release in listed if not release.draft]
        newest = sorted(published, key=_get_time, reverse=True)
        return [ours for release in newest if (ours := _describe(release))]

    def write(self, tag: str, commit: str, notes: str, bundles: Bundles, image: str) -> str:
        """Make the release of a tag, or complete the one that is there; return its page.

        Args:
            tag: made with the release, where Git has none of that name.
            commit: for a new tag.
            notes: Markdown; what somebody else wrote there stays above it.
            bundles, image: for the marker.
        """
        marker = f"<!-- evergreen-release: text={bundles.text} video={bundles.video} image={image} -->"
        ours = f"{_BEGIN}\n{notes.strip()}\n\n{marker}"

        def write() -> GitRelease:
            release = next((one for one in self.repository.get_releases() if one.tag_name == tag), None)
            if release is None:
                return self.repository.create_git_release(tag, tag, ours, target_commitish=commit)
            body = _merge(release.body or "", ours)
            name = release.title or tag
            if release.draft or (release.title, _normalize(release.body)) != (name, _normalize(body)):
                return release.update_release(name, body, draft=False, prerelease=release.prerelease)
            return release

        return retry(write, self.policy, self.deadline, _NEEDS).html_url


def _merge(body: str, ours: str) -> str:
    """Put our part in place of the one that is there, or below what somebody wrote."""
    plain = body.replace("\r\n", "\n")
    if _OURS.search(plain):
        return _OURS.sub(lambda _: ours, plain, count=1)
    return f"{plain.rstrip()}\n\n{ours}" if plain.strip() else ours


def _normalize(body: str | None) -> list[str]:
    return (body or "").split()


def _get_time(release: GitRelease) -> datetime:
    # created_at is the commit's time.
    return release.published_at or datetime.min.replace(tzinfo=UTC)


def _describe(release: GitRelease) -> Release | None:
    matches = _MARKER.findall((release.body or "").replace("\r\n", "\n"))
    if not matches:
        return None
    text, video, image = matches[-1]
    return Release(release.tag_name, release.target_commitish, Bundles(text, video), image)

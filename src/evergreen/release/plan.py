"""What a release would hold, and whether there is anything new to release."""

from dataclasses import dataclass

from evergreen.release.lock import Bundles, Commit
from evergreen.release.releases import Release
from evergreen.settings import ReleaseSettings


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        proceed: whether to release.
        reason: why, or why not.
        tag: of Git.
        image, monitor_image: names in the registry, without a tag; empty where no repository is named.
        previous: the image of the last release, by its digest; empty where there is none.
    """

    proceed: bool
    reason: str
    tag: str
    image: str
    monitor_image: str
    previous: str


def make_plan(
    commit: Commit, bundles: Bundles, releases: list[Release], settings: ReleaseSettings, registry: str
) -> Plan:
    """Compare a commit's bundles with the last release's.

    Args:
        commit: to be released.
        bundles: that its dvc.lock names.
        releases: so far, the newest first.
        settings: what started the workflow.
        registry: its host, as ghcr.io.
    """
    tag = settings.pushed_tag or choose_tag(commit, bundles, releases)
    earlier = [release for release in releases if release.tag != tag]
    last = earlier[0] if earlier else None
    proceed, reason = _decide(bundles, releases[0] if releases else None, settings)
    name = settings.github_repository.lower()
    image = f"{registry}/{name}" if name else ""
    return Plan(proceed, reason, tag, image, f"{image}-monitor" if image else "", last.image if last else "")


def choose_tag(commit: Commit, bundles: Bundles, releases: list[Release]) -> str:
    """Name a release by the commit's day and the text bundle, the same each time for the same commit."""
    name = f"model-{commit.time:%Y.%m.%d}-{bundles.text[:8]}"
    by_tag = {release.tag: release for release in releases}
    tag, number = name, 1
    # The same text model may be released twice on a day, with another detector or other code.
    while (other := by_tag.get(tag)) and (other.bundles, other.commit) != (bundles, commit.sha):
        number += 1
        tag = f"{name}-{number}"
    return tag


def _decide(bundles: Bundles, last: Release | None, settings: ReleaseSettings) -> tuple[bool, str]:
    if settings.pushed_tag:
        return True, f"The tag {settings.pushed_tag} was pushed."
    if last is None:
        return True, "There is no release yet."
    changed = [name for name in ("text", "video") if getattr(bundles, name) != getattr(last.bundles, name)]
    if changed:
        return True, f"The {' and the '.join(changed)} bundle changed since {last.tag}."
    if settings.is_manual:
        return True, f"The bundles are those of {last.tag}; somebody asks for a release."
    return False, f"Nothing to release: the bundles are those of {last.tag}."

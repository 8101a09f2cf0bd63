"""The end of a release: its page at GitHub, and the incident that it mends."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from evergreen.bundle import MANIFEST
from evergreen.errors import EvergreenError
from evergreen.monitoring.alerts import NO_CHANNEL, Alerts
from evergreen.release.golden import (
    TEXT_BUNDLE,
    VIDEO_BUNDLE,
    GoldenSet,
    ServedModel,
    load_golden_set,
)
from evergreen.release.lock import Bundles, Commit
from evergreen.release.notes import ReleaseFacts, render_notes
from evergreen.release.releases import Releases
from evergreen.settings import AlertSettings, ReleaseSettings
from evergreen.text.bundle import Bundle as TextBundle
from evergreen.video.bundle import Bundle as VideoBundle


class ReleaseNameError(EvergreenError):
    """A tag or an image can't be one."""

    exit_code = 2


@dataclass(frozen=True)
class Published:
    """A release at GitHub.

    Attributes:
        url: its page.
        changed: the models that differ from the release before.
    """

    url: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Closing:
    """What became of the incident."""

    message: str
    problems: list[str] = field(default_factory=list)


def check_names(tag: str, image: str) -> None:
    """Check the names of a release.

    Raises:
        ReleaseNameError: when one can't be used.
    """
    if not re.fullmatch(r"[\w][\w./+-]*", tag):
        raise ReleaseNameError(f"--tag {tag!r}: not a tag. Letters, digits, dots, dashes and slashes.")
    if not re.fullmatch(r"[\w][\w./:-]*@sha256:[0-9a-f]{64}", image):
        raise ReleaseNameError(
            f"--image {image!r}: not an image by its digest. Write NAME@sha256:…, as docker push says it."
        )


def describe_model(golden: Path) -> GoldenSet | None:
    """What is known of the bundles: from the golden set, or from the folders; None where neither is there."""
    if golden.is_file():
        return load_golden_set(golden)
    if not (TEXT_BUNDLE / MANIFEST).is_file():
        return None
    manifest = TextBundle.load(TEXT_BUNDLE).manifest
    has_video = (VIDEO_BUNDLE / MANIFEST).is_file()
    return GoldenSet(
        text_model=ServedModel.of(manifest),
        video_model=ServedModel.of(VideoBundle.load(VIDEO_BUNDLE).manifest) if has_video else None,
        data_cutoff=manifest.data_cutoff,
        samples=[],
    )


def publish(settings: ReleaseSettings, tag: str, image: str, verified: bool, model: GoldenSet | None) -> Published:
    """Make or complete the release at GitHub.

    Args:
        settings: the repository, and who signed.
        tag: of Git.
        image: by its digest.
        verified: in place.
        model: the bundles, if known.

    Raises:
        ReleaseError: when no repository is set.
        GitHubError: when GitHub can't be asked.
    """
    releases, bundles = Releases(settings), Bundles.of("HEAD")
    previous = next((release for release in releases.find() if release.tag != tag), None)
    notes = render_notes(ReleaseFacts(tag, image, verified, settings.signer, model, previous))
    url = releases.write(tag, Commit.of("HEAD").sha, notes, bundles, image)
    # The alias of the text model is looked at each time: a release may have been finished while MLflow was unavailable.
    changed = ["text"]
    if previous is None or previous.bundles.video != bundles.video:
        changed.append("video")
    return Published(url, tuple(changed))


def close_incident(settings: AlertSettings, state_dir: Path, tag: str, verified: bool) -> Closing:
    """Close the incident that a release mends, and tell the channels."""
    alerts = Alerts(settings, state_dir)
    if not alerts.has_channels:
        return Closing(f"incident: {NO_CHANNEL}")
    result = alerts.close(f"Release {tag} was {'verified' if verified else 'published'}.")
    state = f"closed {result.issue}".strip() if result.was_open else "none is open"
    return Closing(f"incident: {state}; messages: {result.sent} sent, {result.kept} kept", result.problems)

"""Fetch the champion: the bundle and the metrics of a Git revision, from DVC's cache or remote."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from evergreen.errors import EvergreenError
from evergreen.metrics import Metrics
from evergreen.text.runtime import Classifier
from evergreen.video.metrics import VideoMetrics

_M = TypeVar("_M", bound=Metrics)
BUNDLE, VIDEO_METRICS = "models/text", "metrics/video.json"


class ChampionError(EvergreenError):
    """There is a champion, and it can't be fetched; the message says what to do."""


@dataclass(frozen=True)
class Champion:
    """What a revision has in production.

    Attributes:
        folder: of its text bundle.
        classifier: the bundle, loaded.
        video: the detector's metrics; None where the revision has none, or in another form.
    """

    folder: Path
    classifier: Classifier
    video: VideoMetrics | None


def fetch_champion(revision: str, folder: Path, num_threads: int | None = None) -> Champion | None:
    """Fetch the champion of a revision into a folder; None where the revision has no bundle yet.

    Args:
        revision: as Git names it, `main` or a tag.
        folder: that does not exist yet.
        num_threads: as for `Classifier`.

    Raises:
        ChampionError: when the revision is unknown, or its bundle is in no cache and no remote.
        BundleError: when the bundle that came is damaged or of another format.
    """
    commit = find_commit(revision)
    if not _has_bundle(revision):
        return None
    got = run("dvc", "get", ".", BUNDLE, "--rev", commit, "--out", str(folder), "--quiet")
    if got.returncode:
        reason = got.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ChampionError(
            f"the champion of {revision} can't be fetched ({reason[0]}). Check the DVC remote and its credentials "
            "(dvc remote list), push from where it was trained (dvc push), or name its folder: --champion-bundle."
        )
    return Champion(folder, Classifier.load(folder, num_threads), read_video_metrics(revision))


def find_commit(revision: str) -> str:
    """Find the commit that a revision names.

    Raises:
        ChampionError: when there is none.
    """
    commit = run("git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if commit.returncode:
        name = revision.removeprefix("origin/")
        raise ChampionError(f"{revision}: no such revision here. Fetch it (git fetch origin {name}) or name another.")
    return commit.stdout.strip()


def read_video_metrics(revision: str) -> VideoMetrics | None:
    """Read the detector's metrics as a revision has them."""
    return parse_metrics(VideoMetrics, show_file(revision, VIDEO_METRICS))


def parse_metrics(kind: type[_M], content: str | None) -> _M | None:
    """Read the content of a file of metrics; None where there is none, or another version wrote it."""
    try:
        return None if content is None else kind.model_validate_json(content)
    except ValidationError:
        return None


def show_file(revision: str, path: str) -> str | None:
    """Read a file as a revision has it; None where it has none, or there is no such revision."""
    shown = run("git", "show", f"{revision}:{path}")
    return None if shown.returncode else shown.stdout


def _has_bundle(revision: str) -> bool:
    return f"path: {BUNDLE}\n" in (show_file(revision, "dvc.lock") or "")


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in the current folder, whatever its exit code."""
    return subprocess.run(command, capture_output=True, text=True, check=False)

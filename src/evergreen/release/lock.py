"""What dvc.lock names, at a Git revision and on disk."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from evergreen.bundle import BaseManifest, BundleError, hash_files
from evergreen.errors import EvergreenError
from evergreen.release.champion import run, show_file
from evergreen.release.golden import TEXT_BUNDLE, VIDEO_BUNDLE
from evergreen.text.bundle import Bundle as TextBundle
from evergreen.text.splits import SPLITS
from evergreen.video.bundle import Bundle as VideoBundle

DATA = Path("data/text")


class LockError(EvergreenError):
    """dvc.lock names no bundle, or another one than is on disk; the message has a line for each problem."""


@dataclass(frozen=True)
class Bundles:
    """The bundles of a revision, by the MD5 that DVC knows their folders by.

    Attributes:
        text, video: 32 hexadecimal digits; video is `none` where the revision has no detector.
    """

    text: str
    video: str

    @classmethod
    def of(cls, revision: str) -> Self:
        """Read dvc.lock as a revision has it.

        Raises:
            LockError: when it names no text bundle.
        """
        content = show_file(revision, "dvc.lock")
        outs = {} if content is None else _read_outs(content)
        if str(TEXT_BUNDLE) not in outs:
            raise LockError(f"{revision}: its dvc.lock names no {TEXT_BUNDLE}. Train first (dvc repro), and commit it.")
        return cls(outs[str(TEXT_BUNDLE)], outs.get(str(VIDEO_BUNDLE), "none"))


@dataclass(frozen=True)
class Commit:
    """A commit's hash and time."""

    sha: str
    time: datetime

    @classmethod
    def of(cls, revision: str) -> Self:
        """Look a revision up.

        Raises:
            LockError: when Git does not know it.
        """
        shown = run("git", "log", "-1", "--format=%H %ct", f"{revision}^{{commit}}", "--")
        if shown.returncode:
            raise LockError(f"{revision}: no such revision here. Fetch it, or name another: --ref.")
        sha, seconds = shown.stdout.split()
        return cls(sha, datetime.fromtimestamp(int(seconds), UTC))


def check_bundles(revision: str = "HEAD") -> list[str]:
    """Check that the bundles on disk are those of a revision, whole, and made from the data that it names.

    Returns:
        What was checked, a line each.

    Raises:
        LockError: with a line for each problem.
    """
    bundles = Bundles.of(revision)
    folders = [TEXT_BUNDLE, *([VIDEO_BUNDLE] if bundles.video != "none" else [])]
    problems, lines = [], []
    for folder, kind in zip(folders, (TextBundle, VideoBundle), strict=False):
        try:
            manifest = kind.load(folder).manifest  # type: ignore[attr-defined]
        except BundleError as error:
            problems.append(str(error))
            continue
        lines.append(f"{folder}: {manifest.identity}, every file as its manifest says")
        if folder == TEXT_BUNDLE:
            problems += _check_data(manifest)
    problems += _check_outs([*map(str, folders), str(DATA)])
    if problems:
        raise LockError("\n".join(problems))
    return [*lines, f"{DATA}: what the model was trained on", "what is on disk is what dvc.lock names"]


def _check_data(manifest: BaseManifest) -> list[str]:
    files = [DATA / f"{split}.parquet" for split in SPLITS]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        return [f"{', '.join(missing)}: missing. Fetch with dvc pull {DATA}."]
    if hash_files(*files) != manifest.data_hash:
        return [f"{TEXT_BUNDLE}: made from other data than {DATA} holds. Train again (dvc repro), and commit dvc.lock."]
    return []


def _check_outs(paths: list[str]) -> list[str]:
    """Ask DVC about outputs; what only depends on code and parameters is no part of a release."""
    done = run("dvc", "status", "--json", *paths)
    try:
        stages: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return [f"dvc status failed: {reason}"]
    problems = []
    for changes in stages.values():
        for change in changes if isinstance(changes, list) else []:
            outs = change.get("changed outs", {}) if isinstance(change, dict) else {}
            problems += [
                f"{path}: {state}, not what dvc.lock names. Fetch it (dvc pull), or commit dvc.lock."
                for path, state in outs.items()
                if path in paths
            ]
    return problems


def _read_outs(content: str) -> dict[str, str]:
    try:
        stages = YAML(typ="safe", pure=True).load(content)["stages"].values()
        outs = [out for stage in stages for out in stage.get("outs", [])]
        return {str(out["path"]): str(out["md5"]).removesuffix(".dir") for out in outs if "md5" in out}
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise LockError(f"dvc.lock: not one of DVC's ({error}). Restore it: git checkout dvc.lock.") from error

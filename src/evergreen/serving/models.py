"""The bundles that are served: a sealed copy, so that a half-written new one never reaches a worker."""

import shutil
import tempfile
import uuid
from pathlib import Path
from typing import IO, Any

from evergreen.bundle import MANIFEST, BaseManifest
from evergreen.files import claim
from evergreen.serving.schemas import ModelInfo
from evergreen.text.bundle import Bundle as TextBundle
from evergreen.video.bundle import Bundle as VideoBundle

VIDEO_LABELS = ["0", "1"]


class Models:
    """The bundles that a server has, and the copy of the text bundle that its workers load.

    Args:
        text: folder of the text bundle, where a new one is looked for as well.
        video: folder of the video bundle; it may be missing.
        state: folder for the copies; servers that share it each have a folder of their own in it.

    Raises:
        BundleError: when one is damaged.
    """

    def __init__(self, text: Path, video: Path, state: Path) -> None:
        self._source = text
        self._state, self._claim = _claim_folder(state)
        self.current = self._state / "current"
        self.video_folder = video if (video / MANIFEST).exists() else None
        self.video = _describe_video(VideoBundle.load(video)) if self.video_folder else None
        self.switch(self.copy_new())

    def copy_new(self) -> TextBundle:
        """Copy the text bundle that now lies in its folder; what is served stays as it is.

        Raises:
            BundleError: when it is damaged.
        """
        copy = Path(tempfile.mkdtemp(prefix="text-", dir=self._state))
        try:
            shutil.copytree(self._source, copy, dirs_exist_ok=True)
            return TextBundle.load(copy)  # the copy is what was verified
        except BaseException as error:
            shutil.rmtree(copy, ignore_errors=True)
            if isinstance(error, (OSError, shutil.Error)):
                TextBundle.load(self._source)  # says what is wrong with it, where that was the cause
            raise

    def switch(self, bundle: TextBundle) -> None:
        """Let `current` lead to a copy from now on, and remove the others."""
        link = self._state / "next"
        link.unlink(missing_ok=True)
        link.symlink_to(bundle.folder.name)
        link.replace(self.current)
        for copy in self._state.glob("text-*"):
            if copy.name != bundle.folder.name:
                shutil.rmtree(copy, ignore_errors=True)
        self.text = _describe_text(bundle, self._source)


def _claim_folder(parent: Path) -> tuple[Path, IO[str] | None]:
    """Make a folder that is this server's while it, or a fork of it, lives; remove those of servers that have gone."""
    parent.mkdir(parents=True, exist_ok=True)
    for lock in parent.glob("*.lock"):
        if stream := claim(lock):
            with stream:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
    folder = parent / uuid.uuid4().hex
    stream = claim(folder.with_suffix(".lock"))
    folder.mkdir()
    return folder, stream


def _describe_text(bundle: TextBundle, source: Path) -> ModelInfo:
    manifest = bundle.manifest
    return ModelInfo(
        **_describe(manifest),
        labels=manifest.labels,
        data_cutoff=manifest.data_cutoff,
        max_length=manifest.max_length,
        card=_read_card(source.parent / "card.md"),
    )


def _describe_video(bundle: VideoBundle) -> ModelInfo:
    card = _read_card(bundle.folder.parent / "video-card.md")
    return ModelInfo(**_describe(bundle.manifest), labels=VIDEO_LABELS, card=card)


def _describe(manifest: BaseManifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in ("name", "version", "run", "data_hash", "trained_at", "sha256")}


def _read_card(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None

"""Frames of a video, streamed: decoded with OpenCV, sampled, resized, in memory that does not grow with the video."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from evergreen.errors import EvergreenError
from evergreen.logs import get_logger, redact
from evergreen.params import ClipParams
from evergreen.video.context import Image

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what it says of a damaged file is said below, with the file
import cv2

log = get_logger(__name__)
Item = TypeVar("Item")
PREVIEW_WIDTH = 640


class VideoError(EvergreenError):
    """A video can't be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Frame:
    """One frame: its number and time in the file, and the picture, [height, width, channels]."""

    index: int
    seconds: float
    image: Image
    preview: Image | None = None
    """The picture to show, [height, width, 3] in RGB, sizes even, at most `PREVIEW_WIDTH` wide."""


class Clip:
    """A video file, a stream's address or a camera's number, opened once, that gave a first frame.

    Args:
        preview: whether frames hold a picture to show beside the resized one.

    Raises:
        VideoError: when nothing can be decoded: no such file, no video in it, not a video at all.
    """

    def __init__(self, source: str | Path, params: ClipParams, preview: bool = False) -> None:
        self.source = str(source)
        self.name = redact(self.source)
        """For messages, without a stream's password."""
        self.live = "://" in self.source or (self.source.isdigit() and not Path(self.source).exists())
        self._params, self._preview = params, preview
        if not self.live and not Path(self.source).is_file():
            raise VideoError(f"{self.name}: no such file. Correct the path.")
        self._capture: Any = self._open()
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS)) or 25.0
        self.frame_count = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        """As the file says; 0 where it doesn't, and sometimes wrong."""
        decoded, image = self._capture.retrieve() if self._capture.grab() else (False, np.empty((0, 0)))
        if not decoded:
            raise VideoError(f"{self.name}: no frame can be decoded. Check that it plays, or encode it again.")
        self.height: int = image.shape[0]
        self.width: int = image.shape[1]

    def _open(self) -> Any:
        if self.live and self.source.isdigit():
            capture = cv2.VideoCapture(int(self.source))
        else:
            capture = cv2.VideoCapture(self.source, cv2.CAP_FFMPEG)
        if not capture.isOpened() and self.live:
            raise VideoError(f"{self.name}: can't be opened. Check the address, the network, and that it is free.")
        if not capture.isOpened():
            raise VideoError(f"{self.name}: not a video that OpenCV decodes. Encode it as H.264 in .mp4, say.")
        return capture

    def frames(self) -> Iterator[Frame]:
        """Stream the frames at the sampling rate of the parameters, resized, gray or color.

        A file that ends before it should is read as far as it goes, with a warning that says where it stopped. A
        file can be read again; a stream or camera can not.
        """
        # The first frame was grabbed to see whether there is one.
        capture, self._capture = self._capture or self._reopen(), None
        step = 1 / self._params.fps if self._params.fps else 0.0
        due, index, seconds = 0.0, 0, 0.0
        try:
            while index == 0 or capture.grab():
                seconds = self._read_time(capture, index, seconds)
                # Half a frame's time of tolerance, since time stamps are rounded.
                if seconds >= due - 0.5 / self.fps:
                    decoded, image = capture.retrieve()
                    if not decoded:
                        break
                    due = max(due + step, seconds - step)
                    yield Frame(index, seconds, self._convert(image), make_preview(image) if self._preview else None)
                index += 1
        finally:
            capture.release()
        if index < self.frame_count - 1:
            log.warning(
                "video ends early",
                file=self.name,
                frames_read=index,
                frames_expected=self.frame_count,
                stopped_at_seconds=round(seconds, 2),
            )

    def _reopen(self) -> Any:
        if self.live:
            raise VideoError(f"{self.name}: a stream can be read once. Open it again.")
        capture = self._open()
        capture.grab()
        return capture

    def _read_time(self, capture: Any, index: int, last: float) -> float:
        # Variable frame rates need the file's own time stamps; where they are missing or run back, the rate has to do.
        seconds = float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        return seconds if seconds > last or index == 0 else last + 1 / self.fps

    def _convert(self, image: Image) -> Image:
        params = self._params
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        if image.shape[:2] != (params.height, params.width):
            image = cv2.resize(image, (params.width, params.height), interpolation=cv2.INTER_AREA)
        code = cv2.COLOR_BGR2RGB if params.color else cv2.COLOR_BGR2GRAY
        converted: Image = cv2.cvtColor(image, code)
        return converted if params.color else converted[..., None]


def make_preview(image: Image) -> Image:
    """Scale a decoded picture to what is shown of it; see `Frame.preview`."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    scale = min(1.0, PREVIEW_WIDTH / image.shape[1])
    height, width = (max(2, 2 * round(size * scale / 2)) for size in image.shape[:2])
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    preview: Image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return preview


def slide(items: Iterable[Item], length: int, stride: int) -> Iterator[list[Item]]:
    """Windows of `length` items, `stride` apart; a last, shorter step keeps the end, and few items make one window."""
    window: deque[Item] = deque(maxlen=length)
    since = 0
    number = 0
    for number, item in enumerate(items, 1):
        window.append(item)
        since += 1
        if number >= length and (since >= stride or number == length):
            yield list(window)
            since = 0
    if number and (since or number < length):
        yield list(window)

"""Frames of a video, streamed: decoded with OpenCV, sampled, resized, in memory that does not grow with the video."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evergreen.errors import EvergreenError
from evergreen.logs import get_logger
from evergreen.params import ClipParams

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what it says of a damaged file is said below, with the file
import cv2

log = get_logger(__name__)
Image = NDArray[np.uint8]
Item = TypeVar("Item")


class VideoError(EvergreenError):
    """A video can't be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Frame:
    """One frame: its number and time in the file, and the picture, [height, width, channels]."""

    index: int
    seconds: float
    image: Image


class Clip:
    """A video file, or a camera's or stream's address, that was opened once and gave a first frame.

    Raises:
        VideoError: when nothing can be decoded: no such file, no video in it, not a video at all.
    """

    def __init__(self, source: str | Path, params: ClipParams) -> None:
        self.source = str(source)
        self._params = params
        if "://" not in self.source and not Path(self.source).is_file():
            raise VideoError(f"{self.source}: no such file. Correct the path.")
        capture = self._open()
        self.fps = float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
        self.frame_count = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        """As the file says; 0 where it doesn't, and sometimes wrong."""
        decoded, image = capture.read()
        capture.release()
        if not decoded:
            raise VideoError(f"{self.source}: no frame can be decoded. Check that it plays, or encode it again.")
        self.height, self.width = image.shape[:2]

    def _open(self) -> Any:
        capture = cv2.VideoCapture(self.source, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise VideoError(f"{self.source}: not a video that OpenCV decodes. Encode it as H.264 in .mp4, say.")
        return capture

    def frames(self) -> Iterator[Frame]:
        """Stream the frames at the sampling rate of the parameters, resized, gray or color.

        A file that ends before it should is read as far as it goes, with a warning that says where it stopped.
        """
        capture = self._open()
        step = 1 / self._params.fps if self._params.fps else 0.0
        due, index, seconds = 0.0, 0, 0.0
        try:
            while capture.grab():
                seconds = self._read_time(capture, index, seconds)
                # Half a frame's time of tolerance, since time stamps are rounded.
                if seconds >= due - 0.5 / self.fps:
                    decoded, image = capture.retrieve()
                    if not decoded:
                        break
                    due = max(due + step, seconds - step)
                    yield Frame(index, seconds, self._convert(image))
                index += 1
        finally:
            capture.release()
        if index < self.frame_count - 1:
            log.warning(
                "video ends early",
                file=self.source,
                frames_read=index,
                frames_expected=self.frame_count,
                stopped_at_seconds=round(seconds, 2),
            )

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


def slide(items: Iterable[Item], length: int, stride: int) -> Iterator[list[Item]]:
    """Windows of `length` items, `stride` apart; a last, shorter step keeps the end, and one item makes a window."""
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

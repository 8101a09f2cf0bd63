"""From pictures to what the diffusion model sees: a frame beside its clean predecessors, in [-1, 1]."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def stack_context(images: Iterable[Image], context: list[int], cut_threshold: float | None) -> Iterator[Image]:
    """Put each frame's predecessors before it as channels, as the frames come.

    Args:
        images: each [height, width, channels].
        context: offsets, all negative; before the first frame of a shot stands that frame itself.
        cut_threshold: mean change of gray, of 255, that begins a new shot; None: never.

    Yields:
        [height, width, channels · (len(context) + 1)], the newest frame last.
    """
    recent: deque[Image] = deque(maxlen=1 - min(context, default=0))
    for image in images:
        if recent and cut_threshold is not None and measure_change(recent[-1], image) >= cut_threshold:
            recent.clear()
        recent.append(image)
        newest = len(recent) - 1
        yield np.concatenate([recent[max(newest + offset, 0)] for offset in [*context, 0]], axis=-1)


def measure_change(before: Image, after: Image) -> float:
    """Mean absolute difference of the gray of two frames, 0 to 255."""
    gray = (image.mean(-1, dtype=np.float32) for image in (before, after))
    return float(np.abs(np.subtract(*gray)).mean())


def to_model(images: Image) -> NDArray[np.float32]:
    """Scale pictures, [..., height, width, channels], to [-1, 1] with channels before height."""
    return np.moveaxis(images.astype(np.float32) / 127.5 - 1, -1, -3)

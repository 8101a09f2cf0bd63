"""From pictures to what the diffusion model sees: a frame beside its clean predecessors, in [-1, 1]."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def stack_context(
    images: Iterable[Image], context: list[int], cut_threshold: float | None, stream: bool = False
) -> Iterator[Image]:
    """Put each frame's predecessors before it as channels, as the frames come.

    A shot's first frames have too few of them: their successors stand in, as if the shot ran backwards. Beside
    themselves they would be restored all too well.

    Args:
        images: each [height, width, channels].
        context: offsets, all negative.
        cut_threshold: mean change of gray, of 255, that begins a new shot; None: never.
        stream: do not wait for successors; before the first frame of a shot stands that frame itself.

    Yields:
        [height, width, channels · (len(context) + 1)], the newest frame last.
    """
    lead = -min(context, default=0)
    waiting = 0 if stream else 2 * lead
    recent: deque[Image] = deque(maxlen=max(lead + 1, waiting))
    count = 0  # frames of this shot
    for image in images:
        if recent and cut_threshold is not None and measure_change(recent[-1], image) >= cut_threshold:
            if count < waiting:
                yield from _stack_opening(recent, context)
            recent.clear()
            count = 0
        recent.append(image)
        count += 1
        if count > waiting:
            yield _stack(recent, [max(len(recent) - 1 + offset, 0) for offset in [*context, 0]])
        elif count == waiting:
            yield from _stack_opening(recent, context)
    if count < waiting:
        yield from _stack_opening(recent, context)


def _stack_opening(shot: Sequence[Image], context: list[int]) -> Iterator[Image]:
    lead, last = -min(context), len(shot) - 1
    for number in range(len(shot)):
        sign = 1 if number >= lead else -1
        yield _stack(shot, [*(min(number + sign * offset, last) for offset in context), number])


def _stack(shot: Sequence[Image], numbers: list[int]) -> Image:
    return np.concatenate([shot[number] for number in numbers], axis=-1)


def measure_change(before: Image, after: Image) -> float:
    """Mean absolute difference of the gray of two frames, 0 to 255."""
    gray = (image.mean(-1, dtype=np.float32) for image in (before, after))
    return float(np.abs(np.subtract(*gray)).mean())


def to_model(images: Image) -> NDArray[np.float32]:
    """Scale pictures, [..., height, width, channels], to [-1, 1] with channels before height."""
    return np.moveaxis(images.astype(np.float32) / 127.5 - 1, -1, -3)

"""Anomalies made from normal footage, for videos that nobody labeled: what is changed, where and when is known."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def synthesize(images: Images, kind: str, seed: int) -> tuple[Images, Mask]:
    """Put one anomaly into a part of a clip.

    Args:
        images: [frames, height, width, channels].
        kind: a key of `KINDS`.

    Returns:
        The changed clip, of the same shape, and which frames differ, [frames]: a still scene cannot be frozen.
    """
    rng = np.random.default_rng(seed)
    shortest = max(len(images) // 4, 1)
    length = int(rng.integers(shortest, max(len(images) // 2, shortest) + 1))
    start = int(rng.integers(1, len(images) - length + 1)) if len(images) > length else 0
    changed = images.copy()
    changed[start : start + length] = KINDS[kind](images, slice(start, start + length), rng)
    return changed, (changed != images).any((1, 2, 3))


def _draw_box(images: Images, rng: np.random.Generator, center: tuple[int, int] | None = None) -> tuple[slice, slice]:
    """A part of the picture, a sixth to a third of its height and width, anywhere or around a pixel."""
    bounds = []
    for axis, size in enumerate(images.shape[1:3]):
        edge = int(rng.integers(max(size // 6, 1), size // 3 + 2))
        start = int(rng.integers(0, size - edge + 1))
        if center is not None:
            start = min(max(center[axis] - edge // 2, 0), size - edge)
        bounds.append(slice(start, start + edge))
    return bounds[0], bounds[1]


def _paste_patch(images: Images, part: slice, rng: np.random.Generator) -> Images:
    """A foreign object drifts through the picture: a turned piece of another place, in other brightness."""
    changed = images[part].copy()
    rows, columns = _draw_box(images, rng)
    patch = images[int(rng.integers(len(images))), rows, columns]
    patch = np.rot90(patch, 2) if rng.random() < 0.5 else 255 - patch
    height, width = patch.shape[:2]
    tops, lefts = (
        np.linspace(int(rng.integers(room)), int(rng.integers(room)), len(changed)).astype(int)
        for room in (images.shape[1] - height + 1, images.shape[2] - width + 1)
    )
    for image, top, left in zip(changed, tops, lefts, strict=True):
        image[top : top + height, left : left + width] = patch
    return changed


def _skip_frames(images: Images, part: slice, rng: np.random.Generator) -> Images:
    """Everything moves several times as fast."""
    numbers = part.start + np.arange(part.stop - part.start) * int(rng.integers(3, 6))
    last = len(images) - 1
    return images[last - np.abs(last - numbers % (2 * last))] if last else images[part]


def _shuffle_frames(images: Images, part: slice, rng: np.random.Generator) -> Images:
    """The frames stand in no order."""
    frames = images[part]
    order = rng.permutation(len(frames))
    return frames[::-1] if (order == np.arange(len(frames))).all() else frames[order]


def _warp_region(images: Images, part: slice, rng: np.random.Generator) -> Images:
    """A region is bent by a wave that runs through it."""
    changed = images[part].copy()
    rows, columns = _draw_box(images, rng)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for number, image in enumerate(changed):
        shift = 0.15 * height * np.sin(2 * np.pi * (x / width + number / 8))
        region = np.ascontiguousarray(image[rows, columns])
        bent = cv2.remap(region, x, (y + shift).astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        image[rows, columns] = bent.reshape(region.shape)
    return changed


def _freeze_region(images: Images, part: slice, rng: np.random.Generator) -> Images:
    """The region that moves most stands still while the rest moves."""
    changed = images[part].copy()
    still = images[max(part.start - 1, 0)]
    motion = np.abs(changed.astype(np.int16) - still).mean((0, -1))
    row, column = np.unravel_index(motion.argmax(), motion.shape)
    rows, columns = _draw_box(images, rng, (int(row), int(column)))
    changed[:, rows, columns] = still[rows, columns]
    return changed


KINDS: dict[str, Callable[[Images, slice, np.random.Generator], Images]] = {
    "patch": _paste_patch,
    "skip": _skip_frames,
    "shuffle": _shuffle_frames,
    "warp": _warp_region,
    "freeze": _freeze_region,
}

"""Sequences: the pieces of videos that the models are trained, chosen and tested on, with their labels."""

import zlib
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise, tee
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evergreen.logs import get_logger
from evergreen.params import AnomalyKind, ClipParams, VideoParams
from evergreen.sources import resolve
from evergreen.video.clips import Clip, VideoError
from evergreen.video.context import Image, stack_context
from evergreen.video.labels import LabeledClip, find_clips
from evergreen.video.synthesis import synthesize

log = get_logger(__name__)
Split = Literal["normal", "train", "validation", "test"]
"""`normal` is for the diffusion model alone."""
MIN_FRAMES = 4
LONGEST = 1000
"""Frames of a labeled clip that are scored at a time; a longer one is scored in pieces."""


@dataclass(frozen=True)
class Part:
    """Frames of a clip, from `start` to before `stop`, counted as sampled, that belong to one split."""

    clip: LabeledClip
    split: Split
    start: int
    stop: int


@dataclass(frozen=True)
class Sequence:
    """Consecutive frames of a clip, and which of them are anomalous.

    Attributes:
        group: what is scored as one clip: the sequence itself, or the labeled clip that it is a part of.
        kind: `normal`, `labeled`, or the kind of the synthesized anomaly.
        lead: predecessors that are context only, [lead, height, width, channels].
        images: [frames, height, width, channels].
        mask: [frames].
    """

    name: str
    group: str
    split: Split
    kind: str
    fps: float
    lead: NDArray[np.uint8]
    images: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def plan_parts(params: VideoParams, clips: ClipParams) -> list[Part]:
    """Divide the videos: clips without labels by time, labeled ones whole.

    Raises:
        VideoError: when there is too little to divide.
    """
    source = resolve(params.source)
    labeled = find_clips(source, None if params.labels is None else resolve(params.labels))
    lengths = {clip.path: sum(1 for _ in Clip(clip.path, clips).frames()) for clip in labeled}
    if labeled[0].ranges is None:
        return [part for clip in labeled for part in _divide(clip, lengths[clip.path], params)]
    splits = _assign_splits(labeled, params)
    return [Part(clip, splits[clip.path], 0, lengths[clip.path]) for clip in labeled]


def _divide(clip: LabeledClip, length: int, params: VideoParams) -> list[Part]:
    fractions = (0, params.normal_fraction, 1 - params.validation_size - params.test_size, 1 - params.test_size, 1)
    edges = [round(fraction * length) for fraction in fractions]
    splits: tuple[Split, ...] = ("normal", "train", "validation", "test")
    parts = [Part(clip, split, *edge) for split, edge in zip(splits, pairwise(edges), strict=True)]
    if short := [part for part in parts if part.stop - part.start < MIN_FRAMES]:
        raise VideoError(
            f"{clip.path}: {length} frames at this rate leave {short[0].stop - short[0].start} for {short[0].split}, "
            f"fewer than {MIN_FRAMES}. Raise clips.fps, change the fractions under video, or name a longer video."
        )
    return parts


def _assign_splits(clips: list[LabeledClip], params: VideoParams) -> dict[Path, Split]:
    """By the hash of their names, clips with and without anomalies each divided for themselves."""
    splits: dict[Path, Split] = {}
    for anomalous in (True, False):
        group = [clip.path for clip in clips if bool(clip.ranges) == anomalous]
        group.sort(key=lambda path: zlib.crc32(path.name.encode()))
        sizes = [max(1, round(size * len(group))) for size in (params.test_size, params.validation_size)]
        if group and len(group) <= sum(sizes):
            kind = "with" if anomalous else "without"
            log.warning("few clips to divide", clips=len(group), kind=f"{kind} anomalies", needed=sum(sizes) + 1)
        for position, path in enumerate(group):
            in_test, in_validation = position < sizes[0], position < sum(sizes)
            splits[path] = "test" if in_test else "validation" if in_validation else "train"
    if missing := {"train", "validation", "test"} - set(splits.values()):
        raise VideoError(f"{len(clips)} labeled clips leave none for {sorted(missing)}. Name at least three.")
    return splits


def read_normal_frames(
    parts: list[Part], params: VideoParams, clips: ClipParams, context: list[int]
) -> NDArray[np.uint8]:
    """Frames that the diffusion model learns from, with their context, [frames, height, width, channels].

    Of labeled clips these are the normal frames at the start of each training clip.

    Raises:
        VideoError: when there is none.
    """
    spans = [_find_normal_span(part, params) for part in parts]
    spans = [span for span in spans if span.stop > span.start]
    total = sum(span.stop - span.start for span in spans)
    step = max(1, -(-total // params.max_normal_frames))
    frames = [frame for span in spans for frame in _read_normal(span, step, clips, context)]
    if not frames:
        raise VideoError(f"{params.source}: no normal frame to learn from. Add normal footage, or correct the labels.")
    return np.stack(frames)


def _find_normal_span(part: Part, params: VideoParams) -> Part:
    if part.split == "train" and part.clip.ranges is not None:
        return replace(part, stop=part.start + round(params.normal_fraction * (part.stop - part.start)))
    return part if part.split == "normal" else replace(part, stop=part.start)


def _read_normal(span: Part, step: int, clips: ClipParams, context: list[int]) -> Iterator[Image]:
    read, to_stack = tee(islice(Clip(span.clip.path, clips).frames(), span.stop))
    stacked_frames = stack_context((frame.image for frame in to_stack), context, clips.cut_threshold)
    for number, (frame, stacked) in enumerate(zip(read, stacked_frames, strict=True)):
        normal = span.clip.ranges is None or not span.clip.mask(np.array([frame.index]))[0]
        if number >= span.start and normal and number % step == 0:
            yield stacked


def read_sequences(
    parts: list[Part], params: VideoParams, clips: ClipParams, context: list[int], splits: Collection[Split]
) -> Iterator[Sequence]:
    """Stream the sequences of some splits; after a normal one come those that are synthesized from it."""
    lead = -min(context, default=0)
    for split in splits:
        chosen = [part for part in parts if part.split == split]
        count = sum(_count_pieces(part, params) for part in chosen)
        kinds = params.test_kinds if split == "test" else params.train_kinds
        pieces = (piece for part in chosen for piece in _read_pieces(part, params, clips, lead))
        for position, piece in enumerate(pieces):
            yield piece
            if piece.kind == "normal" and (piece.group == piece.name or split == "train"):
                # As many from each piece as spread the whole number evenly.
                first, last = (end * params.synthetic_sequences // count for end in (position, position + 1))
                for number in range(first, last):
                    yield from _make_anomaly(piece, kinds, number)


def count_sequences(parts: list[Part], params: VideoParams, splits: Collection[Split]) -> int:
    """How many sequences `read_sequences` gives at most."""
    parts = [part for part in parts if part.split in splits]
    synthesized = {part.split for part in parts if part.clip.ranges is None or part.split == "train"}
    return sum(_count_pieces(part, params) for part in parts) + len(synthesized) * params.synthetic_sequences


def _count_pieces(part: Part, params: VideoParams) -> int:
    whole = part.clip.ranges is not None and part.split != "train"
    return max(1, round((part.stop - part.start) / (LONGEST if whole else params.sequence_frames)))


def _read_pieces(part: Part, params: VideoParams, clips: ClipParams, lead: int) -> Iterator[Sequence]:
    clip = Clip(part.clip.path, clips)
    edges = np.linspace(part.start, part.stop, _count_pieces(part, params) + 1).round().astype(int)
    frames = islice(clip.frames(), int(edges[0]) - min(int(edges[0]), lead), part.stop)
    before: deque[Image] = deque((frame.image for frame in islice(frames, min(int(edges[0]), lead))), maxlen=lead)
    fps = min(clips.fps or clip.fps, clip.fps)
    for start, stop in pairwise(edges.tolist()):
        piece = list(islice(frames, stop - start))
        images = np.stack([frame.image for frame in piece])
        labeled = part.clip.ranges is not None
        mask = part.clip.mask(np.array([f.index for f in piece])) if labeled else np.zeros(len(piece), bool)
        name = f"{part.clip.path.name} {piece[0].index}-{piece[-1].index}"
        leading = np.stack(list(before)) if before else images[:0]
        yield Sequence(
            name=name,
            group=part.clip.path.name if labeled else name,
            split=part.split,
            kind="labeled" if mask.any() else "normal",
            fps=fps,
            lead=leading,
            images=images,
            mask=mask,
        )
        before.extend(frame.image for frame in piece)


def _make_anomaly(piece: Sequence, kinds: list[AnomalyKind], number: int) -> Iterator[Sequence]:
    # A kind may change nothing (a still scene can't be frozen): then the next one is tried.
    for attempt in range(len(kinds)):
        kind = kinds[(number + attempt) % len(kinds)]
        images, mask = synthesize(piece.images, kind, zlib.crc32(f"{piece.name} {number}".encode()))
        if mask.any():
            name = f"{piece.name} {kind} {number}"
            yield replace(piece, name=name, group=name, kind=kind, images=images, mask=mask)
            return
    log.warning("no anomaly can be made from these frames", sequence=piece.name, kinds=kinds)

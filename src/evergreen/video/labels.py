"""Which frames of which clips are anomalies: from frame ranges, from two folders, or not known."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evergreen.video.clips import VideoError

COLUMNS = ("clip", "first_frame", "last_frame")
SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}


@dataclass(frozen=True)
class LabeledClip:
    """A video file, and its anomalous frames as ranges, zero-based, both ends included; None where nobody said."""

    path: Path
    ranges: tuple[tuple[int, int], ...] | None

    def mask(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of these frames is anomalous.

        Raises:
            VideoError: when the clip is not labeled.
        """
        if self.ranges is None:
            raise VideoError(f"{self.path}: has no labels. Name a labels.csv, or sort clips into folders 0 and 1.")
        anomalous = np.zeros(len(indices), bool)
        for first, last in self.ranges:
            anomalous |= (indices >= first) & (indices <= last)
        return anomalous


def find_clips(source: Path, labels: Path | None = None) -> list[LabeledClip]:
    """List the clips of a file or folder with their labels, in the order of their names.

    Args:
        source: a video file; or a folder of them; or one with folders `0` (normal) and `1` (anomalous).
        labels: a CSV of `clip` (a file's name without its suffix), `first_frame` and `last_frame`. A clip that it
            does not name is normal.

    Raises:
        VideoError: when there is no video, or the labels don't fit the clips.
    """
    if source.is_file():
        paths = [source]
    else:
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise VideoError(f"{source}: no video in it. Name a file, or a folder of {', '.join(sorted(SUFFIXES))}.")
    if labels is not None:
        return _match_ranges(paths, labels)
    folders = {path.relative_to(source).parts[0] for path in paths} if source.is_dir() else set()
    if folders == {"0", "1"}:
        whole = ((0, np.iinfo(np.int64).max),)
        return [LabeledClip(path, whole if path.relative_to(source).parts[0] == "1" else ()) for path in paths]
    return [LabeledClip(path, None) for path in paths]


def _match_ranges(paths: list[Path], labels: Path) -> list[LabeledClip]:
    ranges: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    names = {path.stem for path in paths}
    for line, clip, first, last in _read_ranges(labels):
        if clip not in names:
            raise VideoError(f"{labels}, line {line}: no clip {clip!r} among {sorted(names)}. Correct the name.")
        if not 0 <= first <= last:
            raise VideoError(f"{labels}, line {line}: frames {first} to {last}. Write 0 or more, the first one first.")
        ranges[clip].append((first, last))
    return [LabeledClip(path, tuple(ranges[path.stem])) for path in paths]


def _read_ranges(labels: Path) -> Iterator[tuple[int, str, int, int]]:
    try:
        with labels.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := sorted(set(COLUMNS) - set(reader.fieldnames or [])):
                raise VideoError(f"{labels}: no column {missing}. Write the columns {', '.join(COLUMNS)}.")
            for row in reader:
                try:
                    yield reader.line_num, row["clip"], int(row["first_frame"]), int(row["last_frame"])
                except (TypeError, ValueError) as error:
                    raise VideoError(f"{labels}, line {reader.line_num}: {error}. Write whole numbers.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(f"{labels}: can't be read ({error}). Name a CSV file in UTF-8.") from error

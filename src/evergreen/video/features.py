"""Error maps on disk: appended as they come, chunked and compressed, read in slices; never whole in memory."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from evergreen.video.clips import VideoError
from evergreen.video.reconstruction import Reconstructor
from evergreen.video.sequences import Sequence

CHUNK = 8
"""Frames that are compressed together, and read at a time."""


@dataclass(frozen=True)
class FeatureStats:
    """How much was written."""

    n_sequences: int
    n_frames: int
    n_anomalous: int


def write_features(sequences: Iterable[Sequence], reconstructor: Reconstructor, path: Path) -> FeatureStats:
    """Write the error maps of sequences, each [frames, timesteps, height, width], as float16 with their labels.

    Nothing is left under the file's name unless all is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    n_sequences = n_frames = n_anomalous = 0
    with h5py.File(partial, "w", libver="latest") as file:
        for sequence in sequences:
            group = file.create_group(f"{n_sequences:06d}")
            group.attrs.update(
                {"name": sequence.name, "group": sequence.group, "split": sequence.split, "kind": sequence.kind}
            )
            group.create_dataset("mask", data=sequence.mask)
            _write_errors(group, sequence, reconstructor)
            n_sequences += 1
            n_frames += len(sequence.mask)
            n_anomalous += int(sequence.mask.sum())
    partial.replace(path)
    return FeatureStats(n_sequences, n_frames, n_anomalous)


def _write_errors(group: Any, sequence: Sequence, reconstructor: Reconstructor) -> None:
    errors = None
    images = np.concatenate([sequence.lead, sequence.images])
    for number, error in enumerate(reconstructor(images), -len(sequence.lead)):
        if errors is None:
            shape = (len(sequence.mask), *error.shape)
            chunks = (min(CHUNK, shape[0]), *error.shape)
            errors = group.create_dataset("errors", shape, np.float16, chunks=chunks, compression="lzf", shuffle=True)
        if number >= 0:
            errors[number] = error


@dataclass(frozen=True)
class FeatureSequence:
    """A sequence whose error maps stay on disk until they are read."""

    name: str
    group: str
    split: str
    kind: str
    mask: NDArray[np.bool_]
    _errors: Any

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Error maps, [at most `CHUNK` frames, timesteps, height, width], one part after the other."""
        for start in range(0, len(self.mask), CHUNK):
            yield self._errors[start : start + CHUNK].astype(np.float32)


def read_features(path: Path) -> Iterator[FeatureSequence]:
    """Stream the sequences of a file that `write_features` wrote.

    Raises:
        VideoError: when it is not such a file.
    """
    try:
        file = h5py.File(path)
    except OSError as error:
        raise VideoError(
            f"{path}: no file of error maps ({error}). Make it again: dvc repro video-features."
        ) from error
    with file:
        for group in file.values():
            name, shared, split, kind = (str(group.attrs[key]) for key in ("name", "group", "split", "kind"))
            yield FeatureSequence(name, shared, split, kind, group["mask"][:].astype(bool), group["errors"])

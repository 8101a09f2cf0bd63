"""Part files of a batch: each a chunk's rows, written whole or not at all, in a folder that belongs to one job."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from evergreen.errors import EvergreenError
from evergreen.files import claim, write_whole
from evergreen.settings import Settings
from evergreen.text.runtime import Prediction


class BatchError(EvergreenError):
    """A batch can't run or continue; what it has done so far stays."""


class BatchUsageError(BatchError):
    """A batch is refused before any work."""

    exit_code = 2


@dataclass(frozen=True)
class PartHeader:
    """First line of a part file.

    Attributes:
        first_row: number of the chunk's first row.
        rows: of the chunk.
        predicted: rows that have a prediction.
        computed: different texts among them.
        position: of the chunk's end in the input.
        rejects_bytes: length of the report of rejected rows, which comes next.
        output_bytes: length of the result's rows, which come last.
    """

    first_row: int
    rows: int
    predicted: int
    computed: int
    position: int
    rejects_bytes: int
    output_bytes: int


@dataclass(frozen=True)
class PredictedChunk:
    """A chunk's part, not written yet; `numbers`, `texts` and `predictions` of its rows only where asked for."""

    number: int
    header: PartHeader
    rejects: bytes
    output: bytes
    numbers: list[int]
    texts: list[str]
    predictions: list[Prediction]


class Parts:
    """Part files of a job; they are numbered as the chunks, without a gap.

    Attributes:
        folder: where they are.
        count: how many there are.
        rows: of the input in them.
        predicted: rows of the result in them.
        computed: texts that were computed for them.
        position: in the input that they reach to.
        resumed_predicted: of `predicted`, by an earlier run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = self.rows = self.predicted = self.computed = self.position = 0
        while (file := self._get_file(self.count)).exists():
            with file.open("rb") as stream:
                self._count(PartHeader(**json.loads(stream.readline())))
        self.resumed_predicted = self.predicted

    def add(self, chunk: PredictedChunk) -> None:
        """Keep a chunk; once this returns, it survives any crash."""
        if chunk.number != self.count:
            raise ValueError(f"chunk {chunk.number} came in place of chunk {self.count}")
        header = json.dumps(asdict(chunk.header)).encode() + b"\n"
        write_whole(self._get_file(chunk.number), header, chunk.rejects, chunk.output)
        self._count(chunk.header)

    def read_outputs(self) -> Iterator[bytes]:
        """Read the result's rows, part by part."""
        for header, stream in self._open_all():
            stream.seek(header.rejects_bytes, os.SEEK_CUR)
            yield stream.read(header.output_bytes)

    def read_rejects(self) -> Iterator[bytes]:
        """Read the report of rejected rows, part by part."""
        for header, stream in self._open_all():
            yield stream.read(header.rejects_bytes)

    def _open_all(self) -> Iterator[tuple[PartHeader, BinaryIO]]:
        for number in range(self.count):
            with self._get_file(number).open("rb") as stream:
                yield PartHeader(**json.loads(stream.readline())), stream

    def _get_file(self, number: int) -> Path:
        return self.folder / f"{number:08d}.part"

    def _count(self, header: PartHeader) -> None:
        self.count += 1
        self.rows += header.rows
        self.predicted += header.predicted
        self.computed += header.computed
        self.position = header.position


def find_folder(target: str) -> Path:
    """Where the parts of a result are: beside it, or under the state folder for one in a bucket."""
    if "://" in target:
        name = hashlib.sha256(target.encode()).hexdigest()[:16]
        return Settings.load().state_dir.resolve() / "batch" / name
    path = Path(target).resolve()
    return path.with_name(f"{path.name}.batch")


@contextmanager
def lock(folder: Path, target: str) -> Iterator[None]:
    """Keep other processes from working on the same result."""
    file = folder.with_name(f"{folder.name}.lock")
    stream = claim(file)
    if stream is None:
        raise BatchError(f"{target}: another process is making it. Wait for it, or stop it.")
    with stream:
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def open_folder(folder: Path, job: dict[str, str], target: str, restart: bool) -> None:
    """Make a job's folder, or check that the one that is there belongs to the same job.

    Raises:
        BatchError: when it belongs to another, naming what differs.
    """
    remove_folder(folder, only_left=True)
    file = folder / "job.json"
    if restart or (folder.exists() and not file.exists()):
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        folder.mkdir()
        write_whole(file, json.dumps(job, indent=2).encode())
        return
    earlier = json.loads(file.read_bytes())
    if changed := [name for name in job if earlier.get(name) != job[name]]:
        raise BatchError(
            f"{folder}: holds the parts of an unfinished job for {target} with another {', '.join(changed)}. "
            "Resume that one as it was started, or start anew with --restart."
        )


def remove_folder(folder: Path, only_left: bool = False) -> None:
    """Remove the folder of a finished job; renamed first, so that half a folder is never taken for a job."""
    done = folder.with_name(f"{folder.name}.done")
    if not only_left:
        shutil.rmtree(done, ignore_errors=True)
        folder.rename(done)
    shutil.rmtree(done, ignore_errors=True)

"""Files that keep rows of the prediction log while its database can't be written.

Each process appends to a file of its own, locked while it lives; whoever gets the lock of another's may empty it.
A line holds what was submitted together, so it is there whole or, torn by a crash, not acknowledged.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from evergreen.files import sync_folder
from evergreen.logs import get_logger
from evergreen.monitoring.log import Feedback, LoggedPrediction, encode_line

log = get_logger(__name__)

Rows = tuple[Sequence[LoggedPrediction], Sequence[Feedback]]

_LINES_AT_A_TIME = 200


class Spool:
    """The spooled rows of a folder; used by one thread.

    Attributes:
        rows: how many this process has spooled and not moved yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self._path: Path | None = None
        self._file = -1
        self._size = 0  # of what is durable

    def append(self, groups: Sequence[Rows]) -> None:
        """Add rows, and return once they are durable.

        Raises:
            OSError: when they can't be; then none is kept.
            ValueError: when a value can't be written as JSON.
        """
        lines = b"".join(_encode(*rows) for rows in groups)
        if self._path is None or not self._path.exists():
            self._start_file()
        try:
            _write_all(self._file, lines)
            os.fsync(self._file)
        except OSError:
            self._cut_off()
            raise
        self._size += len(lines)
        self.rows += sum(map(_count, groups))

    def _start_file(self) -> None:
        self.release()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{time.time_ns():020}-{os.getpid()}.jsonl"
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        _sync_folder(self.folder)
        self._path, self._size = path, 0

    def _cut_off(self) -> None:
        """Undo a write that failed half-way; where even that fails, let the next start a new file."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self.release()

    def release(self) -> None:
        """Let go of the file that is written, so that it can be emptied."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._path = -1, None

    def drain(self, write: Callable[[Rows], None]) -> Iterator[int]:
        """Move rows, oldest file first, and remove each file that is done; yields after each few lines.

        Args:
            write: moves rows that were read together, and raises when it can't; then their file stays.

        Returns:
            How many rows were moved each time.
        """
        self.release()
        rows_before = self.rows
        for path in sorted(self.folder.glob("*.jsonl")):
            try:
                file = path.open("rb")
            except FileNotFoundError:  # another process was faster
                continue
            with file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # its process lives
                    continue
                if not path.exists():  # another process emptied it before we got the lock
                    continue
                while lines := list(islice(file, _LINES_AT_A_TIME)):
                    rows = self._read_lines(path, lines)
                    write(rows)
                    yield _count(rows)
                path.unlink()
                _sync_folder(self.folder)
        self.rows -= rows_before  # others may have come meanwhile

    def _read_lines(self, path: Path, lines: list[bytes]) -> Rows:
        predictions: list[LoggedPrediction] = []
        feedback: list[Feedback] = []
        for line in lines:
            try:
                values = json.loads(line)
                predictions += [LoggedPrediction.from_values(row) for row in values["predictions"]]
                feedback += [Feedback.from_values(row) for row in values["feedback"]]
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                if line.endswith(b"\n"):  # else torn by a crash, and nobody was told that it is kept
                    self.set_aside(line)
                    log.error("spooled row unreadable", file=str(path), problem=type(error).__name__)
        return predictions, feedback

    def set_aside(self, line: bytes) -> None:
        """Keep what can't be moved for a person to look at, out of the way of what can."""
        with (self.folder / "rejected.txt").open("ab") as file:
            file.write(line)

    def reject(self, rows: Rows, problem: str) -> None:
        """Set aside rows that the database refuses."""
        self.set_aside(_encode(*rows))
        log.error("spooled row refused", file=str(self.folder / "rejected.txt"), problem=problem)


def _encode(predictions: Sequence[LoggedPrediction], feedback: Sequence[Feedback]) -> bytes:
    return encode_line(
        {"predictions": [row.to_values() for row in predictions], "feedback": [row.to_values() for row in feedback]}
    )


def _count(rows: Rows) -> int:
    return len(rows[0]) + len(rows[1])


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system can
        sync_folder(folder)

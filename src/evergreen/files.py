"""Files that are there whole or not at all, after a loss of power as well, and files that one process has at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def write_whole(file: Path, *blocks: bytes) -> None:
    """Write a file under another name first, so that nobody ever sees half of it."""
    with open_whole(file) as stream:
        for block in blocks:
            stream.write(block)


@contextmanager
def open_whole(file: Path) -> Iterator[IO[bytes]]:
    """Open a file to write; it has its name once all of it is on disk, and an error leaves the one before."""
    partial = file.with_suffix(".partial")
    try:
        with partial.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        rename(partial, file)
    except BaseException:
        with suppress(OSError):
            partial.unlink()  # on a full disk others need the room
        raise


def rename(partial: Path, file: Path) -> None:
    """Put a complete file in its place."""
    partial.replace(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim(file: Path) -> IO[str] | None:
    """Lock a file for as long as the returned stream is open, here or in a fork; None where another process has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        stream = file.open("a")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            return None
        with suppress(FileNotFoundError):
            if file.stat().st_ino == os.fstat(stream.fileno()).st_ino:
                return stream
        stream.close()  # its last owner removed it meanwhile: what we locked is nobody's

"""Files that are there whole or not at all, after a loss of power as well."""

import os
from pathlib import Path


def write_whole(file: Path, *blocks: bytes) -> None:
    """Write a file under another name first, so that nobody ever sees half of it."""
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        for block in blocks:
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    rename(partial, file)


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

"""Recognize an error that a full disk caused, whatever library raised it, and name the disk."""

import errno
import io
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rich.filesize import decimal

_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MESSAGES = (
    os.strerror(errno.ENOSPC),  # safetensors, tokenizers and h5py put it in an error of their own
    os.strerror(errno.EDQUOT),
    "database or disk is full",  # SQLite
    "PytorchStreamWriter failed writing",  # torch.save says no more than this
    ". unexpected pos ",  # nor than this
)


def explain_full_disk(error: BaseException) -> str | None:
    """Say which disk is full and what to do, when that is what an error comes from; else None."""
    chain = list(_list_chain(error))
    if not any(_is_full(link) for link in chain):
        return None
    paths = dict.fromkeys(path for link in chain for path in _list_paths(link))
    spaces = [(free, str(path)) for path in [*paths, Path.cwd()] if (free := _measure_free(path)) is not None]
    free, path = min([*spaces, *_measure_output()], key=lambda space: space[0])
    return (
        f"{path}: can't be written, {decimal(free)} are free on its disk. Make room there (or raise the quota), then "
        "run the same command again; a training resumes from its last checkpoint."
    )


def _list_chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return any(message in str(error) for message in _MESSAGES)


def _list_paths(error: BaseException) -> Iterator[Path]:
    """Files that an error names, or that the functions it came through had in hand, the innermost function first.

    The operating system names no file when a write fails.
    """
    for name in (getattr(error, "filename2", None), getattr(error, "filename", None)):
        if isinstance(name, str):
            yield Path(name)
    frames = []
    trace = error.__traceback__
    while trace:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    for frame in reversed(frames):
        for value in list(frame.f_locals.values()):
            if isinstance(value, io.IOBase):
                value = getattr(value, "name", None)  # noqa: PLW2901 - a file stands for its name
            if isinstance(value, Path) or (isinstance(value, str) and "/" in value and len(value) < 4096):
                yield Path(value)


def _measure_free(path: Path) -> int | None:
    """Bytes free where a file is or would be; None where there is no such folder, or no disk behind it."""
    try:
        usage = shutil.disk_usage(path if path.exists() else path.parent)
    except (OSError, ValueError):
        return None
    return usage.free if usage.total else None


def _measure_output() -> Iterator[tuple[int, str]]:
    """Bytes free where standard output goes, when that is a file."""
    with suppress(OSError, ValueError):  # closed, or none of the operating system's
        number = sys.stdout.fileno()
        if stat.S_ISREG(os.fstat(number).st_mode):
            disk = os.fstatvfs(number)
            yield disk.f_bavail * disk.f_frsize, "standard output"

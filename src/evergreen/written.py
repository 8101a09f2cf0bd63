"""What one command left for the next: read it, or say which command makes it."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from evergreen.errors import EvergreenError
from evergreen.metrics import Metrics

_M = TypeVar("_M", bound=Metrics)


class WrittenFileError(EvergreenError):
    """A file is missing or damaged; the message names it and the command that makes it."""


def load_written(kind: type[_M], path: Path, command: str, error_kind: type[EvergreenError] = WrittenFileError) -> _M:
    """Read a file that a command wrote.

    Args:
        kind: what is in it.
        path: the file.
        command: that writes it.
        error_kind: to raise.

    Raises:
        WrittenFileError: or `error_kind`, when it is missing or something else.
    """
    try:
        return kind.load(path)
    except OSError as error:
        raise error_kind(f"{path}: missing. Make it: {command}.") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise error_kind(f"{path}: not what {command} writes. Make it again.") from error

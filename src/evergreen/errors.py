"""Errors that a person can fix, and the one place that turns them into a line on standard error and an exit code."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from evergreen.full_disk import explain_full_disk
from evergreen.logs import redact


class EvergreenError(Exception):
    """The user can fix this; the message says how."""

    exit_code = 1


def get_first_line(error: BaseException) -> str:
    """Shorten what a library says at length to its first line, or to the error's name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print what a person can fix as one message and exit with its code; let any other error keep its traceback."""
    try:
        yield
        sys.stdout.flush()  # here, where a full disk is still a message
    except Exception as error:
        # First, since it hides behind what a library, or we, make of it.
        if message := explain_full_disk(error):
            _exit(message, EvergreenError.exit_code)
        if isinstance(error, EvergreenError):
            _exit(str(error), error.exit_code)
        if isinstance(error, OSError) and error.filename is not None:  # a closed pipe, say, has none
            _exit(f"{error.filename}: {_explain(error)}", EvergreenError.exit_code)
        raise


def _explain(error: OSError) -> str:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    if isinstance(error, FileNotFoundError) and frame.f_globals["__name__"] == "subprocess":
        return "no such command. Install it, or activate the environment that has it."
    return f"{error.strerror}. Correct the path or the permissions."


def _exit(message: str, code: int) -> None:
    print(f"error: {redact(message)}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again as it ends, and exit with a code of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def redact_tracebacks() -> None:
    """Hide credentials in the traceback of an error that nobody catches."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        print(redact("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")

    sys.excepthook = show

"""DVC's commands, with what they complain of as one message."""

import subprocess

from evergreen.errors import EvergreenError


class DvcError(EvergreenError):
    """A command of DVC failed; the message says why, and what to do."""


def run_dvc(*arguments: str, remedy: str = "Run from the repository's root, with DVC set up.") -> None:
    """Run a command of DVC.

    Raises:
        DvcError: with the last line of what DVC says, and the remedy.
    """
    done = subprocess.run(["dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DvcError(f"dvc {arguments[0]} failed: {reason}. {remedy}")

"""The champion's weights for a warm start: a copy under DVC, since the stage train replaces its own output."""

import shutil
import subprocess
from pathlib import Path

from evergreen.errors import EvergreenError

WEIGHTS = Path("models/text-weights")
"""Of the stage train, which DVC empties before it runs."""
COPY = Path("models/champion-weights")
"""What `train.warm_start` names."""


class WarmStartError(EvergreenError):
    """The champion's weights can't be copied; the message says what to do."""


def copy_champion_weights() -> None:
    """Copy the weights of the commit that is checked out, whatever the stage has written since, and put them under DVC.

    Raises:
        WarmStartError: when neither DVC's cache nor its remote has them.
    """
    partial = COPY.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _run("dvc", "get", "--quiet", "--rev", "HEAD", ".", str(WEIGHTS), "--out", str(partial))
    shutil.rmtree(COPY, ignore_errors=True)
    partial.rename(COPY)
    _run("dvc", "add", "--quiet", str(COPY))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WarmStartError(
            f"train.warm_start: {COPY} can't be made of the champion's weights ({reason}). "
            f"Fetch them (dvc pull {WEIGHTS}), or set train.warm_start to null."
        )

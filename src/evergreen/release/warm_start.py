"""The champion's weights for a warm start: a copy under DVC, since the stage train replaces its own output."""

import shutil
from pathlib import Path

from evergreen.release.dvc import run_dvc

WEIGHTS = Path("models/text-weights")
"""Of the stage train, which DVC empties before it runs."""
COPY = Path("models/champion-weights")
"""What `train.warm_start` names."""
_REMEDY = f"For train.warm_start, fetch the champion's weights (dvc pull {WEIGHTS}), or set train.warm_start to null."


def copy_champion_weights() -> None:
    """Copy the weights of the commit that is checked out, whatever the stage has written since, and put them under DVC.

    Raises:
        DvcError: when neither DVC's cache nor its remote has them.
    """
    partial = COPY.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    run_dvc("get", "--quiet", "--rev", "HEAD", ".", str(WEIGHTS), "--out", str(partial), remedy=_REMEDY)
    shutil.rmtree(COPY, ignore_errors=True)
    partial.rename(COPY)
    run_dvc("add", "--quiet", str(COPY))

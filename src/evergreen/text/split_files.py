"""The prepared corpus on disk: one Parquet file for each split, and `stream`, what production will see later."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evergreen.errors import get_first_line
from evergreen.sources import SourceError

_REMEDY = "Make it again: dvc repro preprocess."


def read_split(folder: Path, name: str) -> pd.DataFrame:
    """Read a split that `prepare` wrote.

    Raises:
        SourceError: when its file is missing, cut off or damaged.
    """
    file = check_split(folder, name)
    try:
        return pd.read_parquet(file)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{file}: damaged ({get_first_line(error)}). {_REMEDY}") from error


def check_split(folder: Path, name: str) -> Path:
    """Return the file of a split, once its metadata, which are at its end, can be read.

    Raises:
        SourceError: when it is missing or cut off.
    """
    file = folder / f"{name}.parquet"
    try:
        pq.read_metadata(file)
    except FileNotFoundError as error:
        raise SourceError(f"{file}: missing. {_REMEDY}") from error
    except PermissionError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{file}: damaged ({get_first_line(error)}). {_REMEDY}") from error
    return file

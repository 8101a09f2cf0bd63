"""The labels of a prepared corpus, in their order: that of `data.labels`, or sorted where that is left out."""

import json
from collections.abc import Sequence
from pathlib import Path

from evergreen.errors import EvergreenError

_NAME = "labels.json"


def save_labels(labels: Sequence[str], folder: Path) -> None:
    """Write the labels beside the splits."""
    (folder / _NAME).write_text(json.dumps(list(labels), ensure_ascii=False) + "\n", encoding="utf-8")


def load_labels(folder: Path) -> list[str]:
    """Read the labels of a prepared corpus.

    Raises:
        EvergreenError: when `preprocess` did not write them, or not to their end.
    """
    file = folder / _NAME
    try:
        labels = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvergreenError(f"{file}: missing or damaged. Run: dvc repro preprocess") from error
    return [str(label) for label in labels]

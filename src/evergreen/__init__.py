"""Keeps models fresh: train, evaluate, ship and retrain through pull requests."""

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evergreen.text.bundle import Bundle
    from evergreen.text.runtime import Classifier, Prediction

__all__ = ["Bundle", "Classifier", "Prediction"]
__version__ = version("evergreen")

# Nothing leaves the machine unasked: libraries that report to their makers are set not to before they are imported.
for _name in (
    "DO_NOT_TRACK",
    "HF_HUB_DISABLE_TELEMETRY",
    "MLFLOW_DISABLE_TELEMETRY",
    "ORT_DISABLE_TELEMETRY",
):
    os.environ.setdefault(_name, "1")


def __getattr__(name: str) -> Any:
    # Imported when asked for: help and parameter checks need no ONNX Runtime.
    if name in ("Classifier", "Prediction"):
        from evergreen.text import runtime  # noqa: PLC0415

        return getattr(runtime, name)
    if name == "Bundle":
        from evergreen.text.bundle import Bundle  # noqa: PLC0415

        return Bundle
    raise AttributeError(f"module 'evergreen' has no attribute {name!r}")

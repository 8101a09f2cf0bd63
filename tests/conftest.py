"""What tests of every part share."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import structlog

CLEARED = [
    "AWS_ENDPOINT_URL",
    "EVERGREEN_LOG_LEVEL",
    "EVERGREEN_STATE_DIR",
    "EVERGREEN_TRACKING_TIMEOUT",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TRACKING_URI",
    *(name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (proxy, proxy.lower())),
]


@pytest.fixture
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder, without the variables that change what evergreen does; `.env` changes nothing later."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(os.environ):
        for name in CLEARED:
            os.environ.pop(name, None)
        yield


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo what a command or a stage configures for its whole process."""
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers = handlers
    root.setLevel(level)
    sys.excepthook = hook

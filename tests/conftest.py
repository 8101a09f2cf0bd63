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
    "DATABASE_URL",
    "EVERGREEN_ALERT_URLS",
    "EVERGREEN_CHECKPOINTS_URL",
    "EVERGREEN_LOG_LEVEL",
    "EVERGREEN_PULL_REQUESTS",
    "EVERGREEN_STATE_DIR",
    "EVERGREEN_TRACKING_TIMEOUT",
    "GITHUB_API_URL",
    "GITHUB_OUTPUT",
    "GITHUB_REPOSITORY",
    "GITHUB_RUN_ID",
    "GITHUB_SERVER_URL",
    "GITHUB_STEP_SUMMARY",
    "GITHUB_TOKEN",
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


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four seconds of a video, as a file."""
    from footage import draw_scene, write_video

    return write_video(tmp_path_factory.mktemp("scene") / "scene.mp4", draw_scene(240))


@pytest.fixture(scope="session")
def built(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the error maps, the diffusion model, and the bundle of a detector trained on the scene."""
    from footage import reduce_params

    from evergreen.video.build import make_detector
    from evergreen.video.extraction import make_features
    from evergreen.video.sequences import plan_parts

    folder = tmp_path_factory.mktemp("built")
    params = reduce_params(source=str(scene))
    parts = plan_parts(params.video, params.clips)
    maps, weights, reports = folder / "features.h5", folder / "diffusion", folder / "reports"
    features = make_features(params, parts, maps, weights, reports / "diffusion.csv", folder / "checkpoints")
    make_detector(params, parts, features.normal_frames, maps, weights, folder / "bundle", reports / "cnn_lstm.csv")
    return folder

"""A detector that is trained on a small video within seconds."""

from pathlib import Path

import pytest
from footage import draw_scene, reduce_params, write_video


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four seconds of the scene, as a file."""
    return write_video(tmp_path_factory.mktemp("scene") / "scene.mp4", draw_scene(240))


@pytest.fixture(scope="session")
def built(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the error maps, the diffusion model, and the bundle of a detector trained on the scene."""
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

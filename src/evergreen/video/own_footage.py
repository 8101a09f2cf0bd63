"""Both stages of the video pipeline in one, for footage that DVC does not know."""

from pathlib import Path

from evergreen.params import Params
from evergreen.video.build import evaluate_detector, make_detector
from evergreen.video.bundle import Bundle
from evergreen.video.detector import Detector
from evergreen.video.extraction import make_features
from evergreen.video.metrics import FeatureMetrics, VideoMetrics
from evergreen.video.sequences import plan_parts


def train_on_footage(params: Params, folder: Path) -> tuple[Bundle, FeatureMetrics, VideoMetrics]:
    """From videos to a measured bundle, in `folder`: what the stages video-features and cnn-lstm do one by one."""
    reports, maps, weights = folder / "reports", folder / "features.h5", folder / "diffusion"
    parts = plan_parts(params.video, params.clips)
    features = make_features(params, parts, maps, weights, reports / "diffusion.csv", folder / "checkpoints")
    bundle, training = make_detector(
        params, parts, features.normal_frames, maps, weights, folder / "bundle", reports / "cnn_lstm.csv"
    )
    metrics, _ = evaluate_detector(Detector(bundle), training, params, parts, reports)
    return bundle, features, metrics

"""What `metrics/video-training.json` and `metrics/video.json` hold."""

from evergreen.metrics import Estimate, Metrics


class FeatureMetrics(Metrics):
    """`metrics/video-features.json`."""

    train_runtime: float
    """Seconds that the diffusion model trained in this run."""
    features_runtime: float
    """Seconds that the error maps took."""
    normal_frames: int
    """That the diffusion model learned from."""
    diffusion_steps: int
    diffusion_loss: float | None
    """Mean of the last tenth of the steps; None without steps."""
    n_sequences: int
    n_frames: int
    n_anomalous: int
    """Frames of the sequences that the CNN+LSTM is trained and chosen on."""


class Parity(Metrics):
    """How far the bundle is from torch, and a window alone from the same one in a batch."""

    n_frames: int
    max_error_difference: float
    max_score_difference: float
    batch_max_score_difference: float


class Baseline(Metrics):
    """A score to beat."""

    frame_auc: Estimate
    clip_auc: Estimate | None


class DetectionScores(Metrics):
    """Of single frames, pooled over clips, and of clips; without a clip of each class the latter are None.

    AUC is of the ROC curve, AP average precision, EER the rate at which misses and false alarms are equally many, F1
    at the bundle's threshold.
    """

    frame_auc: Estimate
    frame_ap: Estimate
    frame_f1: Estimate
    frame_eer: Estimate
    clip_auc: Estimate | None
    clip_ap: Estimate | None
    clip_f1: Estimate | None
    clip_eer: Estimate | None


class DetectionCost(Metrics):
    """What an answer with all its evidence took for the first video of the test part, as a process of its own."""

    frames_per_second: float
    seconds_per_second: float
    """Of computing, per second of video."""
    peak_memory_mb: float


class VideoMetrics(DetectionScores):
    """`metrics/video.json`."""

    n_clips: int
    n_frames: int
    n_anomalous_frames: int
    confidence_level: float
    by_kind: dict[str, float]
    """Frame AUC of each kind of anomaly against all normal frames."""
    baselines: dict[str, Baseline]
    train_runtime: float
    """Seconds that the two CNN+LSTMs trained."""
    validation_loss: dict[str, float]
    """Before training, when it is the smoothed largest error, and of the kept step."""
    parity: Parity
    cost: DetectionCost
    size_mb: float

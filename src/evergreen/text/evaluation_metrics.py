"""What `metrics/text.json` holds."""

from pydantic import Field

from evergreen.metrics import Estimate, Metrics
from evergreen.text.metrics import Parity


class SliceScore(Estimate):
    """Accuracy on a part of the texts, and how many they are."""

    n_samples: int


class Scores(Metrics):
    """What models are compared by."""

    accuracy: Estimate
    macro_f1: Estimate


class ClassScores(Metrics):
    """Scores of one class; `support` counts its texts."""

    precision: float
    recall: float
    f1: float
    support: int


class Reliability(Metrics):
    """Expected calibration error, and per non-empty bin what it is made of, `accuracy` with its interval."""

    ece: float
    confidence: list[float]
    accuracy: list[float]
    low: list[float]
    high: list[float]
    n_samples: list[int]


class Calibration(Metrics):
    """Reliability before and after temperature scaling."""

    uncalibrated: Reliability
    calibrated: Reliability


class Slices(Metrics):
    """Accuracy by topic, by length in characters, and on topics that were not trained on."""

    topic: dict[str, SliceScore]
    length: dict[str, SliceScore]
    unseen_topic: dict[str, SliceScore]


class Latency(Metrics):
    """Times of the bundle on the machine that evaluated it."""

    p50_ms: float
    p99_ms: float
    samples_per_second: float


class Cost(Metrics):
    """Price and energy of the training and of a million predictions."""

    currency: str
    training_cost: float
    training_energy_wh: float
    inference_cost_per_million: float
    inference_energy_per_million_wh: float


class TextMetrics(Scores):
    """`metrics/text.json`."""

    n_samples: int
    confidence_level: float
    per_class: dict[str, ClassScores]
    confusion_matrix: list[list[int]]
    """Shape [actual label, predicted label]."""
    calibration: Calibration
    slices: Slices
    baselines: dict[str, Scores]
    unfitted_baselines: dict[str, str] = Field(default_factory=dict)
    """Baselines that could not be fitted on these texts, and why."""
    parity: Parity
    latency: Latency
    size_mb: float
    cost: Cost


_DISPLAY_NAMES = {
    "majority_class": "majority class",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
    "macro_f1": "macro-F1",
}


def display_name(key: str) -> str:
    """Name a key of the metrics for people, in plots and cards."""
    return _DISPLAY_NAMES.get(key, key.replace("_", " "))

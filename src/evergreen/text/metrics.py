"""What `metrics/data.json` and `metrics/training.json` hold."""

from evergreen.metrics import Metrics


class DataMetrics(Metrics):
    """`metrics/data.json`."""

    rows: int
    quarantined: int
    quarantine_reasons: dict[str, int]
    invalid_fraction: float
    simulated_times: int = 0
    """Texts whose time the corpus doesn't say, so that it was made up from `data.topics`."""
    near_empty: int
    duplicates: int
    label_conflicts: int
    splits: dict[str, int]
    classes: dict[str, dict[str, int]]
    topics: dict[str, dict[str, int]]


class Parity(Metrics):
    """How far the bundle is from the torch model, and its answers alone from those in batches."""

    n_samples: int
    label_parity: float
    """Fraction of texts with equal labels."""
    max_proba_difference: float
    mean_proba_difference: float
    torch_accuracy: float
    bundle_accuracy: float
    batch_label_parity: float
    batch_max_proba_difference: float


class ValidationScores(Metrics):
    """Scores of the kept checkpoint on validation."""

    accuracy: float
    macro_f1: float
    loss: float


class TrainingMetrics(Metrics):
    """`metrics/training.json`."""

    train_runtime: float
    """Seconds, evaluations on validation and all restarts of a resumed run included."""
    n_samples: int
    """Texts trained on, per epoch."""
    epoch: float
    """Of the kept checkpoint."""
    resumed_from_step: int
    temperature: float
    validation: ValidationScores
    parity: Parity
    size_mb: float
    """Of the bundle."""

"""What an evaluation leaves to look at: tables for `dvc plots`, pictures for people."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from evergreen.plots import plot_calibration, plot_comparison, plot_confusion_matrix, plot_training_curve
from evergreen.text.evaluation import Indices
from evergreen.text.evaluation_metrics import Scores, TextMetrics, display_name


def write_report(
    metrics: TextMetrics, labels_true: "pd.Series[str]", y_pred: Indices, labels: Sequence[str], folder: Path
) -> list[Path]:
    """Write tables and pictures into `folder`, beside the training's history there, and return the pictures."""
    predicted = [labels[i] for i in y_pred]
    pd.DataFrame({"actual": labels_true, "predicted": predicted}).to_csv(folder / "confusion_matrix.csv", index=False)
    calibration = metrics.calibration
    curve = calibration.calibrated.model_dump(exclude={"ece"})
    pd.DataFrame(curve).to_csv(folder / "calibration.csv", index=False)
    pictures = [folder / f"{name}.png" for name in ("confusion_matrix", "calibration", "comparison", "training")]
    plot_confusion_matrix(np.array(metrics.confusion_matrix), labels, pictures[0])
    curves = {"before temperature scaling": calibration.uncalibrated, "after": calibration.calibrated}
    plot_calibration(curves, metrics.confidence_level, pictures[1])
    models: dict[str, Scores] = {display_name(name): scores for name, scores in metrics.baselines.items()}
    models["this bundle"] = metrics
    compared = {
        name: {display_name(metric): getattr(scores, metric) for metric in Scores.model_fields}
        for name, scores in models.items()
    }
    plot_comparison(compared, metrics.n_samples, metrics.confidence_level, pictures[2])
    plot_training_curve(pd.read_csv(folder / "training.csv"), pictures[3])
    return pictures

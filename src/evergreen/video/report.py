"""What an evaluation of the detector leaves to look at: tables for `dvc plots`, pictures for people."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from evergreen.plots import plot_detector_training, plot_pictures, plot_roc, plot_scores
from evergreen.video.bundle import Manifest
from evergreen.video.evaluation import ScoredSequence
from evergreen.video.overlay import draw_heat


def write_report(scored: list[ScoredSequence], manifest: Manifest, folder: Path) -> list[Path]:
    """Write tables and pictures into `folder`, beside the histories of the trainings there, and return the pictures."""
    y_true = np.concatenate([s.sequence.mask for s in scored])
    y_proba = np.concatenate([s.y_proba for s in scored])
    differences = np.concatenate([s.frame_difference for s in scored])
    curves = {
        name: (*roc_curve(y_true, scores)[:2], float(roc_auc_score(y_true, scores)))
        for name, scores in (("frame difference", differences), ("this bundle", y_proba))
    }
    false_alarms, hits, _ = curves["this bundle"]
    pd.DataFrame({"false_alarm_rate": false_alarms, "hit_rate": hits}).to_csv(folder / "roc.csv", index=False)
    pictures = [folder / f"{name}.png" for name in ("roc", "scores", "training", "examples")]
    plot_roc(curves, pictures[0])
    plot_scores(_group_scores(scored), manifest.offline.frame.threshold, pictures[1])
    plot_detector_training(pd.read_csv(folder / "diffusion.csv"), pd.read_csv(folder / "cnn_lstm.csv"), pictures[2])
    plot_pictures(_show_examples(scored, manifest), pictures[3])
    return pictures


def _group_scores(scored: list[ScoredSequence]) -> dict[str, NDArray[np.float64]]:
    groups = {"normal": np.concatenate([s.y_proba[~s.sequence.mask] for s in scored])}
    for kind in sorted({s.sequence.kind for s in scored} - {"normal"}):
        groups[kind] = np.concatenate([s.y_proba[s.sequence.mask] for s in scored if s.sequence.kind == kind])
    return groups


def _show_examples(
    scored: list[ScoredSequence], manifest: Manifest
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The frame of the highest score in the first sequence of each kind."""
    examples: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]] = {}
    for item in sorted(scored, key=lambda s: s.sequence.kind != "normal"):
        name = f"{item.sequence.kind}: {item.worst.y_proba:.2f}, the highest in {item.sequence.name}"
        if not any(key.startswith(f"{item.sequence.kind}:") for key in examples):
            picture = item.worst.frame.image
            color = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
            examples[name] = (color, draw_heat(color, item.worst.errors, manifest))
    return examples

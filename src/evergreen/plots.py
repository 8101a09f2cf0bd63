"""Plots for people: one look, readable in a pull request, in light and dark."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from evergreen.metrics import Estimate

mpl.use("agg")
from matplotlib import pyplot as plt

COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")
plt.rcParams.update(
    {
        "figure.dpi": 120,
        "figure.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "font.size": 10,
        "savefig.bbox": "tight",
        # The same figure gives the same bytes, so that DVC sees no change where there is none.
        "svg.hashsalt": "evergreen",
    }
)


class ReliabilityCurve(Protocol):
    """Mean confidence and accuracy of each bin, the accuracy with its interval, and the size of the bin."""

    ece: float
    confidence: list[float]
    accuracy: list[float]
    low: list[float]
    high: list[float]
    n_samples: list[int]


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a file, the same bytes for the same figure, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def plot_class_counts(topics: Mapping[str, Mapping[str, int]], labels: Sequence[str], path: Path) -> None:
    """Draw how many texts each topic has of each class."""
    names = sorted(topics, key=lambda name: sum(topics[name].values()))
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(names) + 1.4))
    left = np.zeros(len(names))
    for label, color in zip(labels, cycle(COLORS), strict=False):
        sizes = np.array([topics[name].get(label, 0) for name in names], dtype=float)
        axes.barh(names, sizes, left=left, color=color, label=label)
        left += sizes
    for row, total in enumerate(left):
        axes.text(total, row, f" {total:,.0f}", va="center")
    axes.margins(x=0.12)
    axes.set(title=f"{left.sum():,.0f} texts by topic and class", xlabel="texts")
    axes.legend(frameon=False, loc="lower right")
    save_figure(figure, path)


def plot_confusion_matrix(matrix: NDArray[np.int64], labels: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix, [actual, predicted]: the fraction of each actual class, with the counts."""
    fractions = matrix / matrix.sum(axis=1, keepdims=True).clip(1)
    figure, axes = plt.subplots(figsize=(1.1 * len(labels) + 2, 1.1 * len(labels) + 1))
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*matrix.shape):
        color = "white" if fractions[i, j] > 0.55 else "black"
        axes.text(j, i, f"{fractions[i, j]:.0%}\n{matrix[i, j]:,}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(title=f"Confusion matrix, {matrix.sum():,} test texts", xlabel="predicted", ylabel="actual")
    save_figure(figure, path)


def plot_calibration(curves: Mapping[str, ReliabilityCurve], confidence_level: float, path: Path) -> None:
    """Draw accuracy against confidence per bin, with intervals, above how many texts each bin holds.

    On the diagonal, confidence means what it says.
    """
    figure, (axes, histogram) = plt.subplots(
        2, 1, figsize=(5.4, 6.2), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    lowest = min(value for curve in curves.values() for value in curve.confidence)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":", label="perfectly calibrated")
    width = 0.9 * min((np.diff(curve.confidence).min() for curve in curves.values() if len(curve.confidence) > 1),
                      default=0.1) / len(curves)  # fmt: skip
    for position, ((name, curve), color) in enumerate(zip(curves.items(), cycle(COLORS), strict=False)):
        errors = np.abs(np.array([curve.low, curve.high]) - np.array(curve.accuracy))
        label = f"{name} (ECE {curve.ece:.3f})"
        axes.errorbar(curve.confidence, curve.accuracy, yerr=errors, marker="o", capsize=3, color=color, label=label)
        shift = (position - (len(curves) - 1) / 2) * width
        histogram.bar(np.array(curve.confidence) + shift, curve.n_samples, width=width, color=color)
    n_samples = sum(next(iter(curves.values())).n_samples)
    axes.set(
        title=f"Calibration on {n_samples:,} test texts",
        ylabel=f"accuracy, {confidence_level:.0%} interval",
        xlim=(max(0.0, lowest - 0.05), 1),
        ylim=(0, 1),
    )
    figure.legend(frameon=False, loc="outside lower center")
    histogram.set(xlabel="mean confidence of the bin", ylabel="texts")
    save_figure(figure, path)


def plot_training_curve(history: Any, path: Path) -> None:
    """Draw training loss and validation scores over epochs, and mark the checkpoint that was kept.

    Args:
        history: a data frame with `epoch`, `loss`, `eval_loss`, `eval_accuracy` and `eval_macro_f1`; the checkpoint
            kept is the first of the best macro-F1.
    """
    figure, (losses, scores) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    train = history.dropna(subset="loss")
    valid = history.dropna(subset="eval_loss")
    losses.plot(train["epoch"], train["loss"], color=COLORS[0], label="training")
    losses.plot(valid["epoch"], valid["eval_loss"], marker="o", color=COLORS[2], label="validation")
    for name, color, label in (("accuracy", COLORS[0], "accuracy"), ("macro_f1", COLORS[1], "macro-F1")):
        scores.plot(valid["epoch"], valid[f"eval_{name}"], marker="o", color=color, label=label)
    kept = valid.loc[valid["eval_macro_f1"].idxmax(), "epoch"]
    for axes in (losses, scores):
        axes.axvline(kept, color="grey", linewidth=1, linestyle=":", label="kept checkpoint")
    losses.set(title="Loss", xlabel="epoch", ylim=(0, None))
    scores.set(title="Validation scores", xlabel="epoch")
    if scores.get_ylim()[0] > 0:
        scores.set_ylabel("(axis does not start at 0)")
    for axes in (losses, scores):
        axes.set_xlim(0, None)
        axes.legend(frameon=False)
    save_figure(figure, path)


def plot_comparison(
    models: Mapping[str, Mapping[str, Estimate]], n_samples: int, confidence_level: float, path: Path
) -> None:
    """Draw models side by side, {model: {metric: estimate}}, the last one in color."""
    metrics = list(next(iter(models.values())))
    figure, axes = plt.subplots(
        1,
        len(metrics),
        figsize=(4.2 * len(metrics), 0.5 * len(models) + 1.7),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    names = list(models)[::-1]
    for axis, metric in zip(axes[0], metrics, strict=True):
        for row, name in enumerate(names):
            estimate = models[name][metric]
            error = [[max(estimate.value - estimate.low, 0)], [max(estimate.high - estimate.value, 0)]]
            axis.errorbar(estimate.value, row, xerr=error, fmt="o", capsize=4, color="grey" if row else COLORS[0])
            axis.annotate(
                f"{estimate.value:.3f}", (estimate.value, row), (0, 7), textcoords="offset points", ha="center"
            )
        axis.set(title=metric, xlim=(0, 1), ylim=(-0.6, len(names) - 0.3))
        axis.set_yticks(range(len(names)), names)
    figure.supxlabel(f"{n_samples:,} test texts, {confidence_level:.0%} bootstrap intervals", fontsize=9)
    save_figure(figure, path)


def plot_timeline(
    seconds: Sequence[float],
    scores: Sequence[float],
    threshold: float,
    ranges: Sequence[tuple[float, float]],
    title: str,
    path: Path,
) -> None:
    """Draw the score of each frame over time, with the threshold and the ranges that were detected, in seconds."""
    figure, axes = plt.subplots(figsize=(9, 2.8), layout="constrained")
    step = (seconds[-1] - seconds[0]) / max(len(seconds) - 1, 1)
    for number, (start, end) in enumerate(ranges):
        label = "detected" if number == 0 else None
        axes.axvspan(start - step / 2, end + step / 2, color=COLORS[2], alpha=0.3, linewidth=0, label=label)
    axes.plot(seconds, scores, color=COLORS[0], linewidth=1.2, label="score of the frame")
    axes.axhline(threshold, color="grey", linewidth=1, linestyle=":", label=f"threshold {threshold:.2f}")
    axes.set(title=title, xlabel="seconds", ylabel="probability of an anomaly", ylim=(0, 1.02))
    axes.set_xlim(seconds[0], max(seconds[-1], seconds[0] + 0.1))
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    save_figure(figure, path)


def plot_roc(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], float]], path: Path) -> None:
    """Draw ROC curves, {name: (false alarm rate, hit rate, area)}, the last one in color."""
    figure, axes = plt.subplots(figsize=(5, 4.6), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":", label="chance")
    for number, (name, (false_alarms, hits, area)) in enumerate(curves.items(), 1):
        color = COLORS[0] if number == len(curves) else "grey"
        axes.plot(false_alarms, hits, color=color, label=f"{name} (AUC {area:.3f})")
    axes.set(title="ROC of test frames", xlabel="false alarm rate", ylabel="hit rate", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(frameon=False, loc="lower right")
    save_figure(figure, path)


def plot_scores(groups: Mapping[str, NDArray[np.float64]], threshold: float, path: Path) -> None:
    """Draw the distribution of frame scores of each kind of frames, {kind: scores}, above and below the threshold."""
    figure, panels = plt.subplots(
        len(groups), 1, figsize=(7, 1.1 * len(groups) + 1), sharex=True, squeeze=False, layout="constrained"
    )
    bins = np.linspace(0, 1, 41)
    for axes, (name, scores) in zip(panels[:, 0], groups.items(), strict=True):
        axes.hist(scores, bins, color="grey" if name == "normal" else COLORS[2])
        axes.axvline(threshold, color="black", linewidth=1, linestyle=":")
        alarms = (scores >= threshold).mean()
        axes.set_ylabel("frames")
        axes.set_title(f"{name}: {alarms:.0%} of {len(scores):,} frames reach the threshold", fontsize=10)
    panels[-1, 0].set(xlabel="probability of an anomaly", xlim=(0, 1))
    save_figure(figure, path)


def plot_detector_training(diffusion: Any, cnn_lstm: Any, path: Path) -> None:
    """Draw the diffusion model's loss and the validation loss of both CNN+LSTMs.

    Args:
        diffusion: a data frame with `step` and `loss`.
        cnn_lstm: a data frame with `model`, `step` and `eval_loss`; the step of the lowest is kept.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    if len(diffusion):
        left.plot(diffusion["step"], diffusion["loss"], color=COLORS[0], alpha=0.25, label="step")
        smooth = diffusion["loss"].rolling(max(len(diffusion) // 20, 1), min_periods=1).mean()
        left.plot(diffusion["step"], smooth, color=COLORS[0], label="rolling mean")
        left.set_yscale("log")
        left.legend(frameon=False)
    else:
        left.text(0.5, 0.5, "not trained (diffusion.steps: 0)", ha="center", transform=left.transAxes)
    left.set(title="Diffusion model, training loss", xlabel="step")
    for (name, rows), color in zip(cnn_lstm.groupby("model", sort=False), cycle(COLORS), strict=False):
        right.plot(rows["step"], rows["eval_loss"], marker=".", color=color, label=name)
        best = rows.loc[rows["eval_loss"].idxmin()]
        right.plot(best["step"], best["eval_loss"], marker="o", markersize=9, color=color, fillstyle="none")
    right.set(title="CNN+LSTM, validation loss (ring: kept)", xlabel="step", ylim=(0, None))
    right.legend(frameon=False)
    save_figure(figure, path)


def plot_pictures(pictures: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]], path: Path) -> None:
    """Draw pairs of pictures, [height, width, 3], a name above each: the frame and the frame with its heat map."""
    figure, panels = plt.subplots(
        len(pictures), 2, figsize=(9, 2.1 * len(pictures)), squeeze=False, layout="constrained"
    )
    for row, (name, pair) in zip(panels, pictures.items(), strict=True):
        for axes, picture in zip(row, pair, strict=True):
            axes.imshow(picture)
            axes.axis("off")
        row[0].set_title(name, fontsize=10)
    save_figure(figure, path)

"""Plots for people: one look, readable in a pull request, in light and dark."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("agg")
from matplotlib import pyplot as plt

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")
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


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def class_counts(topics: Mapping[str, Mapping[str, int]], labels: Sequence[str], path: Path) -> None:
    """Draw how many texts each topic has of each class."""
    names = sorted(topics, key=lambda name: sum(topics[name].values()))
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(names) + 1.4))
    left = np.zeros(len(names))
    for label, colour in zip(labels, cycle(COLOURS), strict=False):
        sizes = np.array([topics[name].get(label, 0) for name in names], dtype=float)
        axes.barh(names, sizes, left=left, color=colour, label=label)
        left += sizes
    for row, total in enumerate(left):
        axes.text(total, row, f" {total:,.0f}", va="center")
    axes.margins(x=0.12)
    axes.set(title="Texts by topic and class", xlabel="texts")
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def confusion(matrix: NDArray[np.int64], labels: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix: shares of each true class, with the counts."""
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(1)
    figure, axes = plt.subplots(figsize=(1.1 * len(labels) + 2, 1.1 * len(labels) + 1))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*matrix.shape):
        colour = "white" if shares[i, j] > 0.55 else "black"
        axes.text(j, i, f"{shares[i, j]:.0%}\n{matrix[i, j]:,}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(title="Confusion on the test set", xlabel="answered", ylabel="true")
    _save(figure, path)


def reliability(curves: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw accuracy against confidence, per bin; on the diagonal, confidence means what it says."""
    figure, axes = plt.subplots(figsize=(5, 4.4))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    for (name, curve), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        axes.plot(
            curve["confidence"],
            curve["accuracy"],
            marker="o",
            color=colour,
            label=f"{name} (ECE {curve['ece']:.3f})",
        )
    axes.set(
        title="Calibration on the test set",
        xlabel="mean confidence",
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend(frameon=False)
    _save(figure, path)


def training_curve(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw training loss and validation scores over epochs."""
    figure, (losses, scores) = plt.subplots(1, 2, figsize=(9, 3.2))
    train = [(row["epoch"], row["loss"]) for row in history if "loss" in row]
    valid = [row for row in history if "eval_loss" in row]
    losses.plot(*zip(*train, strict=True), color=COLOURS[0], label="training")
    epochs = [row["epoch"] for row in valid]
    losses.plot(epochs, [row["eval_loss"] for row in valid], marker="o", color=COLOURS[2], label="validation")
    for name, colour in (("accuracy", COLOURS[0]), ("macro_f1", COLOURS[1])):
        scores.plot(epochs, [row[f"eval_{name}"] for row in valid], marker="o", color=colour, label=name)
    losses.set(title="Loss", xlabel="epoch", ylim=(0, None))
    scores.set(title="Validation scores", xlabel="epoch")
    for axes in (losses, scores):
        axes.legend(frameon=False)
    _save(figure, path)


def comparison(rows: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Draw models side by side, with their intervals: {model: {metric: {value, low, high}}}."""
    metrics = list(next(iter(rows.values())))
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(4.2 * len(metrics), 0.5 * len(rows) + 1.5), sharey=True, squeeze=False
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        for place, (_, scores) in enumerate(reversed(list(rows.items()))):
            score = scores[metric]
            spread = [[max(score["value"] - score["low"], 0)], [max(score["high"] - score["value"], 0)]]
            axis.errorbar(score["value"], place, xerr=spread, fmt="o", capsize=4, color="grey" if place else COLOURS[0])
            axis.text(score["high"], place, f"  {score['value']:.3f}", va="center")
        axis.set(title=metric.replace("_", " "), xlim=(0, 1.12), ylim=(-0.6, len(rows) - 0.4))
        axis.set_yticks(range(len(rows)), list(reversed(list(rows))))
    _save(figure, path)

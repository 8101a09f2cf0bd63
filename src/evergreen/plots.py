"""Plots for people: one look, readable in a pull request, in light and dark."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from numpy.typing import NDArray

from evergreen.metrics import Estimate

mpl.use("agg")
from matplotlib import pyplot as plt

MAX_BARS = 20
"""Rows of a bar chart; a picture of more is too high to look at."""
MAX_MATRIX = 15
"""Classes of a confusion matrix whose cells can be read."""
MAX_NAME = 40
"""Characters of a name."""
MAX_WIDTH = 12
"""Characters of a name that fit into a cell of the confusion matrix."""
# Matplotlib's own font has no Chinese, Japanese or Korean; the first of these that is installed lends them.
CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
)
COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns that a lent font has one weight only
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
        "font.family": ["DejaVu Sans", *(name for name in CJK_FONTS if name in font_manager.get_font_names())],
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


def shorten_names(names: Sequence[str], limit: int = MAX_NAME) -> list[str]:
    r"""Make names that fit beside a bar, differ where the names do, and are drawn as they are written.

    A character that no installed font has becomes its escape, as in "\\u4f60": it can be told from others and found.
    """
    drawn = _list_glyphs()
    lines = [
        "".join(
            char if ord(char) in drawn else char.encode("unicode_escape").decode() for char in " ".join(name.split())
        )
        for name in names
    ]
    end = limit // 3  # names of one kind often begin alike
    short = [line if len(line) <= limit else f"{line[: limit - end - 1]}…{line[-end:]}" for line in lines]
    repeated = {line for line, count in Counter(short).items() if count > 1}
    short = [f"{number}: {line}" if line in repeated else line for number, line in enumerate(short, 1)]
    # A legend leaves out what begins with an underscore, and dollars would begin a formula.
    return [f" {line}".replace("$", r"\$") if line.startswith("_") else line.replace("$", r"\$") for line in short]


@cache
def _list_glyphs() -> frozenset[int]:
    files = [font_manager.findfont(family) for family in plt.rcParams["font.family"]]
    return frozenset(code for file in files for code in font_manager.get_font(file).get_charmap())


@dataclass(frozen=True)
class ClassCounts:
    """What a plot shows of texts by topic and class.

    Attributes:
        topics: shown, the largest first; where some are left out, the last row holds the sum of them.
        classes: shown, in the order of the labels; where some are left out, the largest first, and the last column
            holds the sum of them.
        counts: shape [topics, classes]; their sum is that of all texts.
        n_hidden_topics, n_hidden_classes: that are summed.
    """

    topics: list[str]
    classes: list[str]
    counts: NDArray[np.int64]
    n_hidden_topics: int
    n_hidden_classes: int

    @classmethod
    def of(cls, topics: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> "ClassCounts":
        """Keep the largest topics and as many classes as there are colors; sum the others."""
        names = sorted(topics, key=lambda name: -sum(topics[name].values()))
        counts = np.array([topics[name].get(label, 0) for name in names for label in labels], np.int64)
        counts = counts.reshape(len(names), len(labels))
        classes = list(labels)
        if n_hidden_classes := _count_hidden(len(classes), len(COLORS) + 1):
            order = np.argsort(-counts.sum(0), kind="stable")
            kept, hidden = order[:-n_hidden_classes], order[-n_hidden_classes:]
            counts = np.column_stack([counts[:, kept], counts[:, hidden].sum(1)])
            classes = [*(classes[i] for i in kept), f"{n_hidden_classes:,} others"]
        if n_hidden_topics := _count_hidden(len(names), MAX_BARS):
            counts = np.vstack([counts[:-n_hidden_topics], counts[-n_hidden_topics:].sum(0)])
            names = [*names[:-n_hidden_topics], f"{n_hidden_topics:,} others"]
        return cls(names, classes, counts, n_hidden_topics, n_hidden_classes)


def _count_hidden(n_all: int, n_shown: int) -> int:
    """How many are summed in the last one shown."""
    return n_all - n_shown + 1 if n_all > n_shown else 0


def plot_class_counts(topics: Mapping[str, Mapping[str, int]], labels: Sequence[str], path: Path) -> None:
    """Draw how many texts each topic has of each class: the largest topics and classes, and the sum of the others."""
    shown = ClassCounts.of(topics, labels)
    totals = shown.counts.sum(1)
    scale = np.ones(len(totals))
    if shown.n_hidden_topics:  # beside the sum of a thousand, no topic could be seen
        scale[-1] = min(1.0, 2 * totals[0] / max(totals[-1], 1))
    rows = np.arange(len(totals))[::-1]
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(rows) + 1.4))
    left = np.zeros(len(rows))
    names = dict(zip(labels, shorten_names(labels), strict=True))
    for label, sizes, color in zip(shown.classes, shown.counts.T, (*COLORS, "silver"), strict=False):
        axes.barh(rows, sizes * scale, left=left, color=color, label=names.get(label, label))
        left += sizes * scale
    for row, end, total, factor in zip(rows, left, totals, scale, strict=True):
        axes.text(end, row, f" {total:,}{'' if factor == 1 else ' (bar shortened)'}", va="center")
    axes.set_yticks(rows, shorten_names(shown.topics))
    axes.margins(x=0.12)
    is_cut = shown.n_hidden_topics or shown.n_hidden_classes
    whole = "; all are in metrics/data.json" if is_cut else ""
    axes.set(title=f"{totals.sum():,} texts by topic and class", xlabel=f"texts{whole}")
    is_wide = is_cut or max(map(len, names.values())) > MAX_WIDTH  # for the corner that short bars leave free
    outside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
    axes.legend(frameon=False, **(outside if is_wide else {"loc": "lower right"}))
    save_figure(figure, path)


@dataclass(frozen=True)
class Confusion:
    """How often texts of a class were taken for another, and as a fraction of the class."""

    actual: str
    predicted: str
    count: int
    fraction: float


def list_confusions(matrix: NDArray[np.int64], labels: Sequence[str]) -> list[Confusion]:
    """List the pairs of a confusion matrix, [actual, predicted], that were confused, the most frequent first."""
    sizes = matrix.sum(axis=1)
    errors = matrix * ~np.eye(len(labels), dtype=bool)
    pairs = [divmod(int(i), len(labels)) for i in np.argsort(-errors, axis=None, kind="stable")[: (errors > 0).sum()]]
    return [Confusion(labels[i], labels[j], int(errors[i, j]), errors[i, j] / sizes[i]) for i, j in pairs]


def plot_confusion_matrix(matrix: NDArray[np.int64], labels: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix, [actual, predicted]: the fraction of each actual class, with the counts.

    Of many classes, the pairs that are confused most often, in place of a matrix that nobody can read.
    """
    if len(labels) > MAX_MATRIX:
        _plot_confusions(matrix, labels, path)
        return
    fractions = matrix / matrix.sum(axis=1, keepdims=True).clip(1)
    figure, axes = plt.subplots(figsize=(1.1 * len(labels) + 2, 1.1 * len(labels) + 1))
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*matrix.shape):
        color = "white" if fractions[i, j] > 0.55 else "black"
        axes.text(j, i, f"{fractions[i, j]:.0%}\n{matrix[i, j]:,}", ha="center", va="center", color=color)
    names = shorten_names(labels)
    is_wide = max(map(len, names)) > MAX_WIDTH
    axes.set_xticks(range(len(labels)), names, rotation=30 if is_wide else 0, ha="right" if is_wide else "center")
    axes.set_yticks(range(len(labels)), names)
    axes.set(title=f"Confusion matrix, {matrix.sum():,} test texts", xlabel="predicted", ylabel="actual")
    save_figure(figure, path)


def _plot_confusions(matrix: NDArray[np.int64], labels: Sequence[str], path: Path) -> None:
    pairs = list_confusions(matrix, labels)
    shown = pairs[:MAX_BARS]
    rows = np.arange(len(shown))[::-1]
    figure, axes = plt.subplots(figsize=(7, 0.4 * max(len(shown), 2) + 1.6))
    axes.barh(rows, [pair.count for pair in shown], color=COLORS[0])
    for row, pair in zip(rows, shown, strict=True):
        axes.text(pair.count, row, f" {pair.count:,} ({pair.fraction:.0%} of actual)", va="center", fontsize=9)
    names = dict(zip(labels, shorten_names(labels), strict=True))
    axes.set_yticks(rows, [f"{names[pair.actual]} → {names[pair.predicted]}" for pair in shown])
    axes.margins(x=0.25)
    errors, n_shown = sum(pair.count for pair in pairs), sum(pair.count for pair in shown)
    axes.set(
        title=f"Actual → predicted: {errors:,} errors in {matrix.sum():,} test texts, {len(labels):,} classes",
        xlabel=f"texts; {len(pairs) - len(shown):,} other pairs have {errors - n_shown:,}, "
        f"all are in {path.with_suffix('.csv').name}",
    )
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
    axes.axhline(threshold, color="grey", linewidth=1, linestyle=":", label=f"threshold of a frame {threshold:.2f}")
    axes.set(title=shorten_names([title], 90)[0], xlabel="seconds", ylabel="probability of an anomaly", ylim=(0, 1.02))
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
    # Of always answering one half.
    right.axhline(np.log(2), color="grey", linewidth=1, linestyle=":", label="chance")
    top = 1.15 * max(cnn_lstm["eval_loss"].max(), np.log(2))
    right.set(title="CNN+LSTM, validation loss (ring: kept)", xlabel="step", ylim=(0, top))
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

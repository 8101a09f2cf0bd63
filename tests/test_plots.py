from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib import image

from evergreen import plots

LABELS = ["negative", "neutral", "positive"]
SCORE = SimpleNamespace(value=0.8, low=0.75, high=0.84)
CURVE = SimpleNamespace(
    ece=0.05, confidence=[0.5, 0.9], accuracy=[0.4, 0.95], low=[0.1, 0.9], high=[0.7, 1.0], n_samples=[3, 97]
)
HISTORY = pd.DataFrame(
    [
        {"step": 5, "epoch": 0.5, "loss": 1.0},
        {"step": 10, "epoch": 1.0, "eval_loss": 0.9, "eval_accuracy": 0.6, "eval_macro_f1": 0.5},
        {"step": 15, "epoch": 1.5, "loss": 0.8},
        {"step": 20, "epoch": 2.0, "eval_loss": 0.7, "eval_accuracy": 0.7, "eval_macro_f1": 0.6},
    ]
)
DRAWN: dict[str, Callable[[Path], None]] = {
    "class_counts": lambda path: plots.plot_class_counts({"a": {"negative": 5, "positive": 2}, "b": {}}, LABELS, path),
    "confusion_matrix": lambda path: plots.plot_confusion_matrix(
        np.array([[9, 1, 0], [2, 5, 3], [0, 0, 0]]), LABELS, path
    ),
    "calibration": lambda path: plots.plot_calibration({"before": CURVE, "after": CURVE}, 0.95, path),
    "training_curve": lambda path: plots.plot_training_curve(HISTORY, path),
    "timeline": lambda path: plots.plot_timeline([0.0, 0.1, 0.2], [0.1, 0.9, 0.2], 0.5, [(0.1, 0.1)], "a.mp4: 1", path),
    "roc": lambda path: plots.plot_roc(
        {
            "baseline": (np.array([0, 0.5, 1]), np.array([0, 0.6, 1]), 0.55),
            "model": (np.array([0, 0.1, 1]), np.array([0, 0.9, 1]), 0.9),
        },
        path,
    ),
    "scores": lambda path: plots.plot_scores(
        {"normal": np.linspace(0, 0.5, 50), "patch": np.linspace(0.4, 1, 20)}, 0.45, path
    ),
    "detector_training": lambda path: plots.plot_detector_training(
        pd.DataFrame({"step": [1, 2, 3], "loss": [1.0, 0.5, 0.2]}),
        pd.DataFrame({"model": ["offline", "offline", "causal"], "step": [0, 10, 0], "eval_loss": [1.0, 0.8, 0.9]}),
        path,
    ),
    "pictures": lambda path: plots.plot_pictures(
        {"normal": (np.arange(192, dtype=np.uint8).reshape(8, 8, 3), np.zeros((8, 8, 3), np.uint8))}, path
    ),
    "comparison": lambda path: plots.plot_comparison(
        {"baseline": {"accuracy": SCORE, "macro-F1": SCORE}, "model": {"accuracy": SCORE, "macro-F1": SCORE}},
        100,
        0.95,
        path,
    ),
}


def read_colors(path: Path) -> set[str]:
    pixels = (image.imread(path)[:, :, :3] * 255).round().astype(int).reshape(-1, 3)
    return {"#%02x%02x%02x" % tuple(pixel) for pixel in np.unique(pixels, axis=0)}


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_is_drawn_the_same_every_time(tmp_path, name):
    first, second = tmp_path / "new" / "a.png", tmp_path / "b.png"
    DRAWN[name](first)
    DRAWN[name](second)
    assert len(read_colors(first)) > 10
    height, width = image.imread(first).shape[:2]
    assert min(height, width) > 100
    assert first.read_bytes() == second.read_bytes()


def test_every_class_is_drawn_however_many_there_are(tmp_path):
    labels = list("abcdefg")  # one more than there are colors
    seven, six = tmp_path / "7.png", tmp_path / "6.png"
    plots.plot_class_counts({"topic": dict.fromkeys(labels, 10)}, labels, seven)
    plots.plot_class_counts({"topic": dict.fromkeys(labels[:6], 10)}, labels[:6], six)
    assert seven.read_bytes() != six.read_bytes()


NAMES = {
    "short": "c{}",
    "long": "a name of sixty characters that differs from the next by {:04}",
    "chinese": "类别{}退款申请",
    "odd": "_$x$ {}\n\u202e|\x00",
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize(("n_labels", "n_topics"), [(3, 1), (15, 20), (77, 77), (150, 1500)])
def test_a_picture_can_be_looked_at_however_many_classes_and_topics(tmp_path, recwarn, kind, n_labels, n_topics):
    labels = [NAMES[kind].format(i) for i in range(n_labels)]
    counts = {NAMES[kind].format(i): dict.fromkeys(labels, 1 + i % 7) for i in range(n_topics)}
    plots.plot_class_counts(counts, labels, tmp_path / "counts.png")
    plots.plot_confusion_matrix(np.arange(n_labels**2).reshape(n_labels, -1), labels, tmp_path / "confusion.png")
    for name in ("counts.png", "confusion.png"):
        height, width = image.imread(tmp_path / name).shape[:2]
        assert max(height, width) <= 2200, name
    # A socket that an earlier test left open may be collected meanwhile.
    assert not [str(warning.message) for warning in recwarn if not issubclass(warning.category, ResourceWarning)]


@pytest.mark.parametrize(("n_labels", "n_topics"), [(3, 5), (7, 20), (8, 21), (150, 1500)])
def test_the_sum_of_the_others_adds_up(n_labels, n_topics):
    rng = np.random.default_rng(0)
    table = rng.poisson(rng.pareto(1, (n_topics, n_labels)))
    labels = [f"class {i}" for i in range(n_labels)]
    topics = {f"topic {i}": dict(zip(labels, map(int, row), strict=True)) for i, row in enumerate(table)}
    shown = plots.ClassCounts.of(topics, labels)
    assert shown.counts.shape == (len(shown.topics), len(shown.classes))
    assert len(shown.topics) == min(n_topics, plots.MAX_BARS)
    assert shown.counts.sum() == table.sum()
    sizes = dict(zip(topics, table.sum(1), strict=True))
    named = [name for name in shown.topics if name in topics]
    assert len(named) + shown.n_hidden_topics == n_topics
    assert shown.n_hidden_topics != 1  # its name takes no more room
    assert min(sizes[name] for name in named) >= max([sizes[name] for name in topics if name not in named], default=0)
    if shown.n_hidden_topics:
        assert shown.topics[-1] == f"{shown.n_hidden_topics:,} others"
        assert shown.counts[-1].sum() == sum(sizes[name] for name in topics if name not in named)
    for label, counts in zip(shown.classes, shown.counts.T, strict=True):
        others = [i for i, name in enumerate(labels) if name not in shown.classes]
        assert counts.sum() == (table[:, labels.index(label)] if label in labels else table[:, others]).sum()


def test_confusions_are_all_errors_the_most_frequent_first():
    matrix = np.array([[5, 3, 0], [7, 1, 2], [0, 0, 0]])
    pairs = plots.list_confusions(matrix, LABELS)
    assert [(pair.actual, pair.predicted, pair.count, pair.fraction) for pair in pairs] == [
        ("neutral", "negative", 7, 0.7),
        ("negative", "neutral", 3, 0.375),
        ("neutral", "positive", 2, 0.2),
    ]
    assert plots.list_confusions(np.diag([4, 0, 2]), LABELS) == []


def test_twenty_classes_without_an_error_can_be_drawn(tmp_path):
    plots.plot_confusion_matrix(np.eye(20, dtype=int), [f"c{i}" for i in range(20)], tmp_path / "none.png")
    assert len(read_colors(tmp_path / "none.png")) > 10


@pytest.mark.parametrize("kind", NAMES)
def test_shortened_names_differ_where_the_names_do(kind):
    names = [NAMES[kind].format(i) for i in range(150)]
    shortened = plots.shorten_names(names)
    assert len(set(shortened)) == 150
    assert max(map(len, shortened)) <= plots.MAX_NAME + 8
    assert not any(name.startswith("_") for name in shortened)  # a legend would leave it out


def test_a_name_in_a_writing_without_a_font_can_be_told_from_others():
    assert plots.shorten_names(["ok", "\U000e0041"]) == ["ok", r"\U000e0041"]  # no font has it


def test_one_metric_can_be_compared(tmp_path):
    plots.plot_comparison({"model": {"accuracy": SCORE}}, 100, 0.95, tmp_path / "one.png")
    assert plots.COLORS[0] in read_colors(tmp_path / "one.png")


def test_a_value_outside_of_its_bootstrap_interval_can_be_drawn(tmp_path):
    score = SimpleNamespace(value=0.9, low=0.5, high=0.8)
    plots.plot_comparison({"model": {"accuracy": score, "macro-F1": score}}, 100, 0.95, tmp_path / "odd.png")
    assert plots.COLORS[0] in read_colors(tmp_path / "odd.png")


def test_a_run_that_stopped_before_its_first_loss_can_be_drawn(tmp_path):
    plots.plot_training_curve(HISTORY[1:2], tmp_path / "short.png")
    assert plots.COLORS[2] in read_colors(tmp_path / "short.png")


def test_a_detector_without_diffusion_steps_can_be_drawn(tmp_path):
    rows = pd.DataFrame({"model": ["offline"], "step": [0], "eval_loss": [1.0]})
    plots.plot_detector_training(pd.DataFrame({"step": [], "loss": []}), rows, tmp_path / "none.png")
    assert plots.COLORS[0] in read_colors(tmp_path / "none.png")


def test_the_timeline_of_one_frame_can_be_drawn(tmp_path):
    plots.plot_timeline([0.0], [0.7], 0.5, [(0.0, 0.0)], "one frame", tmp_path / "one.png")
    assert len(read_colors(tmp_path / "one.png")) > 10

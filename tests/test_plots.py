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
    plots.plot_class_counts({"topic": {"g": 10}}, labels, seven)
    assert plots.COLORS[0] in read_colors(seven)


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

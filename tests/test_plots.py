from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from evergreen import plots

LABELS = ["negative", "neutral", "positive"]
SCORE = {"value": 0.8, "low": 0.75, "high": 0.84}
HISTORY = [
    {"epoch": 0.5, "loss": 1.0},
    {"epoch": 1.0, "eval_loss": 0.9, "eval_accuracy": 0.6, "eval_macro_f1": 0.5},
    {"epoch": 1.5, "loss": 0.8},
    {"epoch": 2.0, "eval_loss": 0.7, "eval_accuracy": 0.7, "eval_macro_f1": 0.6},
]
DRAWN: dict[str, Callable[[Path], None]] = {
    "class_counts": lambda path: plots.class_counts({"a": {"negative": 5, "positive": 2}, "b": {}}, LABELS, path),
    "confusion": lambda path: plots.confusion(np.array([[9, 1, 0], [2, 5, 3], [0, 0, 0]]), LABELS, path),
    "reliability": lambda path: plots.reliability(
        {"model": {"confidence": [0.5, 0.9], "accuracy": [0.4, 0.95], "ece": 0.05}}, path
    ),
    "training_curve": lambda path: plots.training_curve(HISTORY, path),
    "comparison": lambda path: plots.comparison(
        {"baseline": {"accuracy": SCORE, "macro_f1": SCORE}, "model": {"accuracy": SCORE, "macro_f1": SCORE}}, path
    ),
}


def colours(path: Path) -> set[str]:
    pixels = (image.imread(path)[:, :, :3] * 255).round().astype(int).reshape(-1, 3)
    return {"#%02x%02x%02x" % tuple(pixel) for pixel in np.unique(pixels, axis=0)}


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_is_drawn_the_same_every_time(tmp_path, name):
    first, second = tmp_path / "new" / "a.png", tmp_path / "b.png"
    DRAWN[name](first)
    DRAWN[name](second)
    assert len(colours(first)) > 10
    height, width = image.imread(first).shape[:2]
    assert min(height, width) > 100
    assert first.read_bytes() == second.read_bytes()


def test_every_class_is_drawn_however_many_there_are(tmp_path):
    labels = list("abcdefg")  # one more than there are colours
    seven, six = tmp_path / "7.png", tmp_path / "6.png"
    plots.class_counts({"topic": dict.fromkeys(labels, 10)}, labels, seven)
    plots.class_counts({"topic": dict.fromkeys(labels[:6], 10)}, labels[:6], six)
    assert seven.read_bytes() != six.read_bytes()
    plots.class_counts({"topic": {"g": 10}}, labels, seven)
    assert plots.COLOURS[0] in colours(seven)


def test_one_metric_can_be_compared(tmp_path):
    plots.comparison({"model": {"accuracy": SCORE}}, tmp_path / "one.png")
    assert plots.COLOURS[0] in colours(tmp_path / "one.png")


def test_a_value_outside_of_its_bootstrap_interval_can_be_drawn(tmp_path):
    score = {"value": 0.9, "low": 0.5, "high": 0.8}
    plots.comparison({"model": {"accuracy": score, "macro_f1": score}}, tmp_path / "odd.png")
    assert plots.COLOURS[0] in colours(tmp_path / "odd.png")


def test_a_run_that_stopped_before_its_first_loss_can_be_drawn(tmp_path):
    plots.training_curve(HISTORY[1:2], tmp_path / "short.png")
    assert plots.COLOURS[2] in colours(tmp_path / "short.png")

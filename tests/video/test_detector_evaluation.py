"""Evaluation: measures by hand, and intervals over clips."""

from types import SimpleNamespace

import numpy as np
import pytest
from footage import draw_scene, reduce_params
from sklearn.metrics import roc_auc_score

from evergreen.video.evaluation import _estimate, measure_difference, measure_eer

PARAMS = reduce_params().evaluate
MANIFEST = SimpleNamespace(block=8, clips=SimpleNamespace(cut_threshold=60.0))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.1, 0.2, 0.8, 0.9], 0.0), ([0.9, 0.8, 0.2, 0.1], 1.0), ([0.1, 0.8, 0.2, 0.9], 0.5), ([0.5] * 4, 0.5)],
)
def test_equal_error_rate_by_hand(scores, expected):
    assert measure_eer(np.array([False, False, True, True]), np.array(scores)) == pytest.approx(expected)


def test_equal_error_rate_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    y_true = np.repeat([False, True], 20_000)
    assert measure_eer(y_true, rng.standard_normal(40_000) + 2 * y_true) == pytest.approx(0.1587, abs=0.01)


def make_groups(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    masks = [np.arange(10) < 5 if number % 2 else np.zeros(10, bool) for number in range(count)]
    return [(mask, rng.standard_normal(10) + 1.0 * mask) for mask in masks]


def test_the_interval_holds_the_value_and_narrows_with_more_clips():
    few, many = (_estimate(make_groups(count), roc_auc_score, PARAMS, 7) for count in (6, 60))
    for estimate in (few, many):
        assert estimate.low <= estimate.value <= estimate.high
    assert many.high - many.low < few.high - few.low


def test_one_clip_of_a_class_still_gives_an_interval():
    estimate = _estimate(make_groups(2), roc_auc_score, PARAMS, 7)
    assert estimate.low == estimate.value == estimate.high


def test_one_class_gives_no_estimate():
    assert _estimate([(np.zeros(5, bool), np.arange(5.0))], roc_auc_score, PARAMS, 7) is None


def test_the_difference_of_frames_is_where_something_moves():
    images = draw_scene(20)[..., :1]
    images[10:] = images[10]
    scores = measure_difference(images, MANIFEST)
    assert scores.shape == (20,)
    assert scores[3:8].min() > 1
    assert scores[14:].max() == 0


def test_a_cut_is_no_difference():
    images = np.concatenate([draw_scene(6), 255 - draw_scene(6)])[..., :1]
    still = images.copy()
    still[:6], still[6:] = images[0], images[6]
    assert measure_difference(still, MANIFEST).max() == 0

"""Training and calibration of the CNN+LSTM: it learns, it can't end below its start, the threshold follows the cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from footage import reduce_params
from hypothesis import given
from hypothesis import strategies as st

from evergreen.video.cnn_lstm import BlockStatistics
from evergreen.video.training import TrainingSet, Windows, _fit, choose_threshold, train_cnn_lstm

PARAMS = reduce_params().cnn_lstm


def make_windows(count: int, seed: int) -> Windows:
    """Noise, in which anomalies raise all blocks a little: the largest block hardly shows them."""
    rng = np.random.default_rng(seed)
    y_true = np.zeros((count, 8), np.float32)
    y_true[::2, 2:6] = 1
    blocks = rng.standard_normal((count, 8, 2, 5, 7)).astype(np.float32) + 1.0 * y_true[:, :, None, None, None]
    return Windows(torch.from_numpy(blocks), torch.from_numpy(y_true))


def make_set() -> TrainingSet:
    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    return TrainingSet([make_windows(40, 0)], [make_windows(20, 1)], BlockStatistics(zero, one, zero + 2, one / 2), 40)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_it_learns_what_the_largest_error_does_not_show(bidirectional):
    params = PARAMS.model_copy(update={"steps": 150, "learning_rate": 1e-2})
    result = train_cnn_lstm(make_set(), params, 7, bidirectional)
    start, kept = result.history[0]["eval_loss"], min(row["eval_loss"] for row in result.history)
    assert kept < 0.8 * start
    again = train_cnn_lstm(make_set(), params, 7, bidirectional)
    assert [row["eval_loss"] for row in again.history] == [row["eval_loss"] for row in result.history]


def test_what_validation_does_not_confirm_is_not_kept():
    data = make_set()
    opposite = Windows(data.train[0].blocks, 1 - data.train[0].y_true)
    result = train_cnn_lstm(replace(data, train=[opposite]), PARAMS, 7, True)
    assert not result.model.head.weight.any()  # as at the start


def count_cost(y_true: np.ndarray, y_proba: np.ndarray, threshold: float, cost_ratio: float) -> float:
    alarms = y_proba >= threshold
    return cost_ratio * (~alarms & y_true).sum() / y_true.sum() + (alarms & ~y_true).sum() / (~y_true).sum()


@given(
    st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=2, max_size=40),
    st.floats(0.1, 10),
)
def test_no_threshold_costs_less(scored, cost_ratio):
    y_proba, y_true = np.array([s for s, _ in scored]), np.array([y for _, y in scored])
    if y_true.all() or not y_true.any():
        return
    threshold = choose_threshold(y_true, y_proba, cost_ratio)
    best = min(count_cost(y_true, y_proba, value, cost_ratio) for value in [*y_proba, 0.0, 1.0])
    assert count_cost(y_true, y_proba, threshold, cost_ratio) == pytest.approx(best)


def test_the_threshold_is_in_the_middle_of_the_gap():
    y_true = np.array([False, False, True, True])
    assert choose_threshold(y_true, np.array([0.1, 0.3, 0.7, 0.9]), 1.0) == pytest.approx(0.5)


def test_dear_misses_lower_the_threshold():
    rng = np.random.default_rng(0)
    y_true = np.repeat([False, True], 200)
    y_proba = (rng.normal(0.4, 0.1, 400) + 0.15 * y_true).clip(0.01, 0.99)
    thresholds = [choose_threshold(y_true, y_proba, ratio) for ratio in (0.1, 1.0, 10.0)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > thresholds[2]


def test_the_calibration_does_not_depend_on_how_many_are_anomalous():
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(-1, 1, 400), rng.normal(1, 1, 400)
    few = [(x, False) for x in normal] + [(x, True) for x in anomalous[:40]]
    many = [(x, False) for x in normal] + [(x, True) for x in anomalous]
    for logit in (-2.0, 0.0, 2.0):
        assert _fit(few, 1.0)(logit) == pytest.approx(_fit(many, 1.0)(logit), abs=0.08)
    assert _fit(many, 1.0)(1.0) == pytest.approx(1 / (1 + np.exp(-2)), abs=0.05)  # what Bayes says


def test_scores_that_are_no_evidence_stay_in_order():
    scored = [(float(x), x < 0) for x in np.linspace(-1, 1, 20)]
    assert _fit(scored, 1.0)(5.0) >= _fit(scored, 1.0)(-5.0)


def test_one_class_is_not_calibrated():
    calibration = _fit([(0.0, True), (1.0, True)], 3.0)
    assert calibration(0.0) == 0.5
    assert calibration.threshold == 0.25

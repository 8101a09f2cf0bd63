"""Training and calibration of the CNN+LSTM: it learns, it can't end below its start, the threshold follows the cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from footage import reduce_params
from hypothesis import given
from hypothesis import strategies as st

from evergreen.video.cnn_lstm import BlockStatistics
from evergreen.video.training import (
    TrainingSet,
    Windows,
    choose_threshold,
    draw_batch,
    fit_calibration,
    measure_autocorrelation_time,
    train_cnn_lstm,
)

PARAMS = reduce_params().cnn_lstm


def make_windows(count: int, seed: int) -> Windows:
    """Noise, in which anomalies raise a region and lower the rest: neither largest nor average block shows them well."""
    rng = np.random.default_rng(seed)
    y_true = np.zeros((count, 8), np.float32)
    y_true[::2, 2:6] = 1
    region = np.where(np.arange(7) < 3, 1.2, -0.9).astype(np.float32)
    blocks = rng.standard_normal((count, 8, 2, 5, 7)).astype(np.float32) + region * y_true[:, :, None, None, None]
    return Windows(torch.from_numpy(blocks), torch.from_numpy(y_true))


def make_set() -> TrainingSet:
    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    statistics = BlockStatistics(zero, one, zero + 2, one / 10, zero, one / 6)
    return TrainingSet([make_windows(40, 0)], [make_windows(20, 1)], statistics, 40)


@pytest.mark.parametrize(
    ("largest", "average", "used"), [(2.0, 0.0, [0]), (0.0, 2.0, [1]), (2.0, 2.0, [0, 1]), (2.0, -2.0, [0])]
)
def test_it_starts_with_what_training_shows_and_never_takes_less_error_for_evidence(largest, average, used):
    rng = np.random.default_rng(0)
    y_true = rng.random((50, 8)) < 0.3
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    blocks = np.zeros((50, 8, 1, 2, 2), np.float32)
    # Of four blocks one is the largest, by 20; what it gains the others lose, so that it moves the average by nothing.
    top, mean = (rng.standard_normal((50, 8)) + effect * y_true for effect in (largest, average))
    blocks[..., 0, 0, 0] = 20 + top
    blocks[..., 0, 0, 1] = 4 * mean - 20 - top
    data = Windows(torch.from_numpy(blocks), torch.from_numpy(y_true.astype(np.float32)))
    training_set = TrainingSet([data], [data], BlockStatistics(zero, one, zero + 20, one, zero, one), 50)
    model = train_cnn_lstm(training_set, PARAMS.model_copy(update={"steps": 0}), 0, True).model
    assert (model.weights >= 0).all()
    assert model.weights.nonzero().flatten().tolist() == used


@pytest.mark.parametrize("bidirectional", [True, False])
def test_it_learns_what_largest_and_average_error_do_not_show(bidirectional):
    params = PARAMS.model_copy(update={"steps": 300, "learning_rate": 3e-2})
    result = train_cnn_lstm(make_set(), params, 7, bidirectional)
    start, kept = result.history[0]["eval_loss"], min(row["eval_loss"] for row in result.history)
    assert kept < 0.8 * start
    again = train_cnn_lstm(make_set(), params, 7, bidirectional)
    assert [row["eval_loss"] for row in again.history] == [row["eval_loss"] for row in result.history]


def test_what_validation_does_not_confirm_is_not_kept():
    data = make_set()
    opposite = Windows(data.train[0].blocks, 1 - data.train[0].y_true)
    result = train_cnn_lstm(replace(data, train=[opposite]), PARAMS, 7, True)
    assert not any(member.head.weight.any() for member in result.model.members)  # as at the start


def test_windows_are_spliced_reversed_and_shifted_with_their_labels():
    y_true = np.zeros((4, 8), np.float32)
    y_true[:, 5:] = 1
    blocks = np.broadcast_to((100 * np.arange(4)[:, None] + np.arange(8))[..., None, None, None], (4, 8, 2, 5, 7))
    windows = Windows(torch.from_numpy(blocks.astype(np.float32)), torch.from_numpy(y_true))
    before = windows.blocks.clone()
    zero, std = np.zeros(2, np.float32), np.array([0.01, 0.02], np.float32)
    drawn, truth = draw_batch(
        windows, 200, BlockStatistics(zero, zero, zero, std, zero, zero), np.random.default_rng(0)
    )
    assert torch.equal(windows.blocks, before)
    frames = drawn[:, :, 0, 0, 0].round()
    numbers, sources = frames % 100, frames // 100
    assert torch.equal(truth, (numbers >= 5).float())
    assert (sources[:, 0] != sources[:, -1]).float().mean() > 0.25
    assert 0.4 < (numbers[:, 0] == 7).float().mean() < 0.6
    shifts = (drawn[:, :, :, 0, 0] - frames[..., None]) / torch.from_numpy(std)
    assert shifts[..., 0] == pytest.approx(shifts[..., 1], abs=0.01)  # of all timesteps alike
    normal, anomalous = shifts[..., 0][truth == 0], shifts[..., 0][truth == 1]
    assert normal.std() == pytest.approx(1, abs=0.15)
    assert anomalous.std() == pytest.approx(2**0.5, abs=0.2)


@pytest.mark.parametrize(("correlation", "expected"), [(0.0, 1), (0.5, 3), (0.8, 9)])
def test_the_autocorrelation_time_is_that_of_an_autoregression(correlation, expected):
    rng = np.random.default_rng(0)
    scores = np.zeros((20, 500), np.float32)
    for frame in range(1, 500):
        scores[:, frame] = correlation * scores[:, frame - 1] + rng.standard_normal(20)
    y_true = torch.zeros(20, 500)
    y_true[:, 250:] = 1
    shifted = torch.from_numpy(scores) + 10 * y_true  # a label's own level is no correlation
    assert measure_autocorrelation_time([(shifted, y_true)]) == pytest.approx(expected, rel=0.2)


def test_scores_that_never_change_have_no_autocorrelation():
    assert measure_autocorrelation_time([(torch.ones(3, 8), torch.zeros(3, 8))]) == 1


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
        assert fit_calibration(few, 1.0)(logit) == pytest.approx(fit_calibration(many, 1.0)(logit), abs=0.08)
    assert fit_calibration(many, 1.0)(1.0) == pytest.approx(1 / (1 + np.exp(-2)), abs=0.05)  # what Bayes says


def test_scores_that_are_no_evidence_stay_in_order():
    scored = [(float(x), x < 0) for x in np.linspace(-1, 1, 20)]
    assert fit_calibration(scored, 1.0)(5.0) >= fit_calibration(scored, 1.0)(-5.0)


def test_one_class_is_not_calibrated():
    calibration = fit_calibration([(0.0, True), (1.0, True)], 3.0)
    assert calibration(0.0) == 0.5
    assert calibration.threshold == 0.25

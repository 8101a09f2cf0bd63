"""Each signal: exact cases by hand, and what its statistics promise, by simulation."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitored import LABELS, UNTIL, WEEK, make_classifier, make_labels, make_params, make_window, make_windows
from scipy.stats import binom
from sklearn.metrics import f1_score

from evergreen.monitoring.signals import Measurement, load_signals
from evergreen.monitoring.signals.estimated_performance import (
    estimate_accuracy,
    estimate_by_threshold,
    estimate_macro_f1,
)
from evergreen.monitoring.signals.measured_performance import estimate_macro_f1 as measure_macro_f1
from evergreen.monitoring.staleness import measure, share_budget
from evergreen.monitoring.windows import LabeledSample, Windows

ALPHA = 1e-3
SIGNALS = load_signals(make_params().signals)


def look(signal: str, windows: Windows, alpha: float = ALPHA) -> Measurement:
    return SIGNALS[signal].measure(windows, alpha)


def test_age_is_that_of_the_newest_text_trained_on() -> None:
    measurement = look("age", make_windows(10))
    assert measurement.value == 61  # from the first of March to the first of May
    assert measurement.status == "ok"
    late = make_windows(10, current=make_window(10, until=UNTIL + timedelta(days=120)))
    assert look("age", late).status == "alarm"


def test_volume_names_models_that_do_not_count() -> None:
    few = look("volume", make_windows(7, n_by_model={"text 0.2.0 def": 900}))
    assert few.status == "unknown"
    assert (
        few.message
        == "Volume: 7 predictions, too few to judge: 200 are needed (900 by text 0.2.0 def, which do not count)."
    )
    assert look("volume", make_windows(200)).status == "ok"


def test_signals_that_need_traffic_are_unknown_without() -> None:
    reasons = {reason.signal: reason for reason in measure(make_windows(20), SIGNALS, make_params())}
    assert {name for name, reason in reasons.items() if reason.status == "unknown"} == SIGNALS.keys() - {"age"}
    assert reasons["class_drift"].message == "Predicted classes: too few predictions (20) to judge."


def test_estimated_accuracy_by_hand() -> None:
    y_proba = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], np.float32)
    confidence = y_proba.max(1)
    assert estimate_accuracy(confidence).value == pytest.approx((0.9 + 0.6 + 0.8) / 3)
    # Class 0: 1.5 of two predictions right, 1.7 texts are of it; class 1: 0.8 of one, 1.3 texts.
    assert estimate_macro_f1(y_proba) == pytest.approx((2 * 1.5 / 3.7 + 2 * 0.8 / 2.3) / 2)
    reference = np.array([0.5, 0.6, 0.7, 0.8, 0.9], np.float32)
    labels = make_labels([0] * 5, [1, 1, 0, 0, 0])  # as many are right as reach 0.66
    assert estimate_by_threshold(reference, labels, np.array([0.55, 0.65, 0.75, 0.95], np.float32)) == 0.5


def test_estimate_of_a_calibrated_model_covers_its_accuracy() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        confidence = rng.beta(6, 2, 400).astype(np.float32)
        interval = estimate_accuracy(confidence)
        covered += interval.low <= 0.75 <= interval.high
    assert covered >= binom.ppf(1e-4, 300, 0.95)


def test_lower_confidence_gives_an_alarm_and_higher_does_not() -> None:
    rng = np.random.default_rng(0)

    def make(strength: float, seed: int) -> Any:
        return make_window(400, seed, y_proba=rng.dirichlet([strength, 1, 1], 400).astype(np.float32))

    lower = look("estimated_performance", make_windows(reference=make(8, 1), current=make(3, 2)))
    assert lower.status == "alarm"
    assert lower.value is not None
    assert lower.threshold is not None
    assert lower.value < lower.threshold
    assert sum(line.startswith("unsure: “a text of number") for line in lower.evidence) == 3
    higher = look("estimated_performance", make_windows(reference=make(3, 1), current=make(8, 2)))
    assert higher.status == "ok"
    assert "above the reference's" in higher.message
    assert look("confidence_drift", make_windows(reference=make(8, 1), current=make(2, 2))).status == "alarm"


def test_class_drift_names_what_moved_most() -> None:
    def make(counts: list[int]) -> Any:
        codes = np.repeat(np.arange(3), counts)
        return make_window(sum(counts), y_proba=np.eye(3, dtype=np.float32)[codes])

    measurement = look("class_drift", make_windows(reference=make([300, 60, 40]), current=make([60, 100, 40])))
    assert measurement.status == "alarm"
    assert measurement.value == pytest.approx(0.45)
    assert measurement.evidence[0] == "negative: 75.0% of the reference, 30.0% now"
    assert look("class_drift", make_windows(reference=make([300, 60, 40]), current=make([150, 32, 18]))).status == "ok"


def test_small_but_certain_differences_are_no_alarm() -> None:
    reference = make_window(8000, y_proba=np.eye(3, dtype=np.float32)[np.repeat([0, 1], [6000, 2000])])
    current = make_window(8000, y_proba=np.eye(3, dtype=np.float32)[np.repeat([0, 1], [5500, 2500])])
    measurement = look("class_drift", make_windows(reference=reference, current=current))
    assert measurement.p_value is not None
    assert measurement.p_value < ALPHA
    assert measurement.status == "ok"


def test_embedding_drift_shows_the_texts() -> None:
    reference = make_window(300, 1, texts=[f"my flight number {i} was late" for i in range(300)])
    current = make_window(300, 2, shift=0.6, texts=[f"my new phone number {i} is great" for i in range(300)])
    measurement = look("embedding_drift", make_windows(reference=reference, current=current))
    assert measurement.status == "alarm"
    assert measurement.evidence[0].startswith("now frequent: ")
    assert "phone (0.0% → 100.0%)" in measurement.evidence[0]
    assert any(line.startswith("“my new phone") and "most like “my flight" in line for line in measurement.evidence)


@pytest.mark.parametrize("signal", ["embedding_drift", "data_quality"])
def test_without_texts_there_is_nothing_to_compare(signal: str) -> None:
    measurement = look(signal, make_windows(current=make_window(0, texts=[None] * 300)))
    assert measurement.status == "unknown"
    assert "EVERGREEN_LOG_TEXT" in measurement.message


def test_macro_f1_is_the_librarys() -> None:
    rng = np.random.default_rng(0)
    predicted, actual = rng.integers(0, 3, (2, 200))
    estimate = measure_macro_f1(make_labels(predicted, actual), 3, 0.05)
    assert estimate.value == pytest.approx(f1_score(actual, predicted, average="macro"))
    assert estimate.low < estimate.value < estimate.high


def test_macro_f1_is_hardly_ever_outside_at_any_look() -> None:
    rng = np.random.default_rng(0)
    joint = np.array([[0.5, 0.08, 0.02], [0.05, 0.15, 0.02], [0.02, 0.03, 0.13]])  # actual, predicted
    true = np.mean([2 * joint[i, i] / (joint[i].sum() + joint[:, i].sum()) for i in range(3)])
    alpha, left = 0.2, 0
    for _ in range(100):
        cells = rng.choice(9, 200, p=joint.ravel())
        estimates = [measure_macro_f1(make_labels(cells[:n] % 3, cells[:n] // 3), 3, alpha) for n in range(5, 201, 15)]
        left += any(not estimate.low <= true <= estimate.high for estimate in estimates)
    assert left <= binom.isf(1e-3, 100, alpha)


def make_sample(n_right: int, n_wrong: int, weeks_ago: int = 0, **fields: Any) -> LabeledSample:
    times = {"since": UNTIL - (weeks_ago + 1) * WEEK, "until": UNTIL - weeks_ago * WEEK}
    return make_labels([0] * (n_right + n_wrong), [0] * n_right + [1] * n_wrong, **times, **fields)


def test_measured_accuracy_gives_an_alarm_below_the_test_result() -> None:
    """The test set of these windows was predicted right to 85%."""
    good = look("measured_performance", make_windows(labels=[make_sample(170, 30)]))
    assert (good.status, good.value) == ("ok", pytest.approx(0.85))
    bad = look("measured_performance", make_windows(labels=[make_sample(100, 100)]))
    assert (bad.status, bad.value) == ("alarm", 0.5)
    assert bad.high is not None
    assert bad.threshold is not None
    assert bad.high < bad.threshold < 0.85
    assert bad.evidence[0] == "neutral, predicted as negative: 100 times"


def test_newest_window_with_enough_labels_is_judged() -> None:
    samples = [make_sample(10, 0), make_sample(100, 100, 1), make_sample(200, 0, 2)]
    measurement = look("measured_performance", make_windows(labels=samples))
    assert measurement.value == 0.5
    assert "from 2026-04-17 until 2026-04-24" in measurement.message
    few = look("measured_performance", make_windows(labels=samples[:1]))
    assert few.message == "Measured accuracy: at most 10 labels in a window, 50 are needed to judge."


def test_weights_widen_the_interval_as_fewer_examples_would() -> None:
    even = look("measured_performance", make_windows(labels=[make_sample(80, 20)]))
    weights = [1.5] * 40 + [0.5] * 40 + [1.5] * 10 + [0.5] * 10  # as 80 examples, by Kish
    uneven = look("measured_performance", make_windows(labels=[make_sample(80, 20, weights=weights)]))
    eighty = look("measured_performance", make_windows(labels=[make_sample(64, 16)]))
    assert uneven.value == pytest.approx(0.8)
    assert (uneven.low, uneven.high) == (pytest.approx(eighty.low), pytest.approx(eighty.high))
    assert even.low is not None
    assert uneven.low is not None
    assert uneven.low < even.low


def test_nothing_is_corrected_where_too_much_resembles_no_label() -> None:
    weights = [1.5] * 80 + [0.2] * 20
    corrected = look("measured_performance", make_windows(labels=[make_sample(80, 20, weights=weights, uncovered=0.1)]))
    raw = look("measured_performance", make_windows(labels=[make_sample(80, 20, weights=weights, uncovered=0.11)]))
    assert corrected.value is not None
    assert corrected.value > 0.9
    assert raw.value == 0.8
    assert raw.details["uncovered"] == 0.11


def test_a_label_that_the_champion_does_not_know_is_an_error() -> None:
    sample = make_labels([0] * 100, [-1] * 60 + [0] * 40)
    measurement = look("measured_performance", make_windows(labels=[sample]))
    assert measurement.value == pytest.approx(0.4)
    assert measurement.evidence[0] == "a label that the model does not have, predicted as negative: 60 times"


GOOD_TEXTS = [
    f"the flight {word} to a place of number {i} was good and {word} again" for i in range(60) for word in "abcde"
]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("empty", lambda _: ""),
        ("short", lambda i: f"ok go {i % 9}"),
        ("cut_off_at_one_length", lambda i: GOOD_TEXTS[i][:30]),
        ("garbled", lambda i: GOOD_TEXTS[i].replace("good", "gÃ¼Ã¶d")),
        ("in_an_unknown_script", lambda i: "рейс опять задержали на три часа " + "а" * (i % 20)),
        (
            "in_a_new_language",
            lambda i: f"le vol numéro {i} est encore en retard et personne ne nous explique pourquoi",
        ),
        ("too_long", lambda i: "word1 " * (60 + i % 30)),
    ],
)
def test_each_fault_of_the_data_is_named(kind: str, change: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    classifier = make_classifier(tmp_path_factory.getbasetemp() / "bundle")
    broken = [change(i) if i % 2 else text for i, text in enumerate(GOOD_TEXTS)]
    reference, current = (make_window(0, texts=texts) for texts in (GOOD_TEXTS, broken))
    measurement = look("data_quality", make_windows(classifier=classifier, reference=reference, current=current))
    assert measurement.status == "alarm"
    assert measurement.details[kind] == pytest.approx(0.5, abs=0.02)
    assert kind.replace("_", " ") in measurement.message
    assert any(line.startswith(f"{kind.replace('_', ' ')}: “") for line in measurement.evidence)


def test_good_data_are_no_alarm(tmp_path_factory: pytest.TempPathFactory) -> None:
    classifier = make_classifier(tmp_path_factory.getbasetemp() / "bundle")
    reference, current = (make_window(0, texts=texts) for texts in (GOOD_TEXTS, GOOD_TEXTS[::-1]))
    measurement = look("data_quality", make_windows(classifier=classifier, reference=reference, current=current))
    assert measurement.status == "ok"
    assert measurement.p_value == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_measurement_holds_its_own_interval(seed: int) -> None:
    windows = make_windows(250, current=make_window(250, seed))
    for name in ("class_drift", "confidence_drift", "estimated_performance", "embedding_drift"):
        measurement = look(name, windows, 0.01)
        assert measurement.value is not None
        assert measurement.low is not None
        assert measurement.high is not None
        assert measurement.low <= measurement.value <= measurement.high
        assert measurement.p_value is not None
        assert 0 < measurement.p_value <= 1


@pytest.mark.slow
def test_months_without_change_seldom_bring_an_alarm() -> None:
    """The budget of 40% for a month of six looks is kept by all signals together, distances that matter left aside."""
    rate, months, looks = 0.4, 40, 6
    params = make_params(false_alarm_rate=rate, budget_days=looks, look_days=1)
    changes = {"min_distance": 1e-9, "min_loss": 1e-9, "margin": 0.0}
    signals = {
        name: signal.model_copy(
            update={key: value for key, value in changes.items() if key in type(signal).model_fields}
        )
        for name, signal in SIGNALS.items()
        if name
        in ("class_drift", "confidence_drift", "estimated_performance", "embedding_drift", "measured_performance")
    }
    assert sum(share_budget(signals, params).values()) == pytest.approx(rate / looks)
    rng = np.random.default_rng(1)
    alarms = 0
    for month in range(months):
        reference = make_window(300, 10_000 + month)
        test = rng.random(300) < 0.85
        for number in range(looks):
            right = (rng.random(200) < 0.85).astype(int)
            windows = make_windows(
                reference=reference,
                current=make_window(200, 100 * month + number),
                reference_labels=make_labels([0] * 300, 1 - test.astype(int)),
                labels=[make_labels([0] * 200, 1 - right)],
                seed=month * looks + number,
            )
            if any(reason.status == "alarm" for reason in measure(windows, signals, params)):
                alarms += 1
                break
    assert alarms <= binom.isf(1e-3, months, rate)


def test_labels_are_those_of_the_bundle() -> None:
    assert make_windows(3).current.labels == LABELS


def test_parameters_change_what_is_an_alarm(tmp_path: Path) -> None:
    strict = SIGNALS["age"].model_copy(update={"max_days": 30})
    assert strict.measure(make_windows(10), 0.0).status == "alarm"

"""Evaluation: by hand, against scikit-learn, and the interval by simulation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from evergreen import params
from evergreen.text import evaluation
from evergreen.text.runtime import Classifier

TRUTH = np.array([0, 0, 0, 1, 1, 2])
ANSWERS = np.array([0, 0, 1, 1, 2, 2])
LABELS = ["negative", "neutral", "positive"]


def test_scores_by_hand() -> None:
    assert evaluation.accuracy(TRUTH, ANSWERS) == pytest.approx(4 / 6)
    # F1: 4/5 (2 right of 3 true and 2 answered), 2/4, 2/3.
    expected = (4 / 5 + 1 / 2 + 2 / 3) / 3
    assert evaluation.macro_f1(TRUTH, ANSWERS) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, answers = np.array(pairs).T
    expected = f1_score(truth, answers, average="macro", zero_division=0.0)
    assert evaluation.macro_f1(truth, answers) == pytest.approx(expected)


def test_confusion_has_the_truth_in_rows() -> None:
    assert evaluation.confusion(TRUTH, ANSWERS, LABELS).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    lonely = evaluation.confusion(np.array([0]), np.array([2]), LABELS)
    assert lonely.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_per_class_by_hand() -> None:
    found = evaluation.per_class(TRUTH, ANSWERS, LABELS)
    assert found["negative"] == pytest.approx({"precision": 1, "recall": 2 / 3, "f1": 0.8, "texts": 3})
    assert found["neutral"] == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "texts": 2})
    absent = evaluation.per_class(np.array([0]), np.array([0]), LABELS)["positive"]
    assert absent == {"precision": 0, "recall": 0, "f1": 0, "texts": 0}


def test_calibration_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [1.0, 0.0]])
    found = evaluation.calibration(np.array([0, 1, 1, 0]), probabilities, 5)
    # Bins of a fifth: 0.7 alone (right), then 0.9, 0.9 and 1.0 (two of three right).
    assert found["confidence"] == pytest.approx([0.7, 2.8 / 3])
    assert found["accuracy"] == pytest.approx([1, 2 / 3])
    assert found["texts"] == [1, 3]
    assert found["ece"] == pytest.approx((0.3 * 1 + (2.8 / 3 - 2 / 3) * 3) / 4)


def test_a_calibrated_model_has_no_calibration_error() -> None:
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert evaluation.calibration(np.array([0, 0, 0, 1]), probabilities, 10)["ece"] == pytest.approx(0)


def test_slices_by_hand(chosen: params.Params) -> None:
    lengths = [0, 39, 40, 119, 120, 200_000]
    rows = pd.DataFrame({"text": ["x" * n for n in lengths], "source": ["b", "a", "a", "b", "b", "b"]})
    found = evaluation.slices(rows, TRUTH, ANSWERS, chosen.evaluate, 7)
    assert {name: (s["value"], s["texts"]) for name, s in found["source"].items()} == {
        "a": (0.5, 2),
        "b": (0.75, 4),
    }
    assert {name: (s["value"], s["texts"]) for name, s in found["characters"].items()} == {
        "0–40": (1, 2),
        "40–80": (0, 1),
        "80–120": (1, 1),
        "120 and more": (0.5, 2),
    }


def test_cost_by_hand(chosen: params.Params) -> None:
    priced = chosen.evaluate.model_copy(update={"price_per_hour": 0.5, "watts": 100.0, "currency": "EUR"})
    assert evaluation.cost(1800, 1000, priced) == pytest.approx(
        {
            "currency": "EUR",
            "training_seconds": 1800,
            "training": 0.25,
            "training_watt_hours": 50,
            "million_predictions": 1000 / 3600 * 0.5,
            "million_predictions_watt_hours": 1000 / 3600 * 100,
        }
    )


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    share, runs, covered = 0.8, 300, 0
    for seed in range(runs):
        right = (rng.random(200) < share).astype(int)
        found = evaluation.bootstrap(evaluation.accuracy, (np.ones(200, int), right), 200, 0.9, seed)
        covered += found["low"] <= share <= found["high"]
    assert 0.84 <= covered / runs <= 0.95  # three standard errors, and a little for the percentile method


def test_the_interval_depends_on_the_seed_alone(chosen: params.Params) -> None:
    truth, answers = np.tile(TRUTH, 10), np.tile(ANSWERS, 10)
    one, same, other = (evaluation.scores(truth, answers, chosen.evaluate, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    for score in one.values():
        assert score["low"] < score["value"] < score["high"]


def test_more_confidence_is_a_wider_interval() -> None:
    arrays = (np.tile(TRUTH, 10), np.tile(ANSWERS, 10))
    wide, narrow = (evaluation.bootstrap(evaluation.accuracy, arrays, 300, c, 3) for c in (0.99, 0.6))
    assert wide["low"] < narrow["low"]
    assert narrow["high"] < wide["high"]


def test_labels_become_positions() -> None:
    assert evaluation.indices(pd.Series(["positive", "negative"]), LABELS).tolist() == [2, 0]
    with pytest.raises(ValueError, match="sad"):
        evaluation.indices(pd.Series(["sad"]), LABELS)


def test_yardsticks_on_real_texts(chosen: params.Params, data: Path) -> None:
    train, test = (pd.read_parquet(data / f"{split}.parquet") for split in ("train", "test"))
    found = evaluation.yardsticks(train, test, LABELS, chosen.evaluate, 7)
    majority = train["label"].mode()[0]
    expected = (test["label"] == majority).mean()
    assert found["majority class"]["accuracy"]["value"] == pytest.approx(expected)
    learned = found["TF-IDF + logistic regression"]["macro_f1"]["value"]
    assert found["majority class"]["macro_f1"]["value"] < learned <= 1


def test_speed_measures_even_with_fewer_texts_than_asked(int8: Classifier, chosen: params.Params) -> None:
    found = evaluation.speed(int8, ["late again", "thanks"], chosen.evaluate)
    assert 0 < found.p50_ms <= found.p99_ms
    assert found.texts_per_second > 0

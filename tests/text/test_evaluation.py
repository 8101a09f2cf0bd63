"""Evaluation: by hand, against scikit-learn, and the interval by simulation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from evergreen.params import EvaluateParams, Params
from evergreen.text import evaluation
from evergreen.text.evaluation_metrics import Reliability, TextMetrics
from evergreen.text.report import write_report
from evergreen.text.runtime import Classifier

Y_TRUE = np.array([0, 0, 0, 1, 1, 2])
Y_PRED = np.array([0, 0, 1, 1, 2, 2])
LABELS = ["negative", "neutral", "positive"]
ROOT = Path(__file__).parents[2]
CHINESE = ROOT / "../shared/data/cases/18-chinese.csv"


@pytest.fixture
def evaluate(params: Params) -> EvaluateParams:
    return params.evaluate


def test_scores_by_hand() -> None:
    assert evaluation.accuracy(Y_TRUE, Y_PRED) == pytest.approx(4 / 6)
    # F1: 4/5 (2 right of 3 actual and 2 predicted), 2/4, 2/3.
    expected = (4 / 5 + 1 / 2 + 2 / 3) / 3
    assert evaluation.macro_f1(Y_TRUE, Y_PRED) == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    y_true, y_pred = np.array(pairs).T
    expected = f1_score(y_true, y_pred, average="macro", zero_division=0.0)
    assert evaluation.macro_f1(y_true, y_pred) == pytest.approx(expected)


def test_class_scores_by_hand() -> None:
    scores = evaluation.score_classes(Y_TRUE, Y_PRED, LABELS)
    negative = {"precision": 1, "recall": 2 / 3, "f1": 0.8, "support": 3}
    assert scores["negative"].model_dump() == pytest.approx(negative)
    assert scores["neutral"].model_dump() == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2})
    absent = evaluation.score_classes(np.array([0]), np.array([0]), LABELS)["positive"]
    assert absent.model_dump() == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def calibrate(y_true: list[int], y_proba: list[list[float]], params: EvaluateParams, n_bins: int) -> Reliability:
    settings = params.model_copy(update={"n_bins": n_bins})
    return evaluation.measure_calibration(np.array(y_true), np.array(y_proba, np.float32), settings)


def test_calibration_by_hand(evaluate: EvaluateParams) -> None:
    curve = calibrate([0, 1, 1, 0], [[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [1.0, 0.0]], evaluate, 5)
    # Bins of a fifth: 0.7 alone (right), then 0.9, 0.9 and 1.0 (two of three right).
    assert curve.confidence == pytest.approx([0.7, 2.8 / 3])
    assert curve.accuracy == pytest.approx([1, 2 / 3])
    assert curve.n_samples == [1, 3]
    assert curve.ece == pytest.approx((0.3 * 1 + (2.8 / 3 - 2 / 3) * 3) / 4)


def test_small_bins_have_wide_intervals(evaluate: EvaluateParams) -> None:
    few = calibrate([0, 0, 1], [[0.9, 0.1]] * 3, evaluate, 5)
    many = calibrate([0, 0, 1] * 300, [[0.9, 0.1]] * 900, evaluate, 5)
    assert few.low[0] < many.low[0] < few.accuracy[0] < many.high[0] < few.high[0]
    assert few.high[0] - few.low[0] > 5 * (many.high[0] - many.low[0])


def test_a_calibrated_model_has_no_calibration_error(evaluate: EvaluateParams) -> None:
    assert calibrate([0, 0, 0, 1], [[0.75, 0.25]] * 4, evaluate, 10).ece == pytest.approx(0)


def test_slices_by_hand(evaluate: EvaluateParams) -> None:
    lengths = [0, 39, 40, 119, 120, 200_000]
    rows = pd.DataFrame({"text": ["x" * n for n in lengths], "topic": ["b", "a", "a", "b", "b", "b"]})

    def score(slices: "pd.Series[str]") -> dict[str, tuple[float, int]]:
        scores = evaluation.score_slices(slices, Y_TRUE, Y_PRED, evaluate, 7)
        return {name: (score.value, score.n_samples) for name, score in scores.items()}

    assert score(rows["topic"]) == {"a": (0.5, 2), "b": (0.75, 4)}
    slices = evaluation.name_lengths(rows["text"], [40, 80, 120])
    assert score(slices) == {
        "0_to_39": (1, 2),
        "40_to_79": (0, 1),
        "80_to_119": (1, 1),
        "120_and_more": (0.5, 2),
    }


def test_one_text_says_nothing_of_the_next(evaluate: EvaluateParams) -> None:
    estimate = evaluation.bootstrap(evaluation.accuracy, Y_TRUE[:1], Y_PRED[:1], evaluate, 7)
    assert (estimate.low, estimate.value, estimate.high) == (0, 1, 1)


def test_unseen_topics_are_sampled(int8: Classifier, data: Path, evaluate: EvaluateParams) -> None:
    rows = pd.read_parquet(data / "train.parquet").head(60)
    stream = rows.assign(topic=["many"] * 50 + ["few"] * 10)
    scores = evaluation.score_unseen_topics(int8, stream, evaluate, 7)
    assert {name: score.n_samples for name, score in scores.items()} == {"few": 10, "many": 20}
    assert evaluation.score_unseen_topics(int8, stream, evaluate, 7) == scores
    assert evaluation.score_unseen_topics(int8, stream.head(0), evaluate, 7) == {}


def test_cost_by_hand(evaluate: EvaluateParams) -> None:
    priced = evaluate.model_copy(update={"price_per_hour": 0.5, "watts": 100.0, "currency": "EUR"})
    assert evaluation.estimate_cost(1800, 1000, priced).model_dump() == pytest.approx(
        {
            "currency": "EUR",
            "training_cost": 0.25,
            "training_energy_wh": 50,
            "inference_cost_per_million": 1000 / 3600 * 0.5,
            "inference_energy_per_million_wh": 1000 / 3600 * 100,
        }
    )


def test_the_interval_covers_the_truth_as_often_as_it_says(evaluate: EvaluateParams) -> None:
    rng = np.random.default_rng(11)
    settings = evaluate.model_copy(update={"n_resamples": 200, "confidence_level": 0.9})
    runs, covered = 300, 0
    for seed in range(runs):
        correct = (rng.random(200) < 0.8).astype(int)
        estimate = evaluation.bootstrap(evaluation.accuracy, np.ones(200, int), correct, settings, seed)
        covered += estimate.low <= 0.8 <= estimate.high
    assert 0.84 <= covered / runs <= 0.95  # three standard errors, and a little for the percentile method


def test_the_interval_depends_on_the_seed_alone(evaluate: EvaluateParams) -> None:
    y_true, y_pred = np.tile(Y_TRUE, 10), np.tile(Y_PRED, 10)
    one, same, other = (evaluation.score(y_true, y_pred, evaluate, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    for estimate in (one.accuracy, one.macro_f1):
        assert estimate.low < estimate.value < estimate.high


def test_a_higher_confidence_level_is_a_wider_interval(evaluate: EvaluateParams) -> None:
    y_true, y_pred = np.tile(Y_TRUE, 10), np.tile(Y_PRED, 10)
    wide, narrow = (
        evaluation.bootstrap(
            evaluation.accuracy, y_true, y_pred, evaluate.model_copy(update={"confidence_level": level}), 3
        )
        for level in (0.99, 0.6)
    )
    assert wide.low < narrow.low
    assert narrow.high < wide.high


def test_labels_become_positions() -> None:
    assert evaluation.encode_labels(pd.Series(["positive", "negative"]), LABELS).tolist() == [2, 0]
    with pytest.raises(ValueError, match="sad"):
        evaluation.encode_labels(pd.Series(["sad"]), LABELS)


def test_baselines_on_real_texts(evaluate: EvaluateParams, data: Path) -> None:
    train, test = (pd.read_parquet(data / f"{split}.parquet") for split in ("train", "test"))
    baselines, unfitted = evaluation.score_baselines(train, test, LABELS, evaluate, 7)
    assert unfitted == {}
    assert evaluation.choose_analyzer(train["text"]) == "word"
    majority = baselines["majority_class"]
    assert majority.accuracy.value == pytest.approx((test["label"] == train["label"].mode()[0]).mean())
    assert majority.macro_f1.value < baselines["tfidf_logistic_regression"].macro_f1.value <= 1


def test_baselines_on_texts_without_spaces(evaluate: EvaluateParams) -> None:
    if not CHINESE.exists():
        pytest.skip(f"{CHINESE} is missing")
    rows = pd.read_csv(CHINESE)
    train, test = rows.iloc[::2], rows.iloc[1::2]
    scores, unfitted = evaluation.score_baselines(train, test, ["bad", "good"], evaluate, 7)
    assert unfitted == {}
    assert scores["tfidf_logistic_regression"].accuracy.value > scores["majority_class"].accuracy.value + 0.2


def test_a_baseline_that_can_not_be_fitted_is_reported(evaluate: EvaluateParams) -> None:
    # No sign occurs in two texts.
    train = pd.DataFrame({"text": ["ab", "cd", "ef"], "label": ["negative", "neutral", "neutral"]})
    scores, unfitted = evaluation.score_baselines(train, train, LABELS, evaluate, 7)
    assert list(scores) == ["majority_class"]
    assert list(unfitted) == ["tfidf_logistic_regression"]
    assert "no terms remain" in unfitted["tfidf_logistic_regression"]


def test_the_report_is_drawn_without_a_baseline(tmp_path: Path) -> None:
    metrics = TextMetrics.load(ROOT / "metrics/text.json")
    unfitted = dict.fromkeys(metrics.baselines, "no terms remain")
    (tmp_path / "training.csv").write_text((ROOT / "reports/text/training.csv").read_text())
    changed = metrics.model_copy(update={"baselines": {}, "unfitted_baselines": unfitted})
    pictures = write_report(changed, pd.Series(["negative"]), np.array([0]), LABELS, tmp_path)
    assert all(picture.exists() for picture in pictures)


def test_latency_is_measured_even_with_few_texts(int8: Classifier, evaluate: EvaluateParams) -> None:
    latency = evaluation.measure_latency(int8, ["late again", "thanks"], evaluate)
    assert 0 < latency.p50_ms <= latency.p99_ms
    assert latency.samples_per_second > 0

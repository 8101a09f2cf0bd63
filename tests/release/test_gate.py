"""The gate's rules by hand, and how often it is wrong: equal challengers seldom pass, better ones mostly do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import f1_score
from tiny_text_bundle import LABELS, write_bundle

from evergreen.metrics import Estimate
from evergreen.params import Params
from evergreen.release.comparison import Answers, compare_accuracy, compare_macro_f1
from evergreen.release.gate import (
    Check,
    TestSet,
    conclude,
    judge_budget,
    judge_champion,
    judge_latency,
    judge_video,
    list_changed,
)
from evergreen.text.runtime import Classifier
from evergreen.video.metrics import VideoMetrics

ROOT = Path(__file__).parents[2]
PARAMS = Params.load(ROOT / "params.yaml")
GATE, EVALUATE = PARAMS.gate, PARAMS.evaluate
N_REAL = 2097
"""Texts of the default test set."""


def draw_answers(rng: np.random.Generator, size: int, gain: float, disagreement: float = 0.12) -> Answers:
    """A champion that is right about 85%, and a challenger that is so much better, as paired as real ones are."""
    y_true = rng.choice(3, size, p=[0.63, 0.21, 0.16])
    wrong = (y_true + rng.integers(1, 3, size)) % 3
    lost = (disagreement - gain) / 2
    cells = rng.choice(
        4, size, p=[0.85 - lost, lost, lost + gain, 0.15 - lost - gain]
    )  # both right, lost, gained, none
    champion = np.where(cells <= 1, y_true, wrong)
    challenger = np.where((cells == 0) | (cells == 2), y_true, wrong)
    return Answers(y_true, champion, challenger)


def make_test(answers: Answers, n_new: int, **columns: Any) -> TestSet:
    size = len(answers)
    rows = pd.DataFrame(
        {
            "text": [f"text {i}" * (1 + i % 9) for i in range(size)],
            "label": [LABELS[code] for code in answers.y_true],
            "topic": "airline",
        }
        | columns
    )
    y_proba = []
    for codes in (answers.champion, answers.challenger):  # as sure as they are right
        sure = (codes == answers.y_true).mean()
        y_proba.append((np.eye(3)[codes] * (1.5 * sure - 0.5) + (1 - sure) / 2).astype(np.float32))
    return TestSet(rows, answers, (y_proba[0], y_proba[1]), np.arange(size) >= size - n_new, LABELS)


def judge(test: TestSet, seed: int = 0, **changes: Any) -> dict[str, Check]:
    checks, _ = judge_champion(test, GATE.model_copy(update=changes), EVALUATE, seed)
    return {check.name: check for check in checks}


def passes(test: TestSet, seed: int) -> bool:
    return all(check.status != "failed" for check in judge(test, seed, n_resamples=2000).values())


@pytest.mark.slow
def test_equal_challengers_seldom_pass() -> None:
    """The real sample size; half of the texts new, then nearly all."""
    for n_new in (N_REAL // 2, N_REAL - 100):
        passed = 0
        for i in range(200):
            rng = np.random.default_rng(i)
            passed += passes(make_test(draw_answers(rng, N_REAL, gain=0.0), n_new), i)
        assert passed <= binom.isf(1e-2, 200, 0.05), (n_new, passed)
        print(f"equal, {n_new} new: {passed / 200:.1%} pass")


@pytest.mark.slow
def test_better_challengers_mostly_pass() -> None:
    """Two points better on as many new texts as the test set has, and on as many older ones."""
    passed = 0
    for i in range(200):
        rng = np.random.default_rng(1000 + i)
        passed += passes(make_test(draw_answers(rng, 2 * N_REAL, gain=0.02), N_REAL), i)
    assert passed >= 0.8 * 200, passed
    print(f"two points better: {passed / 200:.1%} pass")


@pytest.mark.slow
def test_worse_challengers_hardly_ever_pass() -> None:
    passed = sum(
        passes(make_test(draw_answers(np.random.default_rng(i), N_REAL, gain=-0.02), N_REAL // 2), i)
        for i in range(100)
    )
    assert passed <= 1


def test_bounds_are_beyond_the_truth_as_often_as_asked() -> None:
    """One-sided, at the real disagreement."""
    below = {"accuracy": 0, "macro-F1": 0}
    for i in range(300):
        answers = draw_answers(np.random.default_rng(i), 600, gain=0.03)
        below["accuracy"] += compare_accuracy(answers, 0.1, 2000, i).low > 0.03
    for i in range(150):
        answers = draw_answers(np.random.default_rng(i), 600, gain=0.0)
        below["macro-F1"] += compare_macro_f1(answers, 3, 0.1, 1000, i).low > 0
    assert binom.ppf(1e-3, 300, 0.1) <= below["accuracy"] <= binom.isf(1e-3, 300, 0.1)
    assert binom.ppf(1e-3, 150, 0.1) <= below["macro-F1"] <= binom.isf(1e-3, 150, 0.1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_scores_are_the_librarys_and_the_sign_is_right(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    answers = Answers(*(rng.integers(0, 3, (3, size))))
    accuracy = compare_accuracy(answers, 0.05, 1000, seed)
    assert accuracy.challenger == pytest.approx((answers.challenger == answers.y_true).mean())
    assert accuracy.value == pytest.approx(accuracy.challenger - accuracy.champion)
    assert accuracy.low <= accuracy.value <= accuracy.high
    f1 = compare_macro_f1(answers, 3, 0.05, 1000, seed)
    for name in ("champion", "challenger"):
        expected = f1_score(answers.y_true, getattr(answers, name), average="macro")
        assert getattr(f1, name) == pytest.approx(expected)
    swapped = compare_accuracy(Answers(answers.y_true, answers.challenger, answers.champion), 0.05, 1000, seed)
    assert swapped.value == pytest.approx(-accuracy.value)


def test_same_answers_are_no_difference() -> None:
    y_true = np.array([0, 1, 2, 0])
    same = compare_accuracy(Answers(y_true, y_true, y_true), 0.05, 1000, 0)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert Answers(y_true, y_true, y_true).agreement == 1


def test_without_newer_texts_nothing_shows_that_it_is_better() -> None:
    test = make_test(draw_answers(np.random.default_rng(0), 500, gain=0.03), n_new=10)
    check = judge(test)["newest texts, accuracy"]
    assert check.status == "failed"
    assert check.message.startswith("10 test texts are newer than the champion's data, 50 are needed")


def test_a_loss_on_older_texts_fails() -> None:
    new = draw_answers(np.random.default_rng(0), 800, gain=0.08)
    old = draw_answers(np.random.default_rng(1), 800, gain=-0.05)
    joined = Answers(
        *(np.concatenate([getattr(part, name) for part in (old, new)]) for name in ("y_true", "champion", "challenger"))
    )
    checks = judge(make_test(joined, 800))
    assert checks["newest texts, accuracy"].status == "passed"
    assert checks["frozen test set, accuracy"].status == "failed"
    assert judge(make_test(joined, 800), max_loss=0.2)["frozen test set, accuracy"].status == "passed"
    every = judge(make_test(joined, 1600))
    assert every["frozen test set, accuracy"].status == "skipped"


def test_a_slice_that_is_surely_worse_fails() -> None:
    answers = draw_answers(np.random.default_rng(0), 1500, gain=0.05)
    hurt = np.arange(1500) % 10 == 0
    broken = replace(
        answers, challenger=np.where(hurt & (np.arange(1500) % 3 == 0), (answers.y_true + 1) % 3, answers.challenger)
    )
    topics = np.where(hurt, "refund", "airline")
    checks = judge(make_test(broken, 700, topic=topics))
    assert checks["slices"].status == "failed"
    assert checks["slices"].message.startswith("topic refund: -0.")
    assert "150 texts" in checks["slices"].message
    assert judge(make_test(answers, 700, topic=topics))["slices"].status == "passed"
    few = np.where(np.arange(1500) < 30, "rare", "airline")
    assert judge(make_test(answers, 700, topic=few))["slices"].status == "passed"


def test_worse_calibration_fails() -> None:
    answers = draw_answers(np.random.default_rng(0), 1000, gain=0.02)
    test = make_test(answers, 500)
    assert judge(test)["calibration"].status == "passed"
    sure = np.eye(3, dtype=np.float32)[answers.challenger]
    worse = judge(replace(test, y_proba=(test.y_proba[0], sure)))["calibration"]
    assert worse.status == "failed"


def test_budgets() -> None:
    assert [check.status for check in judge_budget(24.3, 0.005, "USD", GATE)] == ["passed", "passed"]
    assert [check.status for check in judge_budget(240, 5, "USD", GATE)] == ["failed", "failed"]
    assert judge_latency([2.0] * 9, [2.4] * 9, GATE).status == "passed"
    slow = judge_latency([2.0] * 9, [2.6] * 9, GATE)
    assert slow.status == "failed"
    assert slow.message.startswith("median 2.60 ms a text, the champion's 2.00 ms, text by text 1.30 times as long;")
    rng = np.random.default_rng(0)
    noisy = [rng.gamma(2, 2, 200) for _ in range(2)]  # the same model twice on a machine that does other things
    assert judge_latency(noisy[0], noisy[1], GATE).status == "passed"


def test_video_fails_where_it_is_surely_worse() -> None:
    champion = VideoMetrics.load(ROOT / "metrics/video.json")

    def change(value: float, high: float) -> VideoMetrics:
        return champion.model_copy(update={"frame_auc": Estimate(value=value, low=value - 0.1, high=high)})

    value = champion.frame_auc.value
    assert judge_video(champion, champion, GATE).status == "passed"
    assert judge_video(champion, change(value - 0.1, value + 0.05), GATE).status == "passed"  # it may be chance
    assert judge_video(champion, change(value - 0.1, value - 0.01), GATE).status == "failed"
    assert judge_video(None, champion, GATE).status == "skipped"


def test_changed_answers_are_of_every_kind() -> None:
    answers = draw_answers(np.random.default_rng(0), 600, gain=0.03)
    test = make_test(answers, 200)
    changed = list_changed(test, 12, 0)
    assert len(changed) == 12
    assert all(each.champion != each.challenger for each in changed)
    assert any(each.challenger == each.actual for each in changed)
    assert any(each.champion == each.actual for each in changed)
    assert changed == list_changed(test, 12, 0)
    assert list_changed(make_test(replace(answers, challenger=answers.champion), 200), 12, 0) == []


def test_a_champion_with_other_labels_is_wrong_about_those_it_lacks(tmp_path: Path) -> None:
    challenger = Classifier.load(write_bundle(tmp_path / "new"))
    champion = Classifier.load(write_bundle(tmp_path / "old", seed=2))
    champion.labels = ["negative", "neutral", "furious"]
    texts = [f"word{i} flight" for i in range(120)]
    times = pd.date_range("2026-02-01", periods=120, freq="D", tz="UTC")
    rows = pd.DataFrame({"text": texts, "label": LABELS * 40, "topic": "airline", "observed_at": times})
    test = TestSet.predict(rows, champion, challenger)
    assert test.is_new.sum() == (times > pd.Timestamp("2026-03-01", tz="UTC")).sum()
    assert set(test.answers.champion) <= {-1, 0, 1}
    assert any(each.champion == "a label that it lacks" for each in list_changed(test, 50, 0))


def test_conclusion_names_the_rules_that_failed() -> None:
    checks = [
        Check(name=name, status=status, message="")
        for name, status in (("a", "passed"), ("b", "failed"), ("c", "skipped"))
    ]
    failed = conclude(checks, "text 2", "text 1", None, [], 0)
    assert (failed.passed, failed.summary) == (False, "The challenger does not pass: b.")
    passed = conclude([checks[0], checks[2]], "text 2", "text 1", None, [], 0)
    assert (passed.passed, passed.summary) == (True, "The challenger passes all 1 rules.")

"""What is selected for a label: from the right predictions, each text once, and what each strategy is for."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from monitored import NEW, OLD, UNTIL, WEEK, make_classifier, make_rows

from evergreen.monitoring.label_selection import Candidates, measure_drift, rank, read_candidates, select
from evergreen.monitoring.log import PROBE_CALLER_ID, RANDOM_SOURCE, SELECTED_SOURCE, Feedback
from evergreen.monitoring.windows import Reference, read_windows
from evergreen.params import LabelingParams, Params
from evergreen.text.runtime import Classifier

SHIPPED = Params.load(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return make_classifier(tmp_path_factory.mktemp("bundle"))


def read(classifier: Classifier, rows: list, max_samples: int = 10_000) -> Candidates:
    return read_candidates(rows, classifier, UNTIL - WEEK, UNTIL, max_samples)


def make_candidates(classifier: Classifier, texts: list[str]) -> Candidates:
    return read(classifier, make_rows(classifier, texts))


def test_candidates_are_the_champions_unlabeled_texts_of_the_time(classifier: Classifier) -> None:
    rows = make_rows(
        classifier, ["good", "bad", "good", "late", "word1", "word2", "word3"], [None, "negative", *[None] * 5]
    )
    rows[3] = replace(rows[3], prediction=replace(rows[3].prediction, model="text 9.9.9 other"))
    rows[4] = replace(rows[4], prediction=replace(rows[4].prediction, caller_id=PROBE_CALLER_ID))
    rows[5] = replace(rows[5], prediction=replace(rows[5].prediction, text=None))
    rows[6] = replace(rows[6], prediction=replace(rows[6].prediction, observed_at=UNTIL))
    candidates = read(classifier, rows)
    assert [row.text for row in candidates.predictions] == ["good"]
    assert candidates.y_proba.shape == (1, 3)


def test_a_log_of_one_text_repeated_leaves_room_for_the_others(classifier: Classifier) -> None:
    rows = make_rows(classifier, ["good"] * 500 + ["bad", "late"])
    candidates = read(classifier, rows, max_samples=3)
    assert {row.text for row in candidates.predictions} == {"good", "bad", "late"}


@pytest.mark.parametrize("strategy", ["random", "uncertainty", "diversity", "drift", "combined"])
def test_each_prediction_is_selected_once_and_the_same_ones_again(classifier: Classifier, strategy: str) -> None:
    candidates = make_candidates(classifier, OLD[:100] + NEW[:100])
    reference = make_candidates(classifier, OLD[100:]).embeddings
    params = LabelingParams(strategy=strategy, random_fraction=0.5)
    selections = select(candidates, reference, 40, params, seed=7)
    assert len({selection.prediction.id for selection in selections}) == 40
    n_random = 40 if strategy == "random" else 20
    assert Counter(selection.strategy for selection in selections)["random"] == n_random
    assert select(candidates, reference, 40, params, seed=7) == selections
    assert len(select(candidates, reference, 10_000, params, seed=7)) == len(candidates)


def test_no_candidates_no_selection(classifier: Classifier) -> None:
    candidates = make_candidates(classifier, [])
    reference = make_candidates(classifier, OLD).embeddings
    assert select(candidates, reference, 40, SHIPPED.labeling, seed=7) == []


def test_equal_embeddings_are_selected_once_each() -> None:
    predictions = [object()] * 5
    candidates = Candidates(predictions, np.full((5, 3), 1 / 3, np.float32), np.ones((5, 4), np.float32))  # type: ignore[arg-type]
    assert sorted(rank(candidates, np.zeros((5, 4), np.float32), 4, "diversity", seed=7).tolist()) == [0, 1, 2, 3]


def test_uncertain_answers_come_first() -> None:
    y_proba = np.array([[0.9, 0.05, 0.05], [0.4, 0.35, 0.25], [0.5, 0.5, 0.0]], np.float32)
    candidates = Candidates([object()] * 3, y_proba, np.eye(3, dtype=np.float32))  # type: ignore[arg-type,list-item]
    assert rank(candidates, np.eye(3, dtype=np.float32), 3, "uncertainty", seed=7).tolist() == [2, 1, 0]


def test_drifted_region_is_what_the_test_set_does_not_hold(classifier: Classifier) -> None:
    candidates = make_candidates(classifier, OLD[:150] + NEW)
    reference = make_candidates(classifier, OLD[150:]).embeddings
    is_new = np.array([row.text in NEW for row in candidates.predictions])
    drift = measure_drift(reference, candidates.embeddings, seed=7)
    assert drift[is_new].mean() > drift[~is_new].mean() + 0.2
    assert is_new[rank(candidates, reference, 30, "drift", seed=7)].all()


def test_diversity_reaches_what_is_rare() -> None:
    rng = np.random.default_rng(7)
    centers = np.repeat(np.eye(5) * 10, [180, 5, 5, 5, 5], axis=0)
    embeddings = (centers + rng.normal(size=centers.shape) * 0.1).astype(np.float32)
    candidates = Candidates([object()] * 200, np.full((200, 3), 1 / 3, np.float32), embeddings)  # type: ignore[arg-type,list-item]
    picked = rank(candidates, embeddings, 5, "diversity", seed=7)
    assert set(embeddings[picked].argmax(1).tolist()) == {0, 1, 2, 3, 4}


def test_only_labels_of_random_predictions_measure_accuracy(classifier: Classifier, tmp_path: Path) -> None:
    from monitored import write_test_set

    write_test_set(tmp_path / "test.parquet", classifier)
    reference = Reference.load(tmp_path / "test.parquet", classifier, 10_000)
    rows = make_rows(classifier, OLD[:60], ["negative"] * 60)
    for number, row in enumerate(rows):
        source = RANDOM_SOURCE if number % 3 else SELECTED_SOURCE
        rows[number] = replace(row, feedback=Feedback(row.prediction.id, source, "negative", UNTIL))
    windows = read_windows(rows, reference, classifier, SHIPPED.monitor, UNTIL)
    assert len(windows.labels[0]) == 40

"""Windows from the log: what belongs to them, and that their size does not grow with the log."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitored import LABELS, UNTIL, WEEK, make_classifier, make_params, make_rows, write_test_set

from evergreen.monitoring.log import PROBE_CALLER_ID, Feedback, LabeledPrediction, PredictionLog
from evergreen.monitoring.windows import MonitorError, Reference, Windows, read_windows
from evergreen.text.runtime import Classifier

TEXTS = [f"word{i % 200} flight word{(7 * i) % 200}" for i in range(400)]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return make_classifier(tmp_path_factory.mktemp("bundle") / "text")


@pytest.fixture(scope="module")
def reference(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    path = tmp_path_factory.mktemp("data") / "test.parquet"
    write_test_set(path, classifier, TEXTS[:100])
    return Reference.load(path, classifier, 1000)


def read(rows: Iterable[LabeledPrediction], reference: Reference, classifier: Classifier, **changes: int) -> Windows:
    return read_windows(rows, reference, classifier, make_params(**changes), UNTIL)


def test_reference_is_predicted_by_the_champion(classifier: Classifier, reference: Reference) -> None:
    assert reference.window.y_pred == [prediction.label for prediction in classifier.predict(TEXTS[:100])]
    assert reference.window.embeddings.shape == (100, classifier.manifest.embedding_size)
    assert (reference.labels.predicted == reference.labels.actual).all()


def test_probes_of_a_release_are_nobody_s_texts(classifier: Classifier, reference: Reference) -> None:
    rows = list(make_rows(classifier, TEXTS[:40]))
    probes = [replace(row, prediction=replace(row.prediction, caller_id=PROBE_CALLER_ID)) for row in rows[:15]]
    assert read([*probes, *rows[15:]], reference, classifier).current.n_samples == 25


def test_large_test_set_is_sampled(classifier: Classifier, tmp_path: Path) -> None:
    write_test_set(tmp_path / "test.parquet", classifier, TEXTS)
    once, again = (Reference.load(tmp_path / "test.parquet", classifier, 50) for _ in range(2))
    assert len(once.window.texts) == 50
    assert once.window.texts == again.window.texts


def test_test_set_of_no_use_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    with pytest.raises(MonitorError, match=r"test.parquet: missing. Fetch it \(dvc pull data/text\)"):
        Reference.load(path, classifier, 100)
    write_test_set(path, classifier, ["a flight", "word1"], ["negative", "angry"])
    with pytest.raises(MonitorError, match=r"labels \['angry'\], which the champion does not have"):
        Reference.load(path, classifier, 100)
    write_test_set(path, classifier, TEXTS[:1])
    pd.read_parquet(path).iloc[:0].to_parquet(path)
    with pytest.raises(MonitorError, match="no texts"):
        Reference.load(path, classifier, 100)


def follow(reference: Reference, classifier: Classifier, folder: Path, texts: list[str], **changes: int) -> Reference:
    """What the reference becomes with these texts in the log, the newest just before the champion's cutoff."""
    log = PredictionLog.open(f"sqlite:///{folder}/log.db")
    cutoff = datetime.fromisoformat(classifier.manifest.data_cutoff)
    rows = make_rows(classifier, texts, until=cutoff, model="text 0.0.9 old")
    probe = replace(rows[0].prediction, id="probe", caller_id=PROBE_CALLER_ID)
    film = replace(rows[0].prediction, id="film", kind="video", text=None)
    later = replace(rows[0].prediction, id="later", observed_at=cutoff + timedelta(hours=1))
    log.insert([*(row.prediction for row in rows), probe, film, later])
    return reference.follow(log, classifier, make_params(**changes))


def test_production_before_the_cutoff_is_the_reference_where_it_is_enough(
    classifier: Classifier, reference: Reference, tmp_path: Path
) -> None:
    moved = follow(reference, classifier, tmp_path, TEXTS[100:300], min_samples=200)
    assert moved.window.n_samples == 200
    assert sorted(moved.window.known_texts) == sorted(TEXTS[100:300])
    assert moved.window.y_pred == [prediction.label for prediction in classifier.predict(moved.window.known_texts)]
    assert moved.source == "production from 2026-02-22 until 2026-03-01"
    assert follow(reference, classifier, tmp_path, TEXTS[100:300], min_samples=201) is reference


def test_accuracy_is_compared_with_that_of_the_same_time(
    classifier: Classifier, reference: Reference, tmp_path: Path
) -> None:
    times = pd.Series(reference.labels.times)
    assert follow(reference, classifier, tmp_path, TEXTS[:200], min_reference_labels=50).labels is reference.labels
    newer = [*times[:40], *(times[40:] + timedelta(days=60))]  # the last 60 of the week before the cutoff, or later
    split = replace(reference, labels=replace(reference.labels, times=newer))
    moved = follow(split, classifier, tmp_path, TEXTS[:200], min_reference_labels=50)
    assert len(moved.labels) == 60
    assert moved.labels.texts == reference.labels.texts[40:]
    assert follow(split, classifier, tmp_path, TEXTS[:200], min_reference_labels=61).labels is split.labels


def test_a_window_holds_its_time_and_its_model(classifier: Classifier, reference: Reference) -> None:
    rows = make_rows(classifier, TEXTS[:40])
    rows += make_rows(classifier, TEXTS[40:50], until=UNTIL - WEEK)
    rows += make_rows(classifier, TEXTS[50:60], until=UNTIL + WEEK)
    rows += make_rows(classifier, TEXTS[60:65], model="text 0.2.0 def")
    rows += make_rows(classifier, TEXTS[65:67], kind="video", source="video")
    edges = make_rows(classifier, ["word1", "word2"])
    rows += [
        replace(row, prediction=replace(row.prediction, observed_at=time))
        for row, time in zip(edges, (UNTIL - WEEK, UNTIL), strict=True)
    ]
    windows = read(rows, reference, classifier)
    assert sorted(windows.current.known_texts) == sorted([*TEXTS[:40], "word1"])
    assert windows.current.n_samples == 41
    assert windows.n_by_model == {"text 0.2.0 def": 5}
    assert (windows.current.since, windows.current.until) == (UNTIL - WEEK, UNTIL)
    assert windows.current.y_pred == [
        prediction.label for prediction in classifier.predict(windows.current.known_texts)
    ]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_sample_does_not_depend_on_the_order(order: random.Random) -> None:
    classifier, reference = SHARED[0]
    rows = make_rows(classifier, TEXTS)
    expected = read(rows, reference, classifier, max_samples=60)
    order.shuffle(rows)
    shuffled = read(rows, reference, classifier, max_samples=60)
    assert shuffled.current.texts == expected.current.texts
    assert len(shuffled.current.texts) == 60
    assert shuffled.current.n_samples == 400


SHARED: list[tuple[Classifier, Reference]] = []


@pytest.fixture(autouse=True)
def _share(classifier: Classifier, reference: Reference) -> None:
    SHARED[:] = [(classifier, reference)]  # Hypothesis takes no fixtures of a function


def test_a_late_label_counts_for_the_window_of_its_prediction(classifier: Classifier, reference: Reference) -> None:
    old = make_rows(classifier, TEXTS[:30], ["neutral"] * 30, until=UNTIL - WEEK)
    late = [replace(row, feedback=replace(row.feedback, received_at=UNTIL)) for row in old if row.feedback]
    windows = read([*make_rows(classifier, TEXTS[30:60]), *late], reference, classifier)
    assert [len(sample) for sample in windows.labels] == [0, 30, 0, 0]
    assert windows.labels[1].until == UNTIL - WEEK
    hidden = read_windows(late, reference, classifier, make_params(), UNTIL, now=UNTIL - timedelta(hours=1))
    assert [len(sample) for sample in hidden.labels] == [0, 0, 0, 0]


def test_label_that_the_champion_does_not_know(classifier: Classifier, reference: Reference) -> None:
    windows = read(make_rows(classifier, TEXTS[:2], ["angry", "neutral"]), reference, classifier)
    assert sorted(windows.labels[0].actual.tolist()) == [-1, LABELS.index("neutral")]


def test_partial_labels_stand_for_what_resembles_them(classifier: Classifier, reference: Reference) -> None:
    """Labels for the sure predictions mostly: weighted, they give the accuracy of all again."""
    rng = np.random.default_rng(0)
    texts = [f"word{a} word{b} word{c}" for a, b, c in rng.integers(0, 200, (3000, 3))]
    rows = make_rows(classifier, texts)
    is_right, kept = [], []
    for row in rows:
        confidence = max(row.prediction.probabilities.values())
        right = rng.random() < confidence
        is_right.append(right)
        label = row.prediction.label if right else next(name for name in LABELS if name != row.prediction.label)
        chance = 0.9 if confidence > 0.6 else 0.1
        feedback = Feedback(row.prediction.id, "user", label, UNTIL) if rng.random() < chance else None
        kept.append(replace(row, feedback=feedback))
    sample = read(kept, reference, classifier).labels[0]
    right = sample.predicted == sample.actual
    true = np.mean(is_right)
    corrected = (sample.weights * right).sum() / sample.weights.sum()
    assert sample.coverage == pytest.approx(len(right) / 3000)
    assert sample.weights.mean() == pytest.approx(1)
    assert abs(corrected - true) < 0.4 * abs(right.mean() - true)


def test_predictions_that_resemble_no_label_are_counted(classifier: Classifier, reference: Reference) -> None:
    rows = make_rows(classifier, TEXTS[:200])
    common = max(LABELS, key=lambda label: sum(row.prediction.label == label for row in rows))
    kept = [
        replace(row, feedback=Feedback(row.prediction.id, "user", common, UNTIL))
        for row in rows
        if row.prediction.label == common
    ]
    others = [row for row in rows if row.prediction.label != common]
    sample = read([*kept, *others], reference, classifier).labels[0]
    assert sample.uncovered == pytest.approx(len(others) / 200)


def test_texts_that_the_log_does_not_keep(classifier: Classifier, reference: Reference) -> None:
    rows = make_rows(classifier, TEXTS[:10]) + make_rows(classifier, TEXTS[10:20], text_hash="x")
    rows = rows[:10] + [replace(row, prediction=replace(row.prediction, text=None)) for row in rows[10:]]
    current = read(rows, reference, classifier).current
    assert len(current.texts) == 20
    assert len(current.known_texts) == len(current.embeddings) == len(current.known_y_pred) == 10


def test_empty_log(classifier: Classifier, reference: Reference) -> None:
    windows = read([], reference, classifier)
    assert windows.current.n_samples == 0
    assert windows.current.y_proba.shape == (0, 3)
    assert windows.current.y_pred == []
    assert [len(sample) for sample in windows.labels] == [0, 0, 0, 0]


def test_memory_does_not_grow_with_the_log(classifier: Classifier, reference: Reference) -> None:
    """Of twenty thousand rows, each made when it is asked for, no more than the sample is kept."""
    import tracemalloc

    template = make_rows(classifier, TEXTS[:50], ["neutral"] * 50)

    def stream(count: int) -> Iterator[LabeledPrediction]:
        for i in range(count):
            row = template[i % 50]
            yield replace(row, prediction=replace(row.prediction, id=f"{i}", text=f"{row.prediction.text} {i}"))

    peaks = []
    for count in (2_000, 20_000):
        tracemalloc.start()
        read(stream(count), reference, classifier, max_samples=300)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]

"""The two windows that are compared: what the champion was tested on, and what production saw lately."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergreen.errors import EvergreenError
from evergreen.monitoring.log import (
    PROBE_CALLER_ID,
    SELECTED_SOURCE,
    LabeledPrediction,
    LoggedPrediction,
    PredictionLog,
)
from evergreen.params import MonitorParams
from evergreen.text.bundle import Manifest
from evergreen.text.runtime import Classifier, softmax

Floats = NDArray[np.float32]
Codes = NDArray[np.intp]

UNKNOWN_LABEL = -1
"""Code of a label that the champion does not know; it is never right about it."""


class MonitorError(EvergreenError):
    """There is nothing to compare with; the message names the file and the remedy."""


@dataclass(frozen=True)
class Window:
    """The texts of a span of time and what the champion predicted for them; of many texts an even sample.

    Attributes:
        since, until: bounds of the time, the second excluded.
        labels: the champion's classes.
        texts: None where the log keeps none.
        y_proba: calibrated probabilities, shape [texts, labels].
        embeddings: of the texts that are there, shape [texts that are not None, embedding size].
        n_samples: all predictions of the window; the texts are some of them.
    """

    since: datetime
    until: datetime
    labels: list[str]
    texts: list[str | None]
    y_proba: Floats
    embeddings: Floats
    n_samples: int

    @cached_property
    def y_pred(self) -> list[str]:
        """The predicted label of each text."""
        return [self.labels[code] for code in self.y_proba.argmax(1)]

    @cached_property
    def confidence(self) -> Floats:
        """The predicted label's probability for each text."""
        confidence: Floats = self.y_proba.max(1, initial=0.0)
        return confidence

    @cached_property
    def known_texts(self) -> list[str]:
        """The texts that the log keeps, in the order of `embeddings`."""
        return [text for text in self.texts if text is not None]

    @cached_property
    def known_y_pred(self) -> list[str]:
        """The predicted labels of `known_texts`."""
        return [label for text, label in zip(self.texts, self.y_pred, strict=True) if text is not None]


@dataclass(frozen=True)
class LabeledSample:
    """The predictions of a window for which a label came back.

    Attributes:
        since, until: bounds of the predictions' time, the second excluded.
        predicted, actual: codes of the labels, shape [examples]; `UNKNOWN_LABEL` where the champion has no such label.
        weights: how many predictions of the window each example stands for, on average 1, shape [examples].
        texts: None where the log keeps none.
        n_predictions: all predictions of the window.
        uncovered: the fraction of them that resembles no labeled one, so that no weight can make up for it.
        times: when the texts were observed, of a test set.
    """

    since: datetime
    until: datetime
    predicted: Codes
    actual: Codes
    weights: NDArray[np.float64]
    texts: list[str | None]
    n_predictions: int
    uncovered: float = 0.0
    times: list[datetime] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.predicted)

    @property
    def coverage(self) -> float:
        """The fraction of the window's predictions for which a label came back."""
        return len(self) / max(self.n_predictions, 1)


@dataclass(frozen=True)
class Windows:
    """All that the signals look at.

    Attributes:
        reference: what the champion was tested on.
        current: the newest window of the log.
        reference_labels: test texts with their labels.
        labels: of the current window, and of those before it, newest first, since labels arrive late.
        n_by_model: predictions in the current window of other models than the champion.
        seed: of the signals' random divisions.
        reference_source: where the reference's texts are from.
    """

    manifest: Manifest
    classifier: Classifier
    params: MonitorParams
    reference: Window
    current: Window
    reference_labels: LabeledSample
    labels: list[LabeledSample]
    n_by_model: dict[str, int]
    seed: int
    reference_source: str = "the test set"


def find_look(now: datetime, look_days: int) -> datetime:
    """The end of the newest window to look at: looks end at midnight UTC, `look_days` apart, whenever one runs.

    So a run that is repeated looks at the same window again, which spends no more of the false-alarm budget.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight - timedelta(days=midnight.toordinal() % look_days)


@dataclass(frozen=True)
class Reference:
    """What the champion was tested on, with what it predicts for it.

    Attributes:
        window: texts that the current window is compared with.
        labels: test texts, whose accuracy the labels of production are compared with.
        source: where the window's texts are from, for people.
    """

    window: Window
    labels: LabeledSample
    source: str = "the test set"

    @classmethod
    def load(cls, path: Path, classifier: Classifier, max_samples: int) -> Self:
        """Read the champion's test set.

        Args:
            path: Parquet with `text`, `label` and `observed_at`: `data/text/test.parquet` of the champion.
            classifier: the champion.
            max_samples: of more texts an even sample is taken.

        Raises:
            MonitorError: when the file is missing, empty or of other labels.
        """
        rows = _read_reference(path, classifier.labels, max_samples)
        texts = rows["text"].tolist()
        times = rows["observed_at"]
        since, until = times.min().to_pydatetime(), times.max().to_pydatetime()
        window = _make_window(since, until, texts, len(rows), classifier)
        codes = {label: code for code, label in enumerate(classifier.labels)}
        actual = np.array([codes[label] for label in rows["label"]], np.intp)
        predicted, ones = window.y_proba.argmax(1), np.ones(len(rows))
        return cls(window, LabeledSample(since, until, predicted, actual, ones, texts, len(rows), times=times.tolist()))

    def follow(self, log: PredictionLog, classifier: Classifier, params: MonitorParams) -> Self:
        """Compare with what production saw while the champion's newest texts were collected, where it saw enough then.

        A champion that was retrained since the texts changed is made for the new ones; the test set, most of it older,
        would show their arrival as drift for ever. Accuracy is compared with that on the test texts of the same time.

        Args:
            log: of production; it counts whatever model answered.
            classifier: the champion, which predicts the texts anew.
            params: how long the time is, and how many texts are enough, and at most looked at.

        Raises:
            LogUnavailable: when the log can't be read.
        """
        until = datetime.fromisoformat(classifier.manifest.data_cutoff)
        since = until - timedelta(days=params.window_days)
        sample, n_samples = EvenSample(params.max_samples), 0
        for row in log.stream(since, until):
            prediction = row.prediction
            if _is_callers_text(prediction) and prediction.text:
                sample.add(prediction.id, prediction.text)
                n_samples += 1
        if n_samples < params.min_samples:
            return self
        window = _make_window(since, until, list(sample), n_samples, classifier)
        source = f"production from {since:%Y-%m-%d} until {until:%Y-%m-%d}"
        return replace(
            self, window=window, labels=self._select_labels(since, params.min_reference_labels), source=source
        )

    def _select_labels(self, since: datetime, min_labels: int) -> LabeledSample:
        """The test texts from a time on, or all where they are too few."""
        labels = self.labels
        mask = np.array([time >= since for time in labels.times])
        if mask.sum() < min_labels:
            return labels
        texts = [text for text, is_new in zip(labels.texts, mask, strict=True) if is_new]
        times = [time for time in labels.times if time >= since]
        return replace(
            labels,
            since=since,
            predicted=labels.predicted[mask],
            actual=labels.actual[mask],
            weights=labels.weights[mask],
            texts=texts,
            times=times,
            n_predictions=len(texts),
        )


def _is_callers_text(prediction: LoggedPrediction) -> bool:
    return prediction.kind == "text" and prediction.caller_id != PROBE_CALLER_ID


def _make_window(since: datetime, until: datetime, texts: list[str], n_samples: int, classifier: Classifier) -> Window:
    logits, embeddings = classifier.forward(texts)
    y_proba = softmax(logits / classifier.manifest.temperature)
    return Window(since, until, classifier.labels, [*texts], y_proba, embeddings, n_samples)


def _read_reference(path: Path, labels: list[str], max_samples: int) -> pd.DataFrame:
    if not path.is_file():
        raise MonitorError(f"{path}: missing. Fetch it (dvc pull data/text) or make it (dvc repro).")
    rows = pd.read_parquet(path)
    if unknown := set(rows["label"]) - set(labels):
        raise MonitorError(
            f"{path}: labels {sorted(unknown)}, which the champion does not have. Fetch the data of its own training."
        )
    if rows.empty:
        raise MonitorError(f"{path}: no texts. Make it again (dvc repro).")
    if len(rows) > max_samples:
        order = [_hash(str(name)) for name in rows["id"]]
        rows = rows.iloc[np.sort(np.argsort(order)[:max_samples])]
    return rows


def read_windows(
    predictions: Iterable[LabeledPrediction],
    reference: Reference,
    classifier: Classifier,
    params: MonitorParams,
    until: datetime,
    now: datetime | None = None,
    seed: int = 0,
) -> Windows:
    """Read the current window and the labels of those before it from the log, in memory that its length does not fill.

    Args:
        predictions: of the log, from `until` less `params.history_days`; any order.
        reference: what the champion was tested on.
        classifier: the champion; predictions of other models are counted, no more.
        params: how long windows are, and how many texts of one are looked at.
        until: the current window's end, excluded.
        now: labels that came later are not seen; None: all are.
        seed: of the signals' random divisions.
    """
    width = timedelta(days=params.window_days)
    reader = _Reader(classifier.labels, reference.window.confidence, params.max_samples)
    others: Counter[str] = Counter()
    for row in predictions:
        if now is not None and row.feedback is not None and row.feedback.received_at > now:
            row = replace(row, feedback=None)  # noqa: PLW2901
        prediction = row.prediction
        age = (until - prediction.observed_at) / width
        if not _is_callers_text(prediction) or not 0 < age <= params.history_days / params.window_days:
            continue
        number = int(np.ceil(age)) - 1
        if prediction.model == classifier.manifest.identity:
            reader.add(number, row)
        elif number == 0:
            others[prediction.model] += 1
    current = reader.make_window(until - width, until, classifier)
    numbers = range(params.history_days // params.window_days)
    labels = [reader.make_labels(number, until - (number + 1) * width, until - number * width) for number in numbers]
    return Windows(
        classifier.manifest,
        classifier,
        params,
        reference.window,
        current,
        reference.labels,
        labels,
        dict(others.most_common()),
        seed,
        reference.source,
    )


class _Reader:
    """Collects the newest window's texts and each window's labels, window 0 being the newest."""

    def __init__(self, labels: list[str], reference_confidence: Floats, max_samples: int) -> None:
        self._labels = labels
        self._codes = {label: code for code, label in enumerate(labels)}
        self._edges: list[float] = np.quantile(reference_confidence, [1 / 3, 2 / 3]).tolist()
        self._max_samples = max_samples
        self._texts = EvenSample(max_samples)
        self._n_current = 0
        self._labeled: dict[int, EvenSample] = {}
        self._strata: dict[int, Counter[int]] = {}
        self._labeled_strata: dict[int, Counter[int]] = {}

    def add(self, number: int, row: LabeledPrediction) -> None:
        prediction = row.prediction
        stratum = self._find_stratum(prediction)
        self._strata.setdefault(number, Counter())[stratum] += 1
        if number == 0:
            self._texts.add(prediction.id, prediction)
            self._n_current += 1
        # A text that was selected because its answer is unsure says nothing about the others' accuracy.
        if row.feedback is not None and row.feedback.source != SELECTED_SOURCE:
            self._labeled_strata.setdefault(number, Counter())[stratum] += 1
            example = (self._codes[prediction.label], self._codes.get(row.feedback.label, UNKNOWN_LABEL), stratum)
            self._labeled.setdefault(number, EvenSample(self._max_samples)).add(
                prediction.id, (*example, prediction.text)
            )

    def _find_stratum(self, prediction: LoggedPrediction) -> int:
        """Predictions of one label and like confidence, which a label for one of them says something about."""
        confidence = max(prediction.probabilities.values())
        third = sum(int(confidence > edge) for edge in self._edges)
        return 3 * self._codes[prediction.label] + third

    def make_window(self, since: datetime, until: datetime, classifier: Classifier) -> Window:
        rows: list[LoggedPrediction] = list(self._texts)
        y_proba = np.array([[row.probabilities[label] for label in self._labels] for row in rows], np.float32)
        texts = [row.text for row in rows]
        _, embeddings = classifier.forward([text for text in texts if text is not None])
        y_proba = y_proba.reshape(-1, len(self._labels))
        return Window(since, until, self._labels, texts, y_proba, embeddings, self._n_current)

    def make_labels(self, number: int, since: datetime, until: datetime) -> LabeledSample:
        rows = list(self._labeled.get(number, ()))
        all_strata, labeled_strata = self._strata.get(number, Counter()), self._labeled_strata.get(number, Counter())
        n_predictions = all_strata.total()
        covered = sum(all_strata[stratum] for stratum in labeled_strata)
        scale = labeled_strata.total() / max(covered, 1)
        weights = [scale * all_strata[row[2]] / labeled_strata[row[2]] for row in rows]
        return LabeledSample(
            since,
            until,
            np.array([row[0] for row in rows], np.intp),
            np.array([row[1] for row in rows], np.intp),
            np.array(weights),
            [row[3] for row in rows],
            n_predictions,
            1 - covered / n_predictions if n_predictions else 0.0,
        )


class EvenSample:
    """An even sample of at most so many rows: those whose hashed names come first, whatever order they come in.

    A name counts once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, str, Any]] = []
        self._names: set[str] = set()

    def add(self, name: str, row: Any) -> None:
        """Offer a row."""
        entry = (-_hash(name), name, row)
        if name in self._names or (len(self._heap) == self._size and entry[0] <= self._heap[0][0]):
            return
        self._names.add(name)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            self._names.remove(heapq.heapreplace(self._heap, entry)[1])

    def __iter__(self) -> Iterator[Any]:
        return (row for _, _, row in sorted(self._heap, key=lambda entry: entry[:2]))


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "replace"), digest_size=8).digest())

"""Simulated traffic of the text model, each text predicted once, and the methods that look at it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergreen.monitoring.drift_report import make_drift_report
from evergreen.monitoring.log import Feedback, LabeledPrediction, LoggedPrediction
from evergreen.monitoring.monitor import Monitor
from evergreen.monitoring.signals import load_signals
from evergreen.monitoring.staleness import Reason, Verdict, judge, measure
from evergreen.monitoring.windows import Reference, Windows, read_windows
from evergreen.params import Params
from evergreen.text.runtime import Classifier, softmax

DATA, BUNDLE = Path("data/text"), Path("models/text")
START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
Floats = NDArray[np.float32]


class CachedClassifier:
    """The champion, which computes a text once and then remembers what it made of it."""

    def __init__(self, classifier: Classifier) -> None:
        self.manifest, self.labels = classifier.manifest, classifier.labels
        self._classifier = classifier
        self._rows: dict[str, tuple[Floats, Floats]] = {}
        self._cut: dict[str, bool] = {}

    def forward(self, texts: Sequence[str], _batch_size: int = 32) -> tuple[Floats, Floats]:
        """As `Classifier.forward`."""
        new = list(dict.fromkeys(text for text in texts if text not in self._rows))
        self._rows |= dict(zip(new, zip(*self._classifier.forward(new), strict=True), strict=True))
        logits = np.zeros((len(texts), len(self.labels)), np.float32)
        embeddings = np.zeros((len(texts), self.manifest.embedding_size), np.float32)
        for position, text in enumerate(texts):
            logits[position], embeddings[position] = self._rows[text]
        return logits, embeddings

    def predict_proba(self, texts: Sequence[str]) -> Floats:
        """As `Classifier.predict_proba`."""
        return softmax(self.forward(texts)[0] / self.manifest.temperature)

    def find_cut(self, texts: Sequence[str]) -> list[bool]:
        """As `Classifier.find_cut`."""
        new = list(dict.fromkeys(text for text in texts if text not in self._cut))
        self._cut |= dict(zip(new, self._classifier.find_cut(new), strict=True))
        return [self._cut[text] for text in texts]


@cache
def load_classifier() -> Classifier:
    """The champion of `models/text`, remembering."""
    return cast(Classifier, CachedClassifier(Classifier.load(BUNDLE)))


@cache
def read_texts() -> pd.DataFrame:
    """The labeled texts that the champion was not trained on, with their `split`."""
    tables = [pd.read_parquet(DATA / f"{name}.parquet").assign(split=name) for name in ("validation", "test", "stream")]
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Traffic:
    """Predictions in the order of their times."""

    rows: list[LabeledPrediction]

    @classmethod
    def make(
        cls, texts: pd.DataFrame, times: Sequence[datetime], classifier: Classifier, labeled: float, seed: int
    ) -> Self:
        """Predict texts at times; the labels of a fraction come two days later.

        Args:
            texts: with `text` and `label`, in the order of `times`.
        """
        rng = np.random.default_rng(seed)
        y_proba = classifier.predict_proba(texts["text"].tolist())
        rows = []
        for number, (text, label, time) in enumerate(zip(texts["text"], texts["label"], times, strict=True)):
            probabilities = dict(zip(classifier.labels, map(float, y_proba[number]), strict=True))
            answer = max(probabilities, key=lambda name: probabilities[name])
            identity = classifier.manifest.identity
            name = f"{seed}-{number}"
            row = LoggedPrediction(name, "text", "live", answer, probabilities, identity, time, text=text)
            feedback = Feedback(row.id, "user", label, time + 2 * DAY) if rng.random() < labeled else None
            rows.append(LabeledPrediction(number, row, feedback))
        return cls(rows)


def spread(start: datetime, days: float, count: int, rng: np.random.Generator) -> list[datetime]:
    """Times at random within some days, in order."""
    return [start + DAY * float(day) for day in np.sort(rng.random(count) * days)]


def make_monitor(params: Params, classifier: Classifier, reference: pd.DataFrame) -> Monitor:
    """A monitor that compares with these texts."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "test.parquet")
        reference.to_parquet(path)
        signals = load_signals(params.monitor.signals)
        return Monitor(params, classifier, Reference.load(path, classifier, params.monitor.max_samples), signals)


@dataclass(frozen=True)
class Look:
    """What each method says of a window.

    Attributes:
        stale: Evergreen's verdict.
        any_alarm: whether any of its signals gives an alarm.
        evidently: whether Evidently's DataDriftPreset finds the dataset drifted (half of the columns).
        evidently_any: whether it finds a column drifted.
        threshold: whether the accuracy of the window's labels is below the test's less the same margin.
    """

    stale: bool
    any_alarm: bool
    evidently: bool | None = None
    evidently_any: bool | None = None
    threshold: bool = False


class Looker:
    """Looks at windows by all methods; the signals that labels don't change are measured once for a window."""

    def __init__(self, monitor: Monitor, traffic: Traffic, with_evidently: bool) -> None:
        self._monitor, self._traffic = monitor, traffic
        self._with_evidently = with_evidently
        self._measured: dict[datetime, list[Reason]] = {}
        self._drifts: dict[datetime, tuple[bool | None, bool | None]] = {}

    def look(self, until: datetime, now: datetime) -> Look:
        """Judge the window that ends at a time by what is known at another."""
        params = self._monitor.params.monitor
        since = until - params.history_days * DAY
        rows = [row for row in self._traffic.rows if since <= row.prediction.observed_at < until]
        windows = read_windows(rows, self._monitor.reference, self._monitor.classifier, params, until, now)
        if until not in self._measured:
            self._measured[until] = measure(windows, self._monitor.signals, params)
        reasons = [self._measure_again(reason, windows) for reason in self._measured[until]]
        verdict = judge(reasons, windows, params, [])
        if until not in self._drifts:
            self._drifts[until] = run_evidently(windows, verdict) if self._with_evidently else (None, None)
        is_stale, has_alarm = verdict.status == "stale", any(reason.status == "alarm" for reason in reasons)
        dataset, column = self._drifts[until]
        return Look(is_stale, has_alarm, dataset, column, is_below_threshold(windows))

    def _measure_again(self, reason: Reason, windows: Windows) -> Reason:
        if reason.signal != "measured_performance":
            return reason
        measured = self._monitor.signals[reason.signal].measure(windows, reason.alpha or 0.0)
        return reason.model_copy(update=dict(measured))

    def find_moments(self, first: datetime, last: datetime) -> list[datetime]:
        """The hours at which a look finds another window or another label; at all others it repeats the one before."""
        times = [row.feedback.received_at for row in self._traffic.rows if row.feedback]
        hours = {first + timedelta(hours=int(np.ceil((time - first) / timedelta(hours=1)))) for time in times}
        midnights = {first + DAY * day for day in range((last - first).days + 1)}
        return sorted(moment for moment in hours | midnights if first <= moment <= last)


def run_evidently(windows: Windows, verdict: Verdict) -> tuple[bool, bool]:
    """Evidently's preset, as our report has it: length, words and letters of texts, predicted class and confidence."""
    metrics: list[dict[str, Any]] = make_drift_report(windows, verdict).dict()["metrics"]
    drifted = next(m["value"] for m in metrics if str(m["metric_name"]).startswith("DriftedColumnsCount"))
    return bool(drifted["share"] >= 0.5), bool(drifted["count"] > 0)


def is_below_threshold(windows: Windows) -> bool:
    """The plain rule: accuracy on the newest labels below the test's less the margin of `measured_performance`."""
    settings = windows.params.signals["measured_performance"]
    sample = next((sample for sample in windows.labels if len(sample) >= settings["min_labels"]), None)
    if sample is None:
        return False
    test = windows.reference_labels
    accuracy, tested = (float((s.predicted == s.actual).mean()) for s in (sample, test))
    return accuracy < tested - float(settings["margin"])


def with_looks(params: Params, look_days: int) -> Params:
    """Parameters with another schedule."""
    return params.model_copy(update={"monitor": params.monitor.model_copy(update={"look_days": look_days})})

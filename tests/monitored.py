"""Windows for the tests of signals and verdicts, without a database."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tiny_text_bundle import write_bundle

from evergreen.monitoring.log import Feedback, LabeledPrediction, LoggedPrediction
from evergreen.monitoring.windows import LabeledSample, Window, Windows
from evergreen.params import MonitorParams, Params
from evergreen.text.runtime import Classifier

SHIPPED = Path(__file__).parents[1] / "params.yaml"
UNTIL = datetime(2026, 5, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
OLD = [f"the flight word{i % 200} was good word{(3 * i) % 200}" for i in range(300)]
NEW = [f"bad bad a b c {'x' * (i % 23)} a b c word{i % 3} bad a b c {'bad ' * (i % 7)}" for i in range(300)]
LABELS = ["negative", "neutral", "positive"]


def make_params(**changes: Any) -> MonitorParams:
    return Params.load(SHIPPED).monitor.model_copy(update=changes)


@cache
def load_classifier(folder: Path) -> Classifier:
    return Classifier.load(folder)


def write_test_set(
    path: Path, classifier: Classifier, texts: Sequence[str] = OLD, labels: Sequence[str] | None = None
) -> None:
    """Write texts as the champion's test set; without labels it has never been wrong about them."""
    predicted = [prediction.label for prediction in classifier.predict(texts)]
    rows = {
        "id": [str(i) for i in range(len(texts))],
        "text": texts,
        "label": labels or predicted,
        "observed_at": pd.date_range("2026-01-01", periods=len(texts), freq="h", tz="UTC"),
        "topic": "airline",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path)


def make_labels(
    predicted: Sequence[int] | NDArray[np.intp],
    actual: Sequence[int] | NDArray[np.intp],
    weights: Sequence[float] | None = None,
    **fields: Any,
) -> LabeledSample:
    size = len(predicted)
    values: dict[str, Any] = {
        "since": UNTIL - WEEK,
        "until": UNTIL,
        "predicted": np.array(predicted, np.intp),
        "actual": np.array(actual, np.intp),
        "weights": np.ones(size) if weights is None else np.array(weights),
        "texts": [None] * size,
        "n_predictions": size,
    }
    return LabeledSample(**values | fields)


def make_window(
    size: int, seed: int = 0, shift: float = 0.0, texts: Sequence[str | None] | None = None, **fields: Any
) -> Window:
    """Random answers and embeddings; `shift` moves the embeddings, in their standard deviations."""
    rng = np.random.default_rng(seed)
    texts = [f"a text of number {i}" for i in range(size)] if texts is None else list(texts)
    n_known = sum(text is not None for text in texts)
    values: dict[str, Any] = {
        "since": UNTIL - WEEK,
        "until": UNTIL,
        "labels": LABELS,
        "texts": texts,
        "y_proba": rng.dirichlet([4, 1, 1], len(texts)).astype(np.float32),
        "embeddings": (rng.normal(size=(n_known, 8)) + shift).astype(np.float32),
        "n_samples": len(texts),
    }
    return Window(**values | fields)


def make_windows(n_predictions: int = 0, **fields: Any) -> Windows:
    classifier = fields.pop("classifier", None)
    values: dict[str, Any] = {
        "manifest": classifier.manifest if classifier else _Manifest(),
        "classifier": classifier,
        "params": make_params(),
        "reference": make_window(300, seed=1),
        "current": make_window(n_predictions, seed=2),
        "reference_labels": make_labels([0] * 300, [0] * 255 + [1] * 45),
        "labels": [],
        "n_by_model": {},
        "seed": 7,
    }
    return Windows(**values | fields)


class _Manifest:
    identity = "text 0.1.0 abc"
    data_cutoff = "2026-03-01T00:00:00+00:00"


def make_rows(
    classifier: Classifier,
    texts: Sequence[str],
    labels: Sequence[str | None] | None = None,
    until: datetime = UNTIL,
    days: float = 7,
    **fields: Any,
) -> list[LabeledPrediction]:
    """Predictions of texts spread evenly over the days before a time, with feedback where there is a label."""
    rows = []
    for i, (text, prediction) in enumerate(zip(texts, classifier.predict(texts), strict=True)):
        values: dict[str, Any] = {
            "id": uuid.uuid5(uuid.NAMESPACE_URL, f"{until} {i} {text}").hex,
            "kind": "text",
            "source": "live",
            "label": prediction.label,
            "probabilities": prediction.probabilities,
            "model": classifier.manifest.identity,
            "observed_at": until - timedelta(days=days) * ((i + 0.5) / len(texts)),
            "text": text,
        }
        row = LoggedPrediction(**values | fields)
        label = labels[i] if labels is not None else None
        feedback = None if label is None else Feedback(row.id, "user", label, until)
        rows.append(LabeledPrediction(i, row, feedback))
    return rows


def make_classifier(folder: Path) -> Classifier:
    """A tiny bundle, loaded."""
    return load_classifier(write_bundle(folder))

"""How good the bundle is: scores with intervals, calibration, slices, speed, cost, and the yardsticks beside it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.pipeline import make_pipeline

from evergreen.params import Evaluate
from evergreen.text.runtime import Classifier

Indices = NDArray[np.int64]
Scores = dict[str, dict[str, float]]


def accuracy(truth: Indices, answers: Indices) -> float:
    """Share of right answers."""
    return float((truth == answers).mean())


def macro_f1(truth: Indices, answers: Indices) -> float:
    """Mean of the F1 of the classes that occur in the truth or the answers.

    scikit-learn's number without its checks, since the bootstrap asks for it a thousand times.
    """
    size = int(max(truth.max(), answers.max())) + 1
    matrix = np.bincount(truth * size + answers, minlength=size * size).reshape(size, size)
    total = matrix.sum(0) + matrix.sum(1)
    present = total > 0
    return float((2 * matrix.diagonal()[present] / total[present]).mean())


def bootstrap(
    statistic: Callable[..., float],
    arrays: Sequence[NDArray[Any]],
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, float]:
    """Value of a statistic with a percentile bootstrap interval over examples (Efron, 1979).

    Args:
        statistic: takes the arrays, each of shape [examples, …], resampled together.

    Returns:
        `value`, `low`, `high`.
    """
    rng = np.random.default_rng(seed)
    size = len(arrays[0])
    drawn = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(0, size, size)
        drawn[i] = statistic(*(array[chosen] for array in arrays))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"value": statistic(*arrays), "low": float(low), "high": float(high)}


def scores(truth: Indices, answers: Indices, params: Evaluate, seed: int) -> Scores:
    """Accuracy and macro-F1, each with its interval."""
    shared = (params.bootstrap_resamples, params.confidence, seed)
    return {
        "accuracy": bootstrap(accuracy, (truth, answers), *shared),
        "macro_f1": bootstrap(macro_f1, (truth, answers), *shared),
    }


def calibration(truth: Indices, probabilities: NDArray[np.float32], bins: int) -> dict[str, Any]:
    """Expected calibration error over bins of equal width, and the curve behind it (Naeini et al., AAAI 2015).

    Args:
        probabilities: shape [texts, labels].

    Returns:
        `ece`, and per non-empty bin `confidence`, `accuracy` and `texts`.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    used = [b for b in range(bins) if (place == b).any()]
    curve = {
        "confidence": [float(confidence[place == b].mean()) for b in used],
        "accuracy": [float(right[place == b].mean()) for b in used],
        "texts": [int((place == b).sum()) for b in used],
    }
    gaps = np.abs(np.array(curve["confidence"]) - np.array(curve["accuracy"]))
    return {"ece": float((gaps * np.array(curve["texts"])).sum() / len(truth)), **curve}


def per_class(truth: Indices, answers: Indices, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of texts of each class."""
    values = precision_recall_fscore_support(truth, answers, labels=range(len(labels)), zero_division=0.0)
    names = ("precision", "recall", "f1", "texts")
    return {
        label: {name: float(column[i]) for name, column in zip(names, values, strict=True)}
        for i, label in enumerate(labels)
    }


def slices(rows: pd.DataFrame, truth: Indices, answers: Indices, params: Evaluate, seed: int) -> dict[str, Any]:
    """Accuracy by topic and by length, with intervals and the number of texts."""
    edges = params.length_edges
    names = [f"{low}–{high}" if high < edges[-1] else f"{low} and more" for low, high in pairwise(edges)]
    lengths = pd.cut(rows["text"].str.len(), [*edges[:-1], np.inf], labels=names, right=False)
    found: dict[str, Any] = {}
    for kind, values in (("source", rows["source"]), ("characters", lengths)):
        groups = {}
        for name in sorted(values.dropna().unique()) if kind == "source" else names:
            chosen = (values == name).to_numpy()
            if chosen.any():
                score = bootstrap(
                    accuracy,
                    (truth[chosen], answers[chosen]),
                    params.bootstrap_resamples,
                    params.confidence,
                    seed,
                )
                groups[str(name)] = {**score, "texts": int(chosen.sum())}
        found[kind] = groups
    return found


@dataclass
class Speed:
    """Times of the bundle on this machine."""

    p50_ms: float
    p99_ms: float
    texts_per_second: float


def speed(model: Classifier, texts: Sequence[str], params: Evaluate) -> Speed:
    """Time single texts, then a batch; a warm-up goes before each."""
    single = [texts[i % len(texts)] for i in range(params.latency_texts)]
    many = [texts[i % len(texts)] for i in range(params.throughput_texts)]
    model.probabilities(many[: params.batch_size], params.batch_size)
    for text in single[:20]:
        model(text)
    times = []
    for text in single:
        started = time.perf_counter()
        model(text)
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    model.probabilities(many, params.batch_size)
    seconds = time.perf_counter() - started
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1000
    return Speed(float(p50), float(p99), len(many) / seconds)


def cost(training_seconds: float, texts_per_second: float, params: Evaluate) -> dict[str, float | str]:
    """Price and energy of the training and of a million predictions, from `price_per_hour` and `watts`."""
    million_hours = 1e6 / texts_per_second / 3600
    training_hours = training_seconds / 3600
    return {
        "currency": params.currency,
        "training_seconds": training_seconds,
        "training": training_hours * params.price_per_hour,
        "training_watt_hours": training_hours * params.watts,
        "million_predictions": million_hours * params.price_per_hour,
        "million_predictions_watt_hours": million_hours * params.watts,
    }


def yardsticks(
    train: pd.DataFrame, test: pd.DataFrame, labels: list[str], params: Evaluate, seed: int
) -> dict[str, Scores]:
    """Scores on the same split of the majority class and of TF-IDF with logistic regression."""
    truth = indices(test["label"], labels)
    models = {
        "majority class": DummyClassifier(strategy="most_frequent"),
        "TF-IDF + logistic regression": make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, max_features=params.tfidf_max_features),
            LogisticRegression(C=4, class_weight="balanced", max_iter=1000, random_state=seed),
        ),
    }
    found = {}
    for name, model in models.items():
        model.fit(train["text"], indices(train["label"], labels))
        found[name] = scores(truth, np.asarray(model.predict(test["text"])), params, seed)
    return found


def indices(column: "pd.Series[str]", labels: Sequence[str]) -> Indices:
    """Turn labels into their positions."""
    return np.array([labels.index(label) for label in column], dtype=np.int64)


def confusion(truth: Indices, answers: Indices, labels: Sequence[str]) -> NDArray[np.int64]:
    """Counts, shape [true label, answered label]."""
    matrix: NDArray[np.int64] = confusion_matrix(truth, answers, labels=range(len(labels)))
    return matrix

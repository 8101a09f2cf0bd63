"""How good the bundle is: scores with intervals, calibration, slices, latency, cost, and the baselines beside it."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from sklearn.pipeline import make_pipeline

from evergreen.metrics import Estimate
from evergreen.params import EvaluateParams
from evergreen.text.evaluation_metrics import (
    Calibration,
    ClassScores,
    Cost,
    Latency,
    Reliability,
    Scores,
    Slices,
    SliceScore,
    TextMetrics,
)
from evergreen.text.metrics import TrainingMetrics
from evergreen.text.runtime import Classifier, Floats, softmax

Indices = NDArray[np.int64]


def evaluate(
    classifier: Classifier,
    size_mb: float,
    splits: dict[str, pd.DataFrame],
    training: TrainingMetrics,
    params: EvaluateParams,
    seed: int,
) -> tuple[TextMetrics, Indices]:
    """Measure a bundle on the test set, and on topics that it was not trained on.

    Args:
        splits: the prepared `train`, `test` and `stream`.

    Returns:
        The metrics, and the predictions for the test set as indices of labels.
    """
    labels = classifier.labels
    test = splits["test"]
    texts = test["text"].tolist()
    y_true = encode_labels(test["label"], labels)
    logits, _ = classifier.forward(texts, params.batch_size)
    y_proba = softmax(logits / classifier.manifest.temperature)
    y_pred = y_proba.argmax(1)
    latency = measure_latency(classifier, texts, params)
    baselines, unfitted = score_baselines(splits["train"], test, labels, params, seed)
    metrics = TextMetrics(
        **dict(score(y_true, y_pred, params, seed)),
        n_samples=len(texts),
        confidence_level=params.confidence_level,
        per_class=score_classes(y_true, y_pred, labels),
        confusion_matrix=confusion_matrix(y_true, y_pred, labels=range(len(labels))).tolist(),
        calibration=Calibration(
            uncalibrated=measure_calibration(y_true, softmax(logits), params),
            calibrated=measure_calibration(y_true, y_proba, params),
        ),
        slices=Slices(
            topic=score_slices(test["topic"], y_true, y_pred, params, seed),
            length=score_slices(name_lengths(test["text"], params.length_edges), y_true, y_pred, params, seed),
            unseen_topic=score_unseen_topics(classifier, splits["stream"], params, seed),
        ),
        baselines=baselines,
        unfitted_baselines=unfitted,
        parity=training.parity,
        latency=latency,
        size_mb=size_mb,
        cost=estimate_cost(training.train_runtime, latency.samples_per_second, params),
    )
    return metrics, y_pred


def encode_labels(column: "pd.Series[str]", labels: Sequence[str]) -> Indices:
    """Turn labels into their positions."""
    return np.array([labels.index(label) for label in column], dtype=np.int64)


def accuracy(y_true: Indices, y_pred: Indices) -> float:
    """Fraction of texts with the right label."""
    return float((y_true == y_pred).mean())


def macro_f1(y_true: Indices, y_pred: Indices) -> float:
    """Mean of the F1 of the classes that occur in `y_true` or `y_pred`.

    scikit-learn's number without its checks, 90 times as fast: the bootstrap asks for it a thousand times.
    """
    size = int(max(y_true.max(), y_pred.max())) + 1
    matrix = np.bincount(y_true * size + y_pred, minlength=size * size).reshape(size, size)
    total = matrix.sum(0) + matrix.sum(1)
    present = total > 0
    return float((2 * matrix.diagonal()[present] / total[present]).mean())


def bootstrap(
    statistic: Callable[..., float], y_true: Indices, y_pred: Indices, params: EvaluateParams, seed: int
) -> Estimate:
    """Value of a statistic with its percentile bootstrap interval over texts (Efron, 1979)."""
    value = statistic(y_true, y_pred)
    if len(y_true) < 2:  # nothing to resample: one text says nothing of the next
        return Estimate(value=value, low=0.0, high=1.0)
    interval = stats.bootstrap(
        (y_true, y_pred),
        statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=params.n_resamples,
        confidence_level=params.confidence_level,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value=value, low=float(interval.low), high=float(interval.high))


def score(y_true: Indices, y_pred: Indices, params: EvaluateParams, seed: int) -> Scores:
    """Accuracy and macro-F1, each with its interval."""
    return Scores(
        accuracy=bootstrap(accuracy, y_true, y_pred, params, seed),
        macro_f1=bootstrap(macro_f1, y_true, y_pred, params, seed),
    )


def score_classes(y_true: Indices, y_pred: Indices, labels: Sequence[str]) -> dict[str, ClassScores]:
    """Precision, recall, F1 and support of each class."""
    columns = precision_recall_fscore_support(y_true, y_pred, labels=range(len(labels)), zero_division=0.0)
    return {
        label: ClassScores(precision=precision, recall=recall, f1=f1, support=support)
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    }


def measure_calibration(y_true: Indices, y_proba: Floats, params: EvaluateParams) -> Reliability:
    """Expected calibration error over bins of equal width, and the curve behind it (Naeini et al., AAAI 2015).

    Args:
        y_proba: shape [texts, labels].
    """
    confidence = y_proba.max(1).astype(np.float64)
    correct = y_proba.argmax(1) == y_true
    counts, _, _ = stats.binned_statistic(confidence, None, "count", params.n_bins, (0, 1))
    means, _, _ = stats.binned_statistic(confidence, [confidence, correct], "mean", params.n_bins, (0, 1))
    used = counts > 0
    sizes = counts[used].astype(int)
    mean_confidence, mean_accuracy = means[:, used]
    intervals = [
        stats.binomtest(round(hits), int(size)).proportion_ci(params.confidence_level, "wilson")
        for hits, size in zip(mean_accuracy * sizes, sizes, strict=True)
    ]
    return Reliability(
        ece=float(np.average(np.abs(mean_confidence - mean_accuracy), weights=sizes)),
        confidence=mean_confidence.tolist(),
        accuracy=mean_accuracy.tolist(),
        low=[float(interval.low) for interval in intervals],
        high=[float(interval.high) for interval in intervals],
        n_samples=sizes.tolist(),
    )


def name_lengths(texts: "pd.Series[str]", edges: Sequence[int]) -> "pd.Series[str]":
    """Name the length slice of each text: `0_to_39`, …, `120_and_more` for edges up to 120."""
    names = [f"{low}_to_{high - 1}" for low, high in pairwise([0, *edges])] + [f"{edges[-1]}_and_more"]
    return pd.cut(texts.str.len(), [0, *edges, np.inf], labels=names, right=False)


def score_slices(
    slices: "pd.Series[str]", y_true: Indices, y_pred: Indices, params: EvaluateParams, seed: int
) -> dict[str, SliceScore]:
    """Accuracy on each slice, with its interval and the number of texts; `slices` names the slice of each text."""
    scores = {}
    for name in slices.astype("category").cat.categories:  # in their own order, else sorted
        mask = (slices == name).to_numpy()
        if mask.any():
            estimate = bootstrap(accuracy, y_true[mask], y_pred[mask], params, seed)
            scores[str(name)] = SliceScore(**estimate.model_dump(), n_samples=int(mask.sum()))
    return scores


def score_unseen_topics(
    classifier: Classifier, stream: pd.DataFrame, params: EvaluateParams, seed: int
) -> dict[str, SliceScore]:
    """Accuracy on topics that were not trained on, from a sample of each."""
    shuffled = stream.sample(frac=1, random_state=seed)
    sample = shuffled.groupby("topic").head(params.unseen_topic_samples)
    y_pred = classifier.predict_proba(sample["text"].tolist(), params.batch_size).argmax(1)
    return score_slices(sample["topic"], encode_labels(sample["label"], classifier.labels), y_pred, params, seed)


def measure_latency(classifier: Classifier, texts: Sequence[str], params: EvaluateParams) -> Latency:
    """Time single texts, then a batch; a warm-up goes before each."""
    single = [texts[i % len(texts)] for i in range(params.latency_samples)]
    many = [texts[i % len(texts)] for i in range(params.throughput_samples)]
    for text in single[:20]:
        classifier(text)
    times = []
    for text in single:
        started = time.perf_counter()
        classifier(text)
        times.append(time.perf_counter() - started)
    classifier.predict_proba(many[: params.batch_size], params.batch_size)
    started = time.perf_counter()
    classifier.predict_proba(many, params.batch_size)
    seconds = time.perf_counter() - started
    p50, p99 = np.quantile(times, [0.5, 0.99]) * 1000
    return Latency(p50_ms=float(p50), p99_ms=float(p99), samples_per_second=len(many) / seconds)


def estimate_cost(train_runtime: float, samples_per_second: float, params: EvaluateParams) -> Cost:
    """Price and energy of the training and of a million predictions, from `price_per_hour` and `watts`."""
    training_hours = train_runtime / 3600
    million_hours = 1e6 / samples_per_second / 3600
    return Cost(
        currency=params.currency,
        training_cost=training_hours * params.price_per_hour,
        training_energy_wh=training_hours * params.watts,
        inference_cost_per_million=million_hours * params.price_per_hour,
        inference_energy_per_million_wh=million_hours * params.watts,
    )


def score_baselines(
    train: pd.DataFrame, test: pd.DataFrame, labels: list[str], params: EvaluateParams, seed: int
) -> tuple[dict[str, Scores], dict[str, str]]:
    """Score the majority class and TF-IDF with logistic regression on the same split.

    Returns:
        The scores, and the reason for each baseline that can't be fitted.
    """
    models = {
        "majority_class": DummyClassifier(strategy="most_frequent"),
        "tfidf_logistic_regression": make_pipeline(
            TfidfVectorizer(
                analyzer=choose_analyzer(train["text"]),
                ngram_range=(1, 2),
                min_df=2,
                sublinear_tf=True,
                max_features=params.tfidf_max_features,
            ),
            LogisticRegression(C=4, class_weight="balanced", max_iter=1000, random_state=seed),
        ),
    }
    y_train = encode_labels(train["label"], labels)
    y_true = encode_labels(test["label"], labels)
    scores, reasons = {}, {}
    for name, model in models.items():
        try:
            model.fit(train["text"], y_train)
            scores[name] = score(y_true, np.asarray(model.predict(test["text"])), params, seed)
        except Exception as error:  # whatever scikit-learn makes of unusual texts, the bundle is what counts
            reasons[name] = " ".join(str(error).split()) or type(error).__name__
    return scores, reasons


def choose_analyzer(texts: "pd.Series[str]") -> Literal["word", "char"]:
    """Count words where most texts have a space, else characters: Chinese, Japanese and Thai put none between words."""
    return "word" if texts.str.strip().str.contains(r"\s").mean() >= 0.5 else "char"

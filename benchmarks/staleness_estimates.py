"""Accuracy estimated without labels, and from a hundred, beside the true one, on windows of each topic.

What the literature offers is compared: mean confidence (CBPE), a threshold on it (ATC), importance weights, the nearest
test texts, a model of the errors, agreement with a second model, and of dropout's votes. Run it after `dvc repro`:
python benchmarks/staleness_estimates.py [--draws 10]
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from record import save_result
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from staleness_traffic import DATA, START, load_classifier, read_texts

from evergreen.monitoring.signals.estimated_performance import estimate_accuracy, estimate_by_threshold
from evergreen.monitoring.signals.measured_performance import estimate_accuracy as measure_accuracy
from evergreen.monitoring.windows import LabeledSample
from evergreen.params import Params
from evergreen.plots import COLORS, save_figure
from evergreen.progress import show_progress
from evergreen.text.loading import load_pretrained
from evergreen.text.runtime import Classifier

RESULT = Path("benchmarks/results/staleness_estimates.json")
WEIGHTS = Path("models/text-weights")
N_WINDOW, N_LABELS, N_NEIGHBORS = 500, 100, 50
VOTES, DROPOUT, VOTED = 10, 0.1, 50
"""Passes with dropout, its rate, and the texts of a window that are voted on, since torch is slow."""
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """Texts with what the champion makes of them; `is_right` stays hidden of a window."""

    texts: list[str]
    y_proba: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    is_right: Bools

    @property
    def confidence(self) -> NDArray[np.float32]:
        """Of each answer."""
        confidence: NDArray[np.float32] = self.y_proba.max(1)
        return confidence


def make_sample(rows: pd.DataFrame, classifier: Classifier) -> Sample:
    """Predict labeled texts."""
    texts = rows["text"].tolist()
    y_proba, (_, embeddings) = classifier.predict_proba(texts), classifier.forward(texts)
    actual = np.array([classifier.labels.index(label) for label in rows["label"]])
    return Sample(texts, y_proba, embeddings, y_proba.argmax(1) == actual)


def make_labels(is_right: Bools) -> LabeledSample:
    """As the signals want it: an answer is right or not."""
    predicted = np.zeros(len(is_right), np.intp)
    return LabeledSample(
        START, START, predicted, np.where(is_right, 0, 1), np.ones(len(is_right)), [None] * len(is_right), len(is_right)
    )


Method = Callable[[Sample], float]


def build_methods(test: Sample, classifier: Classifier, params: Params) -> dict[str, Method]:
    """Each estimates the accuracy on a window, from what is known of the test set."""
    nearest = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(test.embeddings)

    def describe(sample: Sample) -> NDArray[np.float64]:
        return np.hstack([np.log(sample.y_proba + 1e-6), sample.embeddings]).astype(np.float64)

    errors = LogisticRegression(C=0.1, max_iter=2000).fit(describe(test), test.is_right)
    second = fit_second_model(params)
    vote = load_voter(params, classifier.labels)

    def weigh(window: Sample) -> float:
        vectors = np.concatenate([test.embeddings, window.embeddings])
        is_new = np.repeat([0, 1], [len(test.texts), len(window.texts)])
        odds = LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced").fit(vectors, is_new)
        proba = odds.predict_proba(test.embeddings)[:, 1]
        return float(np.average(test.is_right, weights=proba / (1 - proba)))

    def agree(window: Sample) -> float:
        answers = [classifier.labels[code] for code in window.y_proba.argmax(1)]
        return float((second.predict(window.texts) == np.array(answers)).mean())

    accuracy = float(test.is_right.mean())
    # Agreement is no accuracy: what it is too high or low by on the test set is taken off.
    agreement_excess, vote_excess = agree(test) - accuracy, vote(test) - accuracy
    return {
        "confidence (CBPE)": lambda window: estimate_accuracy(window.confidence).value,
        "threshold (ATC)": lambda window: estimate_by_threshold(
            test.confidence, make_labels(test.is_right), window.confidence
        ),
        "importance weights": weigh,
        "nearest test texts": lambda window: float(
            test.is_right[nearest.kneighbors(window.embeddings, return_distance=False)].mean()
        ),
        "model of errors": lambda window: float(errors.predict_proba(describe(window))[:, 1].mean()),
        "agreement with TF-IDF": lambda window: agree(window) - agreement_excess,
        "votes of dropout": lambda window: vote(window) - vote_excess,
    }


def fit_second_model(params: Params) -> Any:
    """TF-IDF and logistic regression on the champion's training texts, as `evaluate`'s baseline."""
    train = pd.read_parquet(DATA / "train.parquet")
    train = train[train["topic"].isin(params.data.train_topics or [])]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, max_features=50_000)
    return make_pipeline(vectorizer, LogisticRegression(C=4, max_iter=1000)).fit(train["text"], train["label"])


def load_voter(params: Params, labels: list[str]) -> Method:
    """Agreement of passes with dropout with the answer without it (Gal and Ghahramani, ICML 2016)."""
    tokenizer, model = load_pretrained(params.train.model_copy(update={"freeze_layers": 0}), WEIGHTS, labels)
    model.set_encoder_dropout(DROPOUT)

    def vote(window: Sample) -> float:
        torch.manual_seed(0)
        encoded = tokenizer(
            window.texts[:VOTED], padding=True, truncation=True, max_length=params.train.max_length, return_tensors="pt"
        )
        fed = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
        with torch.inference_mode():
            model.train()
            votes = torch.stack([model(**fed)["logits"].argmax(-1) for _ in range(VOTES)])
        answers = torch.from_numpy(window.y_proba[:VOTED].argmax(1))
        return float((votes == answers).double().mean())

    return vote


def measure_topic(rows: pd.DataFrame, methods: dict[str, Method], classifier: Classifier, draws: int) -> dict[str, Any]:
    """Errors of each method over windows of a topic; and of the interval of a hundred labels, how often it holds."""
    pool = make_sample(rows, classifier)
    errors: dict[str, list[float]] = {name: [] for name in methods}
    for seed in range(draws):
        chosen = np.random.default_rng(seed).permutation(len(pool.texts))[:N_WINDOW]
        texts = [pool.texts[i] for i in chosen]
        window = Sample(texts, pool.y_proba[chosen], pool.embeddings[chosen], pool.is_right[chosen])
        for name, method in methods.items():
            errors[name].append(method(window) - float(window.is_right.mean()))
    errors[f"{N_LABELS} labels"], coverage = measure_labels(pool.is_right)
    return {
        "accuracy": round(float(pool.is_right.mean()), 4),
        "n_texts": len(pool.texts),
        "mean_absolute_error": {name: round(float(np.abs(values).mean()), 4) for name, values in errors.items()},
        "mean_error": {name: round(float(np.mean(values)), 4) for name, values in errors.items()},
        "interval_coverage": coverage,
    }


def measure_labels(is_right: Bools, draws: int = 500) -> tuple[list[float], float]:
    """Errors of the accuracy that labels for a part of a window give; and how often the signal's interval holds it."""
    rng = np.random.default_rng(0)
    errors, held = [], []
    for _ in range(draws):
        window = rng.permutation(is_right)[:N_WINDOW]
        measured = measure_accuracy(make_labels(window[:N_LABELS]), 0.05)
        errors.append(measured.value - float(window.mean()))
        held.append(measured.low <= window.mean() <= measured.high)
    return errors, float(np.mean(held))


def main() -> None:
    """Measure, print, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    params, classifier, texts = Params.load(), load_classifier(), read_texts()
    methods = build_methods(make_sample(texts[texts["split"] == "test"], classifier), classifier, params)
    unseen = texts[texts["split"] != "test"].groupby("topic")
    topics = {
        str(topic): measure_topic(rows.sample(min(4000, len(rows)), random_state=0), methods, classifier, args.draws)
        for topic, rows in show_progress(list(unseen), "topics")
    }
    packages = ["onnxruntime", "scikit-learn", "torch", "numpy"]
    save_result(args.out, packages, n_window=N_WINDOW, draws=args.draws, topics=topics)
    table = pd.DataFrame({topic: result["mean_absolute_error"] for topic, result in topics.items()})
    print(table.assign(mean=table.mean(axis=1)).round(3).to_string())
    print({topic: result["interval_coverage"] for topic, result in topics.items()})
    plot(topics, args.out.with_suffix(".png"))


def plot(topics: dict[str, Any], path: Path) -> None:
    """Write the picture: the mean estimate of each method beside the true accuracy, topic by topic."""
    figure, axis = plt.subplots(figsize=(10, 4.5), layout="constrained")
    topics = dict(sorted(topics.items(), key=lambda item: -float(item[1]["accuracy"])))
    names = list(next(iter(topics.values()))["mean_error"])
    for position, result in enumerate(topics.values()):
        accuracy = result["accuracy"]
        label = "true, and 0.05 around it" if not position else None
        axis.fill_between([position - 0.4, position + 0.4], accuracy - 0.05, accuracy + 0.05, color="black", alpha=0.12)
        axis.hlines(accuracy, position - 0.4, position + 0.4, color="black", label=label)
    for number, (name, color, marker) in enumerate(zip(names, [*COLORS, "black", "gray"], "ovs^DPX*", strict=False)):
        places = np.arange(len(topics)) + 0.09 * (number - (len(names) - 1) / 2)
        values = [result["accuracy"] + result["mean_error"][name] for result in topics.values()]
        axis.plot(places, values, marker, color=color, label=name)
    axis.set_xticks(range(len(topics)), list(topics))
    axis.set_ylabel("accuracy")
    axis.set_title(f"Estimates of accuracy on {N_WINDOW} texts, without labels and from {N_LABELS}")
    figure.legend(loc="outside right center")
    save_figure(figure, path)


if __name__ == "__main__":
    main()

"""Which predictions are worth a label: some drawn at random, which measure, the others where a label teaches most."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus
from sklearn.linear_model import LogisticRegression

from evergreen.monitoring.log import PROBE_CALLER_ID, LabeledPrediction, LoggedPrediction
from evergreen.monitoring.windows import EvenSample
from evergreen.params import LabelingParams, Strategy
from evergreen.text.runtime import Classifier

Floats = NDArray[np.float32]
Weights = NDArray[np.float64]
RANDOM: Strategy = "random"


@dataclass(frozen=True)
class Candidates:
    """Predictions without a label, each text once.

    Attributes:
        y_proba: calibrated probabilities, shape [predictions, labels].
        embeddings: of their texts, shape [predictions, embedding size].
    """

    predictions: list[LoggedPrediction]
    y_proba: Floats
    embeddings: Floats

    def __len__(self) -> int:
        return len(self.predictions)


@dataclass(frozen=True)
class Selection:
    """A prediction to label, and the strategy that selected it."""

    prediction: LoggedPrediction
    strategy: Strategy


def read_candidates(
    rows: Iterable[LabeledPrediction], classifier: Classifier, since: datetime, until: datetime, max_samples: int
) -> Candidates:
    """Read the champion's predictions of a span of time that have a text and no label.

    Args:
        rows: of the log; any order.
        since, until: bounds of the predictions' time, the second excluded.
        max_samples: of more an even sample is taken.
    """
    sample = EvenSample(max_samples)
    identity = classifier.manifest.identity
    for row in rows:
        prediction = row.prediction
        text = prediction.text
        if row.feedback is not None or not text or prediction.caller_id == PROBE_CALLER_ID:
            continue
        if prediction.kind == "text" and prediction.model == identity and since <= prediction.observed_at < until:
            sample.add(text, prediction)
    predictions: list[LoggedPrediction] = list(sample)
    y_proba = np.array([[row.probabilities[label] for label in classifier.labels] for row in predictions], np.float32)
    _, embeddings = classifier.forward([row.text or "" for row in predictions])
    return Candidates(predictions, y_proba.reshape(-1, len(classifier.labels)), embeddings)


def select(
    candidates: Candidates, reference: Floats, budget: int, params: LabelingParams, seed: int
) -> list[Selection]:
    """Select predictions to label, each once, in random order, so that a file that is half filled in has some of each.

    Args:
        reference: embeddings of the champion's test set, shape [texts, embedding size].
        budget: how many; fewer where there are fewer candidates.
        params: what is preferred, and how many are drawn at random, so that they can measure accuracy.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    budget, strategy = min(budget, len(candidates)), params.strategy
    n_random = budget if strategy == RANDOM else round(budget * params.random_fraction)
    drawn = rng.permutation(len(candidates))[:n_random]
    rest = np.setdiff1d(np.arange(len(candidates)), drawn)
    left = Candidates([candidates.predictions[i] for i in rest], candidates.y_proba[rest], candidates.embeddings[rest])
    picked = rest[rank(left, reference, budget - n_random, strategy, seed)] if budget > n_random else rest[:0]
    selections = [Selection(candidates.predictions[i], RANDOM) for i in drawn]
    selections += [Selection(candidates.predictions[i], strategy) for i in picked]
    return [selections[i] for i in rng.permutation(len(selections))]


def rank(candidates: Candidates, reference: Floats, count: int, strategy: Strategy, seed: int) -> NDArray[np.intp]:
    """The positions of the candidates that a strategy prefers, by what each looks at.

    - `uncertainty`: the smallest margins between the two likeliest labels (Scheffer et al., IDA 2001).
    - `diversity`: seeds that k-means++ spreads over the embeddings (Arthur and Vassilvitskii, SODA 2007).
    - `drift`: what a classifier that tells current texts from the test set's is surest to be current.
    - `combined`: seeds of k-means++, weighted by uncertainty and drift; so BADGE spreads over gradients, which are
      large where the model is unsure (Ash et al., ICLR 2020).
    """
    if strategy == "uncertainty":
        return _take_largest(measure_uncertainty(candidates.y_proba), count)
    if strategy == "drift":
        return _take_largest(measure_drift(reference, candidates.embeddings, seed), count)
    weights = np.ones(len(candidates))
    if strategy == "combined":
        weights = measure_uncertainty(candidates.y_proba) * measure_drift(reference, candidates.embeddings, seed)
    return _spread(candidates.embeddings, weights, count, seed)


def measure_uncertainty(y_proba: Floats) -> Weights:
    """One minus the margin between the two likeliest labels, from 0 to 1, shape [predictions]."""
    ordered = np.sort(y_proba.astype(np.float64), axis=1)
    uncertainty: Weights = 1 - (ordered[:, -1] - ordered[:, -2])
    return uncertainty


def measure_drift(reference: Floats, current: Floats, seed: int) -> Weights:
    """Probability of each current text to be current rather than of the test set, both being as frequent."""
    vectors = np.concatenate([reference, current])
    is_current = np.repeat([False, True], [len(reference), len(current)])
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000, random_state=seed)
    probability: Weights = model.fit(vectors, is_current).predict_proba(current)[:, 1]
    return probability


def _take_largest(values: Weights, count: int) -> NDArray[np.intp]:
    return np.argsort(-values, kind="stable")[:count]


def _spread(embeddings: Floats, weights: Weights, count: int, seed: int) -> NDArray[np.intp]:
    _, seeds = kmeans_plusplus(embeddings, count, sample_weight=weights, random_state=seed)
    # Where fewer texts than wanted differ, a seed is drawn twice: the heaviest of the others fill up.
    unique = list(dict.fromkeys(seeds.tolist()))
    others = [i for i in _take_largest(weights, len(weights)).tolist() if i not in set(unique)]
    return np.array((unique + others)[:count], np.intp)

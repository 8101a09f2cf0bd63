"""Champion and challenger on the same examples: paired differences, with bounds that hold for both tails.

Each example falls into one cell of (actual, champion's answer, challenger's answer). Resampling examples is resampling
the cells' counts, so ten thousand paired bootstrap samples (Efron and Tibshirani, 1993) of any size take milliseconds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergreen.metrics import Metrics

Indices = NDArray[np.int64]
Doubles = NDArray[np.float64]

_SAMPLES_AT_A_TIME = 1000


class Difference(Metrics):
    """A score of the challenger less the champion's, on the same examples.

    Attributes:
        champion, challenger: both scores.
        value: the difference; positive where the challenger is better.
        low, high: bounds, each of which the true difference is beyond with the probability that was asked for.
        n_samples: examples.
    """

    champion: float
    challenger: float
    value: float
    low: float
    high: float
    n_samples: int

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


@dataclass(frozen=True)
class Answers:
    """What both models answer, as positions of labels, shape [examples]; -1 for a label that a model does not have."""

    y_true: Indices
    champion: Indices
    challenger: Indices

    def __len__(self) -> int:
        return len(self.y_true)

    def select(self, mask: NDArray[np.bool_]) -> "Answers":
        """Keep some examples."""
        return Answers(self.y_true[mask], self.champion[mask], self.challenger[mask])

    @property
    def agreement(self) -> float:
        """Fraction of examples with the same answer; 1 where there are none."""
        return float((self.champion == self.challenger).mean()) if len(self) else 1.0


def compare_accuracy(answers: Answers, alpha: float, n_resamples: int, seed: int) -> Difference:
    """Compare accuracy by a paired percentile bootstrap.

    Args:
        answers: at least one example.
        alpha: probability that the true difference is below `low`, and as much that it is above `high`.
        n_resamples: bootstrap samples.
        seed: the same answers and seed give the same bounds.
    """
    right = np.array([answers.champion == answers.y_true, answers.challenger == answers.y_true])
    gained = int((right[1] & ~right[0]).sum())
    lost = int((right[0] & ~right[1]).sum())
    size = len(answers)
    rng = np.random.default_rng(seed)
    cells = rng.multinomial(size, [gained / size, lost / size, (size - gained - lost) / size], n_resamples)
    return _describe(right.mean(1), (cells[:, 0] - cells[:, 1]) / size, alpha, size)


def compare_macro_f1(answers: Answers, n_labels: int, alpha: float, n_resamples: int, seed: int) -> Difference:
    """Compare macro-F1 by a paired percentile bootstrap; as for `compare_accuracy`."""
    width = n_labels + 1  # position -1 is a class of its own that does not count
    shape = (width, width, width)
    codes = np.ravel_multi_index(
        tuple(column % width for column in (answers.y_true, answers.champion, answers.challenger)), shape
    )
    used, counts = np.unique(codes, return_counts=True)
    size = len(answers)
    rng = np.random.default_rng(seed)
    differences = []
    for first in range(0, n_resamples, _SAMPLES_AT_A_TIME):
        drawn = rng.multinomial(size, counts / size, min(_SAMPLES_AT_A_TIME, n_resamples - first))
        scores = _score_macro_f1(drawn, used, shape, n_labels)
        differences.append(scores[1] - scores[0])
    observed = _score_macro_f1(counts[None], used, shape, n_labels)[:, 0]
    return _describe(observed, np.concatenate(differences), alpha, size)


def _score_macro_f1(
    counts: NDArray[np.int64], codes: NDArray[np.int64], shape: tuple[int, int, int], n_labels: int
) -> Doubles:
    """Macro-F1 of both models for each row of cell counts, shape [2, rows]; classes that nobody names do not count."""
    actual, *predicted = np.unravel_index(codes, shape)
    scores = []
    for answer in predicted:
        f1, is_present = [], []
        for label in range(n_labels):
            hits = counts[:, (actual == label) & (answer == label)].sum(1)
            total = counts[:, actual == label].sum(1) + counts[:, answer == label].sum(1)
            f1.append(2 * hits / np.maximum(total, 1))
            is_present.append(total > 0)
        scores.append(np.sum(f1, 0) / np.maximum(np.sum(is_present, 0), 1))
    return np.array(scores)


def _describe(scores: Doubles, resampled: Doubles, alpha: float, size: int) -> Difference:
    champion, challenger = map(float, scores)
    low, high = np.quantile(resampled, [alpha, 1 - alpha])
    value = challenger - champion
    return Difference(
        champion=champion,
        challenger=challenger,
        value=value,
        low=min(float(low), value),
        high=max(float(high), value),
        n_samples=size,
    )

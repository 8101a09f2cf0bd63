"""What moved: terms, topics and texts that a person can check, beside the numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from evergreen.metrics import Metrics
from evergreen.monitoring.windows import Window
from evergreen.params import Topic
from evergreen.text.topics import match_topics

_MAX_FEATURES = 20_000
_MIN_Z = 3.0
"""Standard deviations from which a term counts as more frequent."""


@dataclass(frozen=True)
class Term:
    """A word or two, and the share of texts that have it."""

    term: str
    reference_fraction: float
    current_fraction: float

    def __str__(self) -> str:
        return f"{self.term} ({self.reference_fraction:.1%} → {self.current_fraction:.1%})"


@dataclass(frozen=True)
class TypicalText:
    """A text of the current window, and what is nearest to it in the reference window."""

    text: str
    nearest: str
    similarity: float
    """Cosine of the embeddings."""

    def __str__(self) -> str:
        return f"“{self.text}”, most like “{self.nearest}” of the reference (similarity {self.similarity:.2f})"


class TopicShares(Metrics):
    """Share of each topic in both windows, the most changed first."""

    topic: str
    reference: float
    current: float


def find_new_terms(reference: Sequence[str], current: Sequence[str], n_terms: int = 10) -> list[Term]:
    """Find the words and pairs of words that are over-represented now, the most surely so first.

    By log odds with the texts of both windows as prior (Monroe, Colaresi and Quinn, Fightin' Words, Political Analysis
    2008), which ranks neither rare terms nor frequent ones too high. A pair whose words are listed already is left out.
    """
    if not reference or not current:
        return []
    vectorizer = CountVectorizer(binary=True, ngram_range=(1, 2), min_df=2, max_features=_MAX_FEATURES)
    try:
        counts = vectorizer.fit_transform([*reference, *current])
    except ValueError:  # no word is there twice
        return []
    before = np.asarray(counts[: len(reference)].sum(0)).ravel()
    now = np.asarray(counts[len(reference) :].sum(0)).ravel()
    prior = (before + now) / (len(reference) + len(current))

    def compute_odds(count: np.ndarray, total: int) -> np.ndarray:
        return np.asarray(np.log(count + prior) - np.log(total + 2 - count - prior))

    difference = compute_odds(now, len(current)) - compute_odds(before, len(reference))
    z = difference / np.sqrt(1 / (now + prior) + 1 / (before + prior))
    names = vectorizer.get_feature_names_out()
    terms: list[Term] = []
    words: set[str] = set()
    for i in np.argsort(-z, kind="stable"):
        if z[i] < _MIN_Z or len(terms) == n_terms:
            break
        parts = names[i].split(" ")
        if words.isdisjoint(parts):
            words.update(parts)
            terms.append(Term(str(names[i]), float(before[i] / len(reference)), float(now[i] / len(current))))
    return terms


def find_typical_texts(reference: Window, current: Window, n_texts: int = 3) -> list[TypicalText]:
    """Find texts that lie furthest in the direction in which the window moved, each unlike those before it."""
    if not len(reference.embeddings) or not len(current.embeddings):
        return []
    before, now = (_normalize(window.embeddings) for window in (reference, current))
    scores = now @ (now.mean(0) - before.mean(0))
    indices: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(now[i] @ now[j] < 0.9 for j in indices):
            indices.append(int(i))
        if len(indices) == n_texts:
            break
    texts = []
    for i in indices:
        similarity = before @ now[i]
        nearest = int(similarity.argmax())
        texts.append(TypicalText(current.known_texts[i], reference.known_texts[nearest], float(similarity[nearest])))
    return texts


def compare_topics(reference: Sequence[str], current: Sequence[str], topics: Sequence[Topic]) -> list[TopicShares]:
    """Compare how many texts belong to each topic of `data.topics`, by its pattern."""
    counts = [Counter(match_topics(texts, topics)) for texts in (reference, current)]
    shares = [
        TopicShares(
            topic=name, reference=_compute_fraction(counts[0], name), current=_compute_fraction(counts[1], name)
        )
        for name in sorted({*counts[0], *counts[1]})
    ]
    return sorted(shares, key=lambda share: -abs(share.current - share.reference))


def _compute_fraction(counts: Counter[str], name: str) -> float:
    return counts[name] / max(counts.total(), 1)


def _normalize(embeddings: np.ndarray) -> np.ndarray:
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12))

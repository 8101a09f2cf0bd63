"""Numbers about a prepared corpus: the data report, and the reference profile that the monitor compares with."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from evergreen.metrics import Metrics
from evergreen.text.corpus import CorpusStats, read_prepared
from evergreen.text.metrics import DataMetrics
from evergreen.text.splits import SPLITS

LENGTH_EDGES = [0, 20, 40, 60, 80, 100, 120, 140, 160, 200, 300, 1000]
"""Characters; the last bin is open. A histogram's bins, not a threshold: nothing is decided by them."""


def summarize(stats: CorpusStats) -> DataMetrics:
    """Sum up what `corpus.prepare` counted, for `metrics/data.json`."""
    splits: Counter[str] = Counter()
    topics: defaultdict[str, Counter[str]] = defaultdict(Counter)
    classes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (split, topic, label), number in stats.retained.items():
        splits[split] += number
        topics[topic][label] += number
        classes[split][label] += number
    return DataMetrics(
        rows=stats.rows,
        quarantined=stats.quarantined.total(),
        quarantine_reasons=dict(sorted(stats.quarantined.items())),
        invalid_fraction=round(stats.invalid_fraction, 6),
        near_empty=stats.near_empty,
        duplicates=stats.duplicates,
        label_conflicts=stats.label_conflicts,
        splits={split: splits[split] for split in (*SPLITS, "stream")},
        classes={split: dict(sorted(classes[split].items())) for split in sorted(classes)},
        topics={name: dict(sorted(labels.items())) for name, labels in sorted(topics.items())},
    )


class Histogram(Metrics):
    """Counts between edges; the last bin is open."""

    edges: list[int]
    counts: list[int]


class Profile(Metrics):
    """`data/text/profile.json`: the reference that the monitor compares with."""

    n_samples: int
    mean_words: float
    characters: Histogram
    classes: dict[str, int]
    topics: dict[str, int]
    observed: list[str | None]
    """First and last time, ISO 8601."""


def describe(path: Path, labels: list[str]) -> Profile:
    """Describe the texts that a model is trained on: lengths, words, classes, topics, times.

    Streams the file; memory does not grow with it.
    """
    n_samples = 0
    words = 0
    lengths = np.zeros(len(LENGTH_EDGES), dtype=np.int64)
    classes: Counter[str] = Counter()
    topics: Counter[str] = Counter()
    first, last = None, None
    for rows in read_prepared(path):
        size = rows["text"].str.len().to_numpy()
        lengths += np.histogram(size, [*LENGTH_EDGES, np.inf])[0]
        words += int(rows["text"].str.count(r"\S+").sum())
        n_samples += len(rows)
        classes.update(rows["label"])
        topics.update(rows["topic"])
        low, high = rows["observed_at"].min(), rows["observed_at"].max()
        first = low if first is None else min(first, low)
        last = high if last is None else max(last, high)
    return Profile(
        n_samples=n_samples,
        mean_words=round(words / max(n_samples, 1), 3),
        characters=Histogram(edges=LENGTH_EDGES, counts=lengths.tolist()),
        classes={label: classes[label] for label in labels},
        topics=dict(sorted(topics.items())),
        observed=[time.isoformat() if time is not None else None for time in (first, last)],
    )

"""Numbers about a prepared corpus: the data report, and the reference profile that the monitor compares with."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from evergreen.text.corpus import Counts, read

LENGTH_EDGES = [0, 20, 40, 60, 80, 100, 120, 140, 160, 200, 300, 1000]
"""Characters; the last bin is open. A histogram's bins, not a threshold: nothing is decided by them."""


def summary(counts: Counts) -> dict[str, Any]:
    """Sum up what `corpus.prepare` counted, for `metrics/data.json`."""
    splits: Counter[str] = Counter()
    topics: defaultdict[str, Counter[str]] = defaultdict(Counter)
    classes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (side, source, label), number in counts.kept.items():
        splits[side] += number
        topics[source][label] += number
        classes[side][label] += number
    return {
        "rows": counts.rows,
        "quarantined": counts.quarantined.total(),
        "quarantine_reasons": dict(sorted(counts.quarantined.items())),
        "bad_share": round(counts.bad_share, 6),
        "near_empty": counts.near_empty,
        "duplicates": counts.duplicates,
        "label_conflicts": counts.label_conflicts,
        "splits": {side: splits[side] for side in ("train", "validation", "test", "stream")},
        "classes": {side: dict(sorted(classes[side].items())) for side in sorted(classes)},
        "topics": {name: dict(sorted(labels.items())) for name, labels in sorted(topics.items())},
    }


def reference(path: Path, labels: list[str]) -> dict[str, Any]:
    """Describe the texts that a model is trained on: lengths, words, classes, sources, times.

    Streams the file; memory does not grow with it.
    """
    texts = words = 0
    lengths = np.zeros(len(LENGTH_EDGES), dtype=np.int64)
    classes: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    first, last = None, None
    for rows in read(path):
        size = rows["text"].str.len().to_numpy()
        lengths += np.histogram(size, [*LENGTH_EDGES, np.inf])[0]
        words += int(rows["text"].str.count(r"\S+").sum())
        texts += len(rows)
        classes.update(rows["label"])
        sources.update(rows["source"])
        low, high = rows["observed_at"].min(), rows["observed_at"].max()
        first = low if first is None else min(first, low)
        last = high if last is None else max(last, high)
    return {
        "texts": texts,
        "mean_words": round(words / max(texts, 1), 3),
        "characters": {"edges": LENGTH_EDGES, "counts": lengths.tolist()},
        "classes": {label: classes[label] for label in labels},
        "sources": dict(sorted(sources.items())),
        "observed": [time.isoformat() if time is not None else None for time in (first, last)],
    }

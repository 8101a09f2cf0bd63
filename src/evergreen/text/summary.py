"""Numbers about a prepared corpus, for the data report."""

from collections import Counter, defaultdict

from evergreen.text.corpus import CorpusStats
from evergreen.text.metrics import DataMetrics
from evergreen.text.splits import SPLITS


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
        simulated_times=stats.simulated_times,
        near_empty=stats.near_empty,
        duplicates=stats.duplicates,
        label_conflicts=stats.label_conflicts,
        splits={split: splits[split] for split in (*SPLITS, "stream")},
        classes={split: dict(sorted(classes[split].items())) for split in sorted(classes)},
        topics={name: dict(sorted(labels.items())) for name, labels in sorted(topics.items())},
    )

import json
from collections import Counter

from evergreen.text.corpus import CorpusStats
from evergreen.text.summary import summarize


def test_the_summary_adds_up():
    retained = Counter(
        {
            ("train", "airline", "positive"): 5,
            ("train", "airline", "negative"): 7,
            ("test", "airline", "negative"): 2,
            ("stream", "apple", "neutral"): 4,
        }
    )
    stats = CorpusStats(30, Counter({"b": 2, "a": 1}), near_empty=3, duplicates=6, label_conflicts=1, retained=retained)
    metrics = summarize(stats)
    assert metrics.splits == {"train": 12, "validation": 0, "test": 2, "stream": 4}
    assert metrics.classes["train"] == {"negative": 7, "positive": 5}
    assert metrics.topics == {"airline": {"negative": 9, "positive": 5}, "apple": {"neutral": 4}}
    assert metrics.quarantined == 3
    assert list(metrics.quarantine_reasons) == ["a", "b"]
    assert metrics.invalid_fraction == 0.1
    assert sum(metrics.splits.values()) + metrics.quarantined + metrics.near_empty + metrics.duplicates == metrics.rows
    assert json.loads(metrics.model_dump_json()) == metrics.model_dump()


def test_the_summary_of_nothing():
    metrics = summarize(CorpusStats())
    assert metrics.invalid_fraction == 0
    assert set(metrics.splits.values()) == {0}

import json
from collections import Counter

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen.text.corpus import ARROW, CorpusStats
from evergreen.text.profile import LENGTH_EDGES, describe, summarize


def write(path, texts, labels, times):
    rows = pd.DataFrame({"id": "1", "text": texts, "label": labels, "observed_at": times, "topic": "airline"})
    rows["observed_at"] = pd.to_datetime(rows["observed_at"], utc=True)

    pq.write_table(pa.Table.from_pandas(rows, ARROW, preserve_index=False), path, row_group_size=2)


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


def test_the_profile_describes_the_texts(tmp_path):
    texts = ["", "a" * 19, "two words", "b" * 20, "c" * 999, "d" * 1000, "e" * 5000]
    times = [f"2026-01-{day:02}" for day in (9, 3, 4, 5, 6, 7, 8)]
    write(tmp_path / "a.parquet", texts, ["neutral"] * 5 + ["positive"] * 2, times)
    profile = describe(tmp_path / "a.parquet", ["negative", "neutral", "positive"])
    assert profile.n_samples == 7
    assert profile.mean_words == pytest.approx(7 / 7)
    counts = dict(zip(LENGTH_EDGES, profile.characters.counts, strict=True))
    assert {edge: n for edge, n in counts.items() if n} == {0: 3, 20: 1, 300: 1, 1000: 2}
    assert profile.classes == {"negative": 0, "neutral": 5, "positive": 2}
    assert profile.topics == {"airline": 7}
    assert profile.observed == ["2026-01-03T00:00:00+00:00", "2026-01-09T00:00:00+00:00"]
    assert json.loads(profile.model_dump_json()) == profile.model_dump()


def test_the_profile_of_an_empty_file(tmp_path):
    write(tmp_path / "a.parquet", [], [], [])
    profile = describe(tmp_path / "a.parquet", ["negative"])
    assert profile.n_samples == 0
    assert profile.mean_words == 0
    assert profile.observed == [None, None]

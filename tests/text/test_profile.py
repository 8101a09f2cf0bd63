import json
from collections import Counter

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen.text.corpus import ARROW, Counts
from evergreen.text.profile import LENGTH_EDGES, reference, summary


def write(path, texts, labels, times):
    rows = pd.DataFrame({"id": "1", "text": texts, "label": labels, "observed_at": times, "source": "airline"})
    rows["observed_at"] = pd.to_datetime(rows["observed_at"], utc=True)

    pq.write_table(pa.Table.from_pandas(rows, ARROW, preserve_index=False), path, row_group_size=2)


def test_the_summary_adds_up():
    kept = Counter(
        {
            ("train", "airline", "positive"): 5,
            ("train", "airline", "negative"): 7,
            ("test", "airline", "negative"): 2,
            ("stream", "apple", "neutral"): 4,
        }
    )
    counts = Counts(30, Counter({"b": 2, "a": 1}), near_empty=3, duplicates=6, label_conflicts=1, kept=kept)
    told = summary(counts)
    assert told["splits"] == {"train": 12, "validation": 0, "test": 2, "stream": 4}
    assert told["classes"]["train"] == {"negative": 7, "positive": 5}
    assert told["topics"] == {"airline": {"negative": 9, "positive": 5}, "apple": {"neutral": 4}}
    assert told["quarantined"] == 3
    assert list(told["quarantine_reasons"]) == ["a", "b"]
    assert told["bad_share"] == 0.1
    assert sum(told["splits"].values()) + told["quarantined"] + told["near_empty"] + told["duplicates"] == told["rows"]
    assert json.loads(json.dumps(told)) == told


def test_the_summary_of_nothing():
    told = summary(Counts())
    assert told["bad_share"] == 0
    assert set(told["splits"].values()) == {0}


def test_the_reference_describes_the_texts(tmp_path):
    texts = ["", "a" * 19, "two words", "b" * 20, "c" * 999, "d" * 1000, "e" * 5000]
    times = [f"2026-01-{day:02}" for day in (9, 3, 4, 5, 6, 7, 8)]
    write(tmp_path / "a.parquet", texts, ["neutral"] * 5 + ["positive"] * 2, times)
    told = reference(tmp_path / "a.parquet", ["negative", "neutral", "positive"])
    assert told["texts"] == 7
    assert told["mean_words"] == pytest.approx(7 / 7)
    counts = dict(zip(LENGTH_EDGES, told["characters"]["counts"], strict=True))
    assert {edge: n for edge, n in counts.items() if n} == {0: 3, 20: 1, 300: 1, 1000: 2}
    assert told["classes"] == {"negative": 0, "neutral": 5, "positive": 2}
    assert told["sources"] == {"airline": 7}
    assert told["observed"] == ["2026-01-03T00:00:00+00:00", "2026-01-09T00:00:00+00:00"]
    assert json.loads(json.dumps(told)) == told


def test_the_reference_of_an_empty_file(tmp_path):
    write(tmp_path / "a.parquet", [], [], [])
    told = reference(tmp_path / "a.parquet", ["negative"])
    assert told["texts"] == 0
    assert told["mean_words"] == 0
    assert told["observed"] == [None, None]

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.text.partitions import HashPartitions

SCHEMA = pa.schema([("text_hash", pa.uint64()), ("order", pa.int64()), ("text", pa.string())])
LAST = 2**64 - 1
HASHES = st.integers(0, LAST) | st.integers(0, 20) | st.integers(LAST - 20, LAST) | st.just(2**63)


def build(hashes: list[int], start: int = 0) -> pd.DataFrame:
    order = range(start, start + len(hashes))
    return pd.DataFrame(
        {"text_hash": np.array(hashes, np.uint64), "order": order, "text": [f"text {n}" for n in order]}
    )


@settings(deadline=None)
@given(st.lists(st.lists(HASHES, max_size=30), max_size=6), st.sampled_from([1, 4, 1000]))
def test_all_rows_come_back_sorted_and_those_of_one_hash_together(tmp_path_factory, batches, max_rows):
    folder = tmp_path_factory.mktemp("partitions") / "scratch"
    added = [build(hashes, 100 * n) for n, hashes in enumerate(batches)]
    with HashPartitions(folder, SCHEMA, max_rows) as partitions:
        for rows in added:
            partitions.add(rows)
    parts = list(partitions.read_sorted())
    expected = sorted(row for rows in added for row in rows.itertuples(index=False, name=None))
    assert [row for part in parts for row in part.itertuples(index=False, name=None)] == expected
    seen: set[int] = set()
    for part in parts:
        assert len(part)
        assert seen.isdisjoint(part["text_hash"])
        seen.update(part["text_hash"])


@pytest.mark.parametrize("n_rows", [999, 1001, 17_000, 40_000])
def test_parts_are_bounded_and_not_small(tmp_path, n_rows):
    rng = np.random.default_rng(0)
    with HashPartitions(tmp_path / "scratch", SCHEMA, 1000) as partitions:
        for start in range(0, n_rows, 700):
            count = min(700, n_rows - start)
            partitions.add(build(rng.integers(0, LAST, count, dtype=np.uint64).tolist(), start))
    sizes = [len(part) for part in partitions.read_sorted()]
    assert sum(sizes) == n_rows
    assert max(sizes) <= 1000
    assert len(sizes) < 3 * n_rows / 1000 + 1

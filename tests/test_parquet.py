import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen.parquet import iter_batches

MEASURE = """
import sys
import pyarrow as pa
from pyarrow.parquet import ParquetFile
from evergreen.parquet import iter_batches
rows = sum(batch.num_rows for batch in iter_batches(ParquetFile(sys.argv[1]), 5000))
print(rows, pa.default_memory_pool().max_memory())
"""


@pytest.mark.parametrize("group_rows", [1, 3, 10, 100])
@pytest.mark.parametrize("batch_rows", [1, 4, 1000])
def test_all_rows_come_in_their_order(tmp_path, group_rows, batch_rows):
    table = pa.table({"a": range(50), "b": [str(n) for n in range(50)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=group_rows)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    batches = list(iter_batches(file, batch_rows))
    assert pa.Table.from_batches(batches) == table
    assert max(batch.num_rows for batch in batches) <= batch_rows
    assert [row for batch in iter_batches(file, batch_rows, ["b"]) for row in batch.to_pylist()] == [
        {"b": str(n)} for n in range(50)
    ]


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for n_groups in (4, 80):
        path = tmp_path / f"{n_groups}.parquet"
        with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="none") as writer:
            for group in range(n_groups):
                texts = [f"{group} {n} " + "word " * 40 for n in range(5000)]
                writer.write_table(pa.table({"text": texts}))
        command = [sys.executable, "-c", MEASURE, str(path)]
        rows, peak = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.split()
        assert int(rows) == 5000 * n_groups
        peaks.append(int(peak))
    assert peaks[1] < 1.5 * peaks[0], peaks

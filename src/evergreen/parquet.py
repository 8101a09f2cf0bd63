"""Parquet files as streams, in memory that does not grow with the file."""

from collections.abc import Iterator
from typing import Any

from pyarrow import RecordBatch
from pyarrow.parquet import ParquetFile


def iter_batches(file: ParquetFile, batch_rows: int, columns: list[str] | None = None) -> Iterator[RecordBatch]:
    """Read at most `batch_rows` at a time, of all columns or of some.

    Arrow keeps much of what it has read until its iterator ends (145 MB of a file of 130 MB), so it gets a few row
    groups at a time: enough for a batch, since some writers make many small ones.
    """
    groups: list[int] = []
    rows = 0
    for group in range(file.num_row_groups):
        groups.append(group)
        rows += file.metadata.row_group(group).num_rows
        if rows >= batch_rows:
            yield from _read(file, batch_rows, groups, columns)
            groups, rows = [], 0
    if groups:
        yield from _read(file, batch_rows, groups, columns)


def _read(file: Any, batch_rows: int, groups: list[int], columns: list[str] | None) -> Iterator[RecordBatch]:
    yield from file.iter_batches(batch_rows, groups, columns)

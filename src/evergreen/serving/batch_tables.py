"""Tables of Parquet: read in chunks, parsed, and written."""

import base64
import json
import math
from collections.abc import Iterable, Iterator
from datetime import date, time
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from evergreen.parquet import iter_batches
from evergreen.serving.batch_rows import CHUNK_BYTES, Chunk, Layout, Rows, check_text
from evergreen.sources import SourceError


def open_parquet(stream: BinaryIO, name: str) -> Any:
    """Open a Parquet file; SourceError names one that is none."""
    try:
        return pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{name}: not a Parquet file that can be read ({error}). Write it again.") from error


def is_text(kind: Any) -> bool:
    """Whether a column of this Arrow type holds texts."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def chunk_table(file: Any, chunk_rows: int) -> Iterator[Chunk]:
    """Read a Parquet file in chunks."""
    number, row = 0, 0
    for batch in iter_batches(file, chunk_rows):
        size = max(1, min(chunk_rows, batch.num_rows * CHUNK_BYTES // max(1, batch.nbytes)))
        for start in range(0, batch.num_rows, size):
            piece = batch.slice(start, size)
            table = _to_stream(pa.Table.from_batches([piece]))
            yield Chunk(number, row, piece.num_rows, row + piece.num_rows, table=table)
            number, row = number + 1, row + piece.num_rows


def parse_table(chunk: Chunk, layout: Layout) -> Rows:
    """Find the rows of a chunk that have a text."""
    table = pa.ipc.open_stream(chunk.table).read_all()
    rows, kept = Rows(), []
    texts = table["text"]
    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    for i, raw in enumerate(texts.cast(pa.large_binary()).to_pylist()):
        try:
            text = None if raw is None else raw.decode()
            reason = check_text(text)
        except UnicodeDecodeError:
            text, reason = None, "not UTF-8"
        if reason:
            rows.reject(chunk.first_row + i, None, reason, "")
            continue
        kept.append(i)
        rows.numbers.append(chunk.first_row + i)
        rows.texts.append(cast(str, text))
    table = table.take(pa.array(kept, pa.int64()))
    if layout.target == "parquet":
        rows.table = table
    else:
        columns = [_to_values(column) for column in table.columns]
        rows.records = [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]
    return rows


def _to_values(column: Any) -> list[Any]:
    try:
        return [_to_json(value) for value in column.to_pylist()]
    except UnicodeDecodeError:  # files by some writers hold strings that are not UTF-8
        return [None if v is None else v.decode("utf-8", "replace") for v in column.cast(pa.large_binary()).to_pylist()]


def _to_json(value: Any) -> Any:
    """Make of a value what JSON can hold."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | time) else str(value)  # decimals, durations


def serialize_table(rows: Rows, added: list[list[Any]], layout: Layout) -> bytes:
    """Write rows and their predictions as an Arrow stream."""
    schema = layout.arrow_schema
    more = [list(values) for values in zip(*added, strict=True)] or [[] for _ in layout.added_columns]
    if rows.table is not None:
        columns = list(rows.table.columns)
    else:
        columns = []
        for column in layout.columns or ():
            values = [record.get(column.name) for record in rows.records]
            if column.kind == "json":
                values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            columns.append(pa.array(values, schema.field(len(columns)).type))
    arrays = [pa.array(values, schema.field(len(columns) + i).type) for i, values in enumerate(more)]
    return _to_stream(pa.Table.from_arrays([*columns, *arrays], schema=schema))


def _to_stream(table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return cast(bytes, sink.getvalue().to_pybytes())


def join_tables(parts: Iterable[bytes], target: Path, layout: Layout) -> None:
    """Write Arrow streams as one Parquet file, with row groups of about `CHUNK_BYTES`."""
    tables: list[Any] = []
    size = 0
    with pq.ParquetWriter(target, layout.arrow_schema) as writer:

        def flush() -> None:
            table = pa.concat_tables(tables).combine_chunks()
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            tables.clear()

        for part in parts:
            table = pa.ipc.open_stream(part).read_all()
            if table.num_rows:
                tables.append(table)
                size += table.nbytes
            if size >= CHUNK_BYTES:
                flush()
                size = 0
        if tables:
            flush()

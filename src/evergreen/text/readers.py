"""Rows of a corpus file in batches, as tables of strings; a row that can't be read is reported, not lost."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from evergreen import sources
from evergreen.errors import EvergreenError
from evergreen.params import Columns


class CorpusError(EvergreenError):
    """A corpus can't be used; the message names the file and the remedy."""


@dataclass
class Batch:
    """Some rows of a corpus.

    Attributes:
        rows: one column per name in `Columns` that the corpus has, all strings or times; the index is the row's
            number in its file, from 0.
        unreadable: row numbers with the reason why no row could be made of them.
    """

    rows: pd.DataFrame
    unreadable: list[tuple[int, str]] = field(default_factory=list)


def read_batches(uri: str, columns: Columns, encoding: str, batch_rows: int) -> Iterator[Batch]:
    """Stream a corpus: CSV, JSONL or Parquet, one file or a folder of them, or a saved `datasets.Dataset`.

    Memory does not grow with the corpus.

    Raises:
        CorpusError: when the format is unknown or a column is missing.
        SourceError: when the address can't be resolved.
    """
    for file in _list_files(uri):
        if isinstance(file, Path) and file.is_dir():
            yield from _read_dataset(file, columns, batch_rows)
            continue
        read = _READERS.get(_get_suffix(file))
        if read is None:
            raise CorpusError(f"{file}: unknown format {_get_suffix(file)!r}. Use .csv, .jsonl or .parquet.")
        with sources.open_uri(str(file)) as stream:
            plain = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if str(file).lower().endswith(".gz") else stream
            try:
                yield from read(plain, str(file), columns, encoding, batch_rows)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise CorpusError(f"{file}: not a gzip file that can be read ({error}).") from error


def _get_suffix(file: str | Path) -> str:
    return Path(str(file).lower().removesuffix(".gz")).suffix


def _list_files(uri: str) -> list[str | Path]:
    if "://" in uri and not uri.startswith("hf://") and _get_suffix(uri) in _READERS:
        return [uri]  # streamed from where it is
    path = sources.resolve(uri)
    if not path.is_dir() or (path / "state.json").exists():
        return [path]
    files = sorted(file for file in path.rglob("*") if _get_suffix(file) in _READERS and file.is_file())
    saved = sorted(state.parent for state in path.rglob("state.json"))
    if not files and not saved:
        raise CorpusError(f"{uri}: a folder without .csv, .jsonl, .parquet or a saved dataset in it.")
    return [*files, *saved]


def _map_columns(columns: Columns) -> dict[str, str]:
    """Map the corpus's column names to ours."""
    return {column: ours for ours, column in columns.model_dump().items() if column is not None}


def _require_columns(columns: Columns, present: list[str], name: str) -> dict[str, str]:
    renames = _map_columns(columns)
    if missing := sorted(set(renames) - set(present)):
        raise CorpusError(f"{name}: no column {missing}. It has {present}; name yours under data.columns.")
    return renames


def _read_csv(stream: BinaryIO, name: str, columns: Columns, encoding: str, batch_rows: int) -> Iterator[Batch]:
    unreadable: list[tuple[int, str]] = []
    skipped: set[int] = set()
    position = 0

    def report(row: Any) -> str:
        where = row.number - 2  # counted from 1, with the header
        skipped.add(where)
        unreadable.append((where, f"{row.actual_columns} fields, {row.expected_columns} expected"))
        return "skip"

    utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    options: dict[str, Any] = {
        # One thread: only so does the parser know a row's number.
        "read_options": pa.csv.ReadOptions(
            encoding="utf8" if utf8 else encoding, use_threads=False, block_size=1 << 22
        ),
        "parse_options": pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=report),
    }
    try:
        # The header is read apart: a parser given up half-way may still be reading ahead in the stream.
        lines = csv.reader(io.StringIO(stream.read(1 << 16).decode(encoding, "replace").removeprefix("\ufeff")))
        header = next((line for line in lines if line), None)
        if header is None:
            raise CorpusError(f"{name}: empty. A CSV file starts with the names of its columns.")
        renames = _require_columns(columns, header, name)
        stream.seek(0)
        # Bytes rather than strings: one row that is not valid UTF-8 must not end the whole file.
        convert = pa.csv.ConvertOptions(column_types={c: pa.binary() for c in renames}, include_columns=list(renames))
        reader = pa.csv.open_csv(stream, convert_options=convert, **options)
        for block in reader:
            for start in range(0, block.num_rows, batch_rows):
                frame = block.slice(start, batch_rows).to_pandas().rename(columns=renames)
                numbers: list[int] = []
                while len(numbers) < len(frame):
                    if position in skipped:
                        skipped.remove(position)
                    else:
                        numbers.append(position)
                    position += 1
                frame.index = pd.Index(numbers)
                yield Batch(_decode(frame, unreadable), _drain(unreadable))
        if unreadable:
            yield Batch(pd.DataFrame(columns=list(renames.values()), dtype=str), _drain(unreadable))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{name}: not a CSV file that can be read ({error}). Check data.encoding and quoting."
        ) from error


def _drain(items: list[tuple[int, str]]) -> list[tuple[int, str]]:
    drained = list(items)
    items.clear()
    return drained


def _decode(frame: pd.DataFrame, unreadable: list[tuple[int, str]]) -> pd.DataFrame:
    def decode(value: Any) -> str | None:
        try:
            return value.decode() if isinstance(value, bytes) else None
        except UnicodeDecodeError:
            return None

    strings = pd.DataFrame({name: [decode(value) for value in frame[name]] for name in frame}, index=frame.index)
    invalid = strings.isna().any(axis=1) & frame.notna().all(axis=1)
    unreadable.extend((int(row), "not valid in data.encoding") for row in frame.index[invalid])
    return strings[~invalid]


def _read_jsonl(stream: BinaryIO, name: str, columns: Columns, _encoding: str, batch_rows: int) -> Iterator[Batch]:
    renames, seen = _map_columns(columns), set[str]()
    lines = enumerate(stream)
    while chunk := list(islice(lines, batch_rows)):
        rows, unreadable = {}, []
        for number, line in chunk:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                rows[number] = row
            except (ValueError, RecursionError) as error:
                unreadable.append((number, f"not valid JSON: {error}"))
        seen.update(*rows.values())
        # A key that only some rows lack is that row's fault, and is reported as a missing value.
        table = {ours: [row.get(column) for row in rows.values()] for column, ours in renames.items()}
        yield Batch(pd.DataFrame(table, index=list(rows), dtype=object), unreadable)
    if seen:
        _require_columns(columns, sorted(seen), name)


def _read_parquet(stream: BinaryIO, name: str, columns: Columns, _encoding: str, batch_rows: int) -> Iterator[Batch]:
    try:
        file = pq.ParquetFile(stream)
    except pa.ArrowInvalid as error:
        raise CorpusError(f"{name}: not a Parquet file ({error}).") from error
    renames = _require_columns(columns, file.schema_arrow.names, name)
    tables = (pa.Table.from_batches([batch]) for batch in file.iter_batches(batch_rows, columns=list(renames)))
    yield from _to_batches(tables, renames)


def _read_dataset(folder: Path, columns: Columns, batch_rows: int) -> Iterator[Batch]:
    from datasets import load_from_disk  # noqa: PLC0415 - slow to import, and only some corpora need it

    dataset = load_from_disk(str(folder)).with_format("arrow")
    renames = _require_columns(columns, dataset.column_names, str(folder))
    yield from _to_batches((table.select(list(renames)) for table in dataset.iter(batch_rows)), renames)


def _to_batches(tables: Iterator[pa.Table], renames: dict[str, str]) -> Iterator[Batch]:
    position = 0
    for table in tables:
        frame = table.to_pandas().rename(columns=renames)
        frame.index = pd.RangeIndex(position, position + len(frame))
        position += len(frame)
        yield Batch(frame)


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".parquet": _read_parquet}

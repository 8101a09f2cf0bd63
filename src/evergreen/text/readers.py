"""Rows of a corpus in batches, as tables of strings; a row that can't be read is reported, not lost."""

import gzip
import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pat

from evergreen import sources
from evergreen.errors import EvergreenError, get_first_line
from evergreen.logs import get_logger
from evergreen.params import Columns
from evergreen.parquet import iter_batches
from evergreen.text.csv_records import CsvRecords, LabelEvidence, Unreadable, detect_separator
from evergreen.text.lines import UNDECODABLE, Lines, RowTooLongError

log = get_logger(__name__)
_BATCH_CHARACTERS = 1 << 25
"""A batch of long rows ends before it has all its rows."""


class CorpusError(EvergreenError):
    """A corpus can't be used; the message names the file and the remedy."""


@dataclass
class Batch:
    """Some rows of a corpus.

    Attributes:
        file: where they are from: the corpus's address, and in a folder the path there.
        rows: one column per name in `Columns` that the corpus has, all strings or times; the index is the row's
            number in its file, from 0.
        unreadable: by row number, what no row could be made of.
    """

    file: str
    rows: pd.DataFrame
    unreadable: dict[int, Unreadable] = field(default_factory=dict)


@dataclass(frozen=True)
class CorpusFormat:
    """How a corpus is to be read.

    Attributes:
        columns: their names in the corpus.
        encoding: of CSV files without a byte order mark.
        separator: between the fields of CSV files; None: detected by their header.
        labels: those there may be; empty: not known.
        batch_rows: rows of a batch at most.
    """

    columns: Columns
    encoding: str = "utf-8"
    separator: str | None = None
    labels: Collection[str] = ()
    batch_rows: int = 50_000

    @property
    def names(self) -> dict[str, str]:
        """The corpus's column names, by ours."""
        return {ours: column for ours, column in self.columns.model_dump().items() if column is not None}

    def require_columns(self, present: list[str], file: str) -> None:
        """Raise a `CorpusError` unless each column is there once."""
        names = set(self.names.values())
        if missing := sorted(names - set(present)):
            raise CorpusError(
                f"{file}: no column {missing}. It has {present}; name yours under data.columns, or say what separates "
                "them in data.separator."
            )
        if doubled := sorted(name for name in names if present.count(name) > 1):
            raise CorpusError(f"{file}: more than one column {doubled}. Rename all but one.")


def read_batches(uri: str, form: CorpusFormat) -> Iterator[Batch]:
    """Stream a corpus: CSV, JSONL or Parquet, one file or a folder of them, or a saved `datasets.Dataset`.

    Memory does not grow with the corpus.

    Raises:
        CorpusError: when the format is unknown or a column is missing.
        SourceError: when the address can't be resolved.
    """
    for name, file in _list_files(uri):
        if isinstance(file, Path) and file.is_dir():
            yield from _read_dataset(file, name, form)
            continue
        read = _READERS.get(_get_suffix(file))
        if read is None:
            raise CorpusError(f"{name}: unknown format {_get_suffix(file)!r}. Use .csv, .tsv, .jsonl or .parquet.")
        with sources.open_uri(str(file)) as stream:
            plain = cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if str(file).lower().endswith(".gz") else stream
            try:
                yield from read(plain, name, form)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise CorpusError(f"{name}: not a gzip file that can be read to its end ({error}).") from error


def _get_suffix(file: str | Path) -> str:
    return Path(str(file).lower().removesuffix(".gz")).suffix


def _list_files(uri: str) -> list[tuple[str, str | Path]]:
    if "://" in uri and not uri.startswith("hf://") and _get_suffix(uri) in _READERS:
        return [(uri, uri)]  # streamed from where it is
    path = sources.resolve(uri)
    if not path.is_dir() or (path / "state.json").exists():
        return [(uri, path)]
    files = sorted(file for file in path.rglob("*") if _get_suffix(file) in _READERS and file.is_file())
    saved = sorted(state.parent for state in path.rglob("state.json"))
    relative = {file.relative_to(path): file for file in [*files, *saved]}
    hidden = [str(inner) for inner in relative if _is_hidden(inner)]
    if hidden:
        _warn_of_hidden(uri, tuple(hidden))
    listed: list[tuple[str, str | Path]] = [
        (f"{uri.rstrip('/')}/{inner.as_posix()}", file) for inner, file in relative.items() if not _is_hidden(inner)
    ]
    if not listed:
        raise CorpusError(f"{uri}: a folder without .csv, .tsv, .jsonl, .parquet or a saved dataset in it.")
    return listed


@cache
def _warn_of_hidden(uri: str, hidden: tuple[str, ...]) -> None:
    """Once: a corpus without times is read twice."""
    log.warning("hidden files are not read", folder=uri, files=list(hidden[:5]), count=len(hidden))


def _is_hidden(inner: Path) -> bool:
    """Whether an editor, a file manager or an unfinished job left a file there: older copies of others, or parts."""
    return any(part.startswith(".") or part in ("__MACOSX", "_temporary") for part in inner.parts)


def _build_batches(
    rows: Iterator[tuple[int, Sequence[str | None] | Unreadable]], file: str, form: CorpusFormat
) -> Iterator[Batch]:
    for chunk in _chunk(rows, form.batch_rows):
        values = {number: row for number, row in chunk if not isinstance(row, Unreadable)}
        unreadable = {number: row for number, row in chunk if isinstance(row, Unreadable)}
        frame = pd.DataFrame(list(values.values()), list(values), list(form.names), dtype=object)
        yield Batch(file, frame, unreadable)


def _chunk(
    rows: Iterator[tuple[int, Sequence[str | None] | Unreadable]], batch_rows: int
) -> Iterator[list[tuple[int, Sequence[str | None] | Unreadable]]]:
    chunk: list[tuple[int, Sequence[str | None] | Unreadable]] = []
    size = 0
    for number, row in rows:
        chunk.append((number, row))
        size += len(row.text) if isinstance(row, Unreadable) else sum(len(value or "") for value in row)
        if len(chunk) == batch_rows or size >= _BATCH_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _read_csv(stream: BinaryIO, file: str, form: CorpusFormat) -> Iterator[Batch]:
    with Lines(stream, form.encoding) as lines:
        given = form.separator or ("\t" if _get_suffix(file) == ".tsv" else None)
        separator = given or detect_separator(lines, form.names.values())
        records = CsvRecords(lines, separator)
        rows = iter(records)
        _, first = next(rows, (1, Unreadable("no line")))
        header = [] if isinstance(first, Unreadable) else [name.strip() for name in first]
        if not any(header):
            raise CorpusError(f"{file}: empty. A CSV file starts with the names of its columns.")
        if any("\0" in name for name in header):
            raise CorpusError(f"{file}: not in data.encoding, {lines.encoding}; it looks like utf-16-le or utf-16-be.")
        form.require_columns(header, file)
        evidence = LabelEvidence(separator, header, form.columns.text, form.columns.label, form.labels)
        records.consists_of_records = evidence.consists_of_records
        yield from _build_batches(enumerate(_pick_fields(rows, header, form, evidence, lines.encoding)), file, form)


def _pick_fields(
    rows: Iterator[tuple[int, list[str] | Unreadable]],
    header: list[str],
    form: CorpusFormat,
    evidence: LabelEvidence,
    encoding: str,
) -> Iterator[list[str] | Unreadable]:
    positions = [header.index(name) for name in form.names.values()]
    for _, fields in rows:
        if isinstance(fields, Unreadable):
            yield fields
            continue
        if len(fields) != len(header):
            detail = f"{len(fields)} instead of {len(header)}"
            yield Unreadable("another number of fields", detail, ",".join(fields))
            continue
        values = [fields[position] for position in positions]
        if any(UNDECODABLE in value for value in values):
            yield Unreadable(f"not valid in data.encoding ({encoding})", "", ",".join(fields))
            continue
        evidence.learn(fields)
        yield values


def _read_jsonl(stream: BinaryIO, file: str, form: CorpusFormat) -> Iterator[Batch]:
    seen: set[str] = set()
    with Lines(stream, "utf-8") as lines:
        yield from _build_batches(_parse_lines(lines, form.names, seen), file, form)
    if seen:
        form.require_columns(sorted(seen), file)


def _parse_lines(
    lines: Lines, names: dict[str, str], seen: set[str]
) -> Iterator[tuple[int, Sequence[str | None] | Unreadable]]:
    """Parse each line that is not empty as an object, and add its keys to those seen."""
    for number in count():
        try:
            line = next(lines)
        except StopIteration:
            return
        except RowTooLongError as error:
            yield number, Unreadable("a row that is too long", str(error), lines.take()[0])
            continue
        lines.take()
        if line.strip():
            yield number, _parse_line(line, names, seen)


def _parse_line(line: str, names: dict[str, str], seen: set[str]) -> Sequence[str | None] | Unreadable:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable("not valid JSON", str(error), line)
    if not isinstance(row, dict):
        return Unreadable("not valid JSON", "not an object", line)
    seen.update(row)
    values: list[str | None] = []
    for ours, name in names.items():
        value = row.get(name)  # a key that only some rows lack is a missing value
        if isinstance(value, dict | list):
            return Unreadable(f"{ours}: not one value", f"a JSON {'object' if isinstance(value, dict) else 'array'}")
        if isinstance(value, str) and UNDECODABLE in value:
            return Unreadable("not valid UTF-8", f"key {name}")
        values.append(value if value is None or isinstance(value, str) else json.dumps(value))
    return values


def _read_parquet(stream: BinaryIO, file: str, form: CorpusFormat) -> Iterator[Batch]:
    try:
        parquet = pq.ParquetFile(stream, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{file}: not a Parquet file that can be read ({get_first_line(error)}).") from error
    form.require_columns(parquet.schema_arrow.names, file)
    batches = iter_batches(parquet, form.batch_rows, list(form.names.values()))
    yield from _read_tables((pa.Table.from_batches([batch]) for batch in batches), file, form)


def _read_dataset(folder: Path, file: str, form: CorpusFormat) -> Iterator[Batch]:
    from datasets import load_from_disk  # noqa: PLC0415 - slow to import, and only some corpora need it

    try:
        dataset = load_from_disk(str(folder)).with_format("arrow")
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise CorpusError(f"{file}: not a saved dataset that can be read ({get_first_line(error)}).") from error
    form.require_columns(dataset.column_names, file)
    columns = list(form.names.values())
    yield from _read_tables((table.select(columns) for table in dataset.iter(form.batch_rows)), file, form)


def _read_tables(tables: Iterator[pa.Table], file: str, form: CorpusFormat) -> Iterator[Batch]:
    position = 0
    while True:
        try:
            table = next(tables, None)
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(
                f"{file}: damaged after row {position:,} ({get_first_line(error)}). Write the file again."
            ) from error
        if table is None:
            return
        numbers = pd.RangeIndex(position, position + len(table))
        position += len(table)
        unreadable: dict[int, Unreadable] = {}
        columns: dict[str, pd.Series[Any]] = {}
        for ours, name in form.names.items():
            column = table[name]
            if pat.is_nested(column.type):
                raise CorpusError(f"{file}: column {name!r} holds {column.type}. Name a column of single values.")
            is_time = ours == "observed_at" and pat.is_temporal(column.type)
            if is_time:
                columns[ours] = column.to_pandas().set_axis(numbers)
            else:
                columns[ours] = pd.Series(_to_strings(column, name, numbers, unreadable), numbers, dtype=object)
        yield Batch(file, pd.DataFrame(columns).drop(index=list(unreadable)), unreadable)


def _to_strings(
    column: pa.ChunkedArray, name: str, numbers: pd.RangeIndex, unreadable: dict[int, Unreadable]
) -> list[str | None]:
    """Convert a column in Arrow: pandas would make floats of integers with a gap between them."""
    if pat.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pat.is_binary(column.type) or pat.is_large_binary(column.type) or pat.is_binary_view(column.type)):
        # As bytes in the end: one string that is not valid UTF-8 must not end the whole file.
        column = column.cast(pa.string()).cast(pa.binary())
    values: list[str | None] = []
    for number, value in zip(numbers, column.to_pylist(), strict=True):
        text = None if value is None else value.decode("utf-8", "evergreen.mark")
        if text is not None and UNDECODABLE in text:
            unreadable[number] = Unreadable("not valid UTF-8", f"column {name}")
        values.append(text)
    return values


_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}

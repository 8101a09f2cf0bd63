"""Rows of JSONL, CSV and Parquet files for a batch: read in chunks, parsed and written a chunk at a time.

A row of the result is the input's row in its columns' order, then `row` (its number in the input, from 0), `label`
and `probability_LABEL` for each label. A column of the input with such a name is passed on as `input_NAME`.
"""

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from evergreen.parquet import iter_batches
from evergreen.sources import SourceError, explain_unavailable, open_filesystem, open_uri, resolve
from evergreen.text.csv_records import CsvRecords, Unreadable
from evergreen.text.inputs import LONGEST_FIELD, FormatError, check_columns, check_signature
from evergreen.text.lines import Lines
from evergreen.text.runtime import Prediction

FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
CHUNK_BYTES = 8 << 20
"""A chunk ends before its rows are complete when it holds as much, so that long texts don't fill the memory."""
READ_BYTES = 1 << 18
"""Asked of the input at a time; few enough that its position tells the progress."""
MAX_COLUMNS = 1000
"""Of JSONL that becomes a table; more are data written as keys."""
PREFIX = 40
"""Characters of a rejected row that are kept, to find it by."""
DECIMALS = 6


@dataclass(frozen=True)
class Column:
    """A column of the input: its name and how its values are written to Parquet.

    Attributes:
        kind: string, int64, double, bool, or json for values of several kinds.
    """

    name: str
    kind: str = "string"


@dataclass(frozen=True)
class Source:
    """An input that was checked: it is there, has a known format, and a column of texts where it has columns.

    Attributes:
        address: as given, with a local path made absolute.
        version: changes with the content.
        size: bytes, or rows of Parquet.
        columns: of CSV and Parquet; None for JSONL, whose rows have their own keys.
        schema: of Parquet, as Arrow serializes it.
    """

    address: str
    format: str
    version: str
    size: int
    columns: tuple[Column, ...] | None
    schema: bytes | None = None

    @classmethod
    def open(cls, address: str) -> "Source":
        """Check an input.

        Raises:
            FormatError: when its name ends in another format.
            SourceError: when it is missing, unavailable, or of no use as a whole.
        """
        file_format = get_format(address)
        address, version, size = _identify(address)
        if file_format != "parquet":
            with open_uri(address) as stream:
                check_signature(address, stream.read(4))
        if file_format == "jsonl":
            return cls(address, file_format, version, size, None)
        with open_uri(address) as stream:
            if file_format == "parquet":
                parquet = _open_parquet(stream, address)
                schema = parquet.schema_arrow
                columns = tuple(Column(name) for name in schema.names)
                _check_columns(address, columns)
                kind = schema.field("text").type
                if not _is_text(kind):
                    raise SourceError(f"{address}: its column text holds {kind}. Write the texts as strings.")
                size, serialized = parquet.metadata.num_rows, schema.remove_metadata().serialize().to_pybytes()
                return cls(address, file_format, version, size, columns, serialized)
            header = next((fields for _, fields in _read_records(stream)), None)
            if not isinstance(header, list):
                raise SourceError(f"{address}: no line of column names. Begin the file with one, as in id,text.")
            if not _is_unicode("".join(header)):
                raise SourceError(f"{address}: its column names are not UTF-8. Save the file as UTF-8.")
            columns = tuple(Column(name) for name in header)
            _check_columns(address, columns)
            return cls(address, file_format, version, size, columns)

    def check_unchanged(self) -> None:
        """Raise SourceError when the content is no longer what was opened."""
        if _identify(self.address)[1] != self.version:
            raise SourceError(f"{self.address}: changed while it was read. Start again once nothing writes to it.")


@dataclass(frozen=True)
class Chunk:
    """Some rows of an input, not parsed yet.

    Attributes:
        number: from 0.
        first_row: number of its first row in the input.
        records: a JSONL line or the fields of a CSV row; a string in place of them says why there are none.
        lines: where each record begins, counted from 1.
        table: the rows of Parquet, as an Arrow stream, in place of records.
        rows: how many.
        position: bytes, or rows of Parquet, of the input up to its end.
    """

    number: int
    first_row: int
    rows: int
    position: int
    records: list["bytes | list[str] | Unreadable"] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    table: bytes | None = None


@dataclass(frozen=True)
class Layout:
    """What the rows of a result look like, for those who write them.

    Attributes:
        source: format of the input.
        target: format of the result.
        columns: of the input; None where a row's own keys are written.
        schema: of a Parquet input.
        labels: of the bundle.
    """

    source: str
    target: str
    columns: tuple[Column, ...] | None
    schema: bytes | None
    labels: tuple[str, ...]

    @classmethod
    def plan(cls, source: Source, target: str, labels: Sequence[str]) -> "Layout":
        """Plan the rows of a result; JSONL that becomes a table is read once for the columns of all its rows."""
        columns = source.columns
        if columns is None and target != "jsonl":
            columns = _survey_columns(source)
        return cls(source.format, target, columns, source.schema, tuple(labels))

    @property
    def added_columns(self) -> list[str]:
        """Names of the columns that a result has beside the input's."""
        return ["row", "label", *(f"probability_{label}" for label in self.labels)]

    @property
    def names(self) -> list[str]:
        """Names of all columns of a result that is a table."""
        return [*_rename([column.name for column in self.columns or ()], self.added_columns), *self.added_columns]

    @property
    def arrow_schema(self) -> Any:
        """Schema of a Parquet result."""
        if self.schema is None:
            kinds = {"string": pa.string(), "json": pa.string(), "int64": pa.int64(), "double": pa.float64()}
            fields = [pa.field(c.name, kinds.get(c.kind, pa.bool_())) for c in self.columns or ()]
        else:
            fields = list(pa.ipc.read_schema(pa.py_buffer(self.schema)))
        added = [pa.field("row", pa.int64()), pa.field("label", pa.string())]
        added += [pa.field(name, pa.float64()) for name in self.added_columns[2:]]
        return pa.schema([f.with_name(name) for f, name in zip([*fields, *added], self.names, strict=True)])


@dataclass
class Rows:
    """Parsed rows that have a text, and a report of each other row.

    Attributes:
        numbers: of each row in the input.
        texts: of each row.
        records: of each row; empty where they stay in `table`.
        rejects: JSON lines.
        table: rows of Parquet that become Parquet, which keep their types.
    """

    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[str] = field(default_factory=list)
    table: Any = None

    def reject(self, row: int, line: int | None, reason: str, prefix: str) -> None:
        """Report a row."""
        position = {"row": row} if line is None else {"row": row, "line": line}
        report = {**position, "reason": reason, "prefix": prefix[:PREFIX].encode("utf-8", "replace").decode()}
        self.rejects.append(json.dumps(report, ensure_ascii=False) + "\n")


def get_format(address: str) -> str:
    """Name the format that an address ends in."""
    suffix = Path(address).suffix.lower()
    if suffix not in FORMATS:
        raise FormatError(f"{address}: not a format of rows. Name a .jsonl, .csv or .parquet file.")
    return FORMATS[suffix]


def read_chunks(source: Source, chunk_rows: int) -> Iterator[Chunk]:
    """Stream an input in chunks, which are the same each time; memory does not grow with it."""
    with open_uri(source.address) as stream:
        try:
            if source.format == "parquet":
                yield from _chunk_table(_open_parquet(stream, source.address), chunk_rows)
            else:
                records = _read_lines(stream) if source.format == "jsonl" else _skip_header(_read_records(stream))
                yield from _chunk_records(records, chunk_rows, stream.tell)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{source.address}: reading failed ({error}). Check the file and start again.") from error


def parse_chunk(chunk: Chunk, layout: Layout) -> Rows:
    """Parse the rows of a chunk."""
    if chunk.table is not None:
        return _parse_table(chunk, layout)
    rows = Rows()
    names = [column.name for column in layout.columns or ()]
    for i, (record, line) in enumerate(zip(chunk.records, chunk.lines, strict=True)):
        row = chunk.first_row + i
        if isinstance(record, Unreadable):
            rows.reject(row, line, record.reason, record.text)
            continue
        parsed = _parse_json(record) if isinstance(record, bytes) else _parse_fields(record, names)
        if isinstance(parsed, Unreadable):
            rows.reject(row, line, parsed.reason, parsed.text)
        else:
            rows.numbers.append(row)
            rows.texts.append(parsed["text"])
            rows.records.append(parsed)
    return rows


def serialize_rows(rows: Rows, predictions: Sequence[Prediction], layout: Layout) -> bytes:
    """Write parsed rows and their predictions: lines of JSONL, lines of CSV without names, or an Arrow stream."""
    added = [
        [row, prediction.label, *(round(prediction.probabilities[label], DECIMALS) for label in layout.labels)]
        for row, prediction in zip(rows.numbers, predictions, strict=True)
    ]
    if layout.target == "parquet":
        return _serialize_table(rows, added, layout)
    if layout.target == "csv":
        columns = [column.name for column in layout.columns or ()]
        values = (
            [*(_to_field(record.get(name)) for name in columns), *more]
            for record, more in zip(rows.records, added, strict=True)
        )
        return _to_csv(values)
    names = layout.added_columns
    lines = []
    for record, more in zip(rows.records, added, strict=True):
        renamed = dict(zip(_rename(list(record), names), record.values(), strict=True))
        lines.append(json.dumps(renamed | dict(zip(names, more, strict=True)), ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def join_parts(parts: Iterable[bytes], target: Path, layout: Layout) -> None:
    """Write what `serialize_rows` made, chunk after chunk, as one file; memory does not grow with it."""
    if layout.target == "parquet":
        _join_tables(parts, target, layout)
        return
    with target.open("wb") as file:
        if layout.target == "csv":
            file.write(_to_csv([layout.names]))
        for part in parts:
            file.write(part)


def _identify(address: str) -> tuple[str, str, int]:
    """An address that does not depend on the working folder, the version of the content, and its bytes."""
    if "://" in address and not address.startswith("hf://"):
        try:
            details = open_filesystem(address).info(address)
        except Exception as error:
            raise explain_unavailable(address, error) from error
        if details.get("type") == "directory":
            raise SourceError(f"{address}: a folder. Name one file.")
        version = str(details.get("ETag") or details.get("mtime") or details.get("LastModified"))
        return address, version, int(details.get("size") or 0)
    path = resolve(address).resolve()
    if not path.is_file():
        raise SourceError(f"{address}: not a file. Name one file.")
    status = path.stat()
    return str(path), str(status.st_mtime_ns), status.st_size


def _check_columns(address: str, columns: Sequence[Column]) -> None:
    names = [column.name for column in columns]
    check_columns(address, names)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SourceError(f"{address}: several columns named {repeated}. Give each a name of its own.")


def _rename(names: list[str], added: Sequence[str]) -> list[str]:
    """Names under which columns of the input are passed on."""
    taken, renamed = {*names, *added}, []
    for name in names:
        new = name
        while new in added or (new != name and new in taken):
            new = f"input_{new}"
        taken.add(new)
        renamed.append(new)
    return renamed


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# JSONL


def _read_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | Unreadable]]:
    buffered = io.BufferedReader(cast(Any, stream), READ_BYTES)  # an object's own readline knows no limit
    number = 0
    while line := buffered.readline(LONGEST_FIELD):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) >= LONGEST_FIELD and not line.endswith(b"\n"):
            prefix = line[:PREFIX].decode("utf-8", "replace")
            while line and not line.endswith(b"\n"):
                line = buffered.readline(LONGEST_FIELD)
            yield number, Unreadable(f"longer than {LONGEST_FIELD} bytes", text=prefix)
        elif line.strip():
            yield number, line
    buffered.detach()


def _parse_json(line: bytes) -> dict[str, Any] | Unreadable:
    try:
        content = line.decode()
    except UnicodeDecodeError:
        return Unreadable("not UTF-8", text=line[:PREFIX].decode("utf-8", "replace"))
    prefix = content[:PREFIX].strip()
    try:
        record = json.loads(content, parse_constant=_refuse_number, parse_float=_parse_float)
    except (ValueError, RecursionError):
        return Unreadable("not JSON", text=prefix)
    if not isinstance(record, dict):
        return Unreadable("not a JSON object", text=prefix)
    if "\\u" in content and not _is_unicode(json.dumps(record, ensure_ascii=False)):
        return Unreadable("half of a surrogate pair", text=prefix)
    reason = _check_text(record.get("text"))
    return Unreadable(reason, text=prefix) if reason else record


def _check_text(text: Any) -> str | None:
    """Say why there is nothing to predict."""
    if text is None:
        return "no text"
    if not isinstance(text, str):
        return "text is not a string"
    return None if text.strip() else "empty text"


def _refuse_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _parse_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("too large a number")
    return number


def _survey_columns(source: Source) -> tuple[Column, ...]:
    """Columns of all rows, in the order in which they appear, and what kind of values each holds."""
    kinds: dict[str, set[str]] = {"text": {"string"}}
    order: dict[str, None] = {}
    with open_uri(source.address) as stream:
        for _, line in _read_lines(stream):
            record = line if isinstance(line, Unreadable) else _parse_json(line)
            if isinstance(record, Unreadable):
                continue
            for name, value in record.items():
                order.setdefault(name)
                kinds.setdefault(name, set()).add(_get_kind(value))
            if len(order) > MAX_COLUMNS:
                raise SourceError(
                    f"{source.address}: more than {MAX_COLUMNS} different keys, too many for columns. "
                    "Write the result as .jsonl, or put what varies under one key."
                )
    order.setdefault("text")
    return tuple(Column(name, _merge_kinds(kinds[name] - {"null"})) for name in order)


def _get_kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) <= 2**53:
            return "exact"  # as int64 and as double
        return "int64" if -(2**63) <= value < 2**63 else "json"
    return {str: "string", bool: "bool", float: "double"}.get(type(value), "json")


def _merge_kinds(kinds: set[str]) -> str:
    if kinds and kinds <= {"exact", "int64"}:
        return "int64"
    kinds = {"double" if kind == "exact" and "double" in kinds else kind for kind in kinds}
    if len(kinds) == 1:
        return next(iter(kinds))
    return "json" if kinds else "string"


# CSV


def _read_records(stream: BinaryIO) -> Iterator[tuple[int, list[str] | Unreadable]]:
    """Records of a CSV file with the lines at which they begin; one that isn't CSV costs its first line only."""
    buffered = io.BufferedReader(cast(Any, stream), READ_BYTES)
    try:
        with Lines(buffered, "utf-8", LONGEST_FIELD) as lines:
            for first, record in CsvRecords(lines, strict=True):
                if isinstance(record, Unreadable):
                    yield first, Unreadable(f"not CSV: {record.reason} ({record.detail})", text=record.text.strip())
                else:
                    yield first, record
    finally:
        buffered.detach()  # the stream belongs to whoever opened it


def _skip_header(records: Iterable[tuple[int, list[str] | Unreadable]]) -> Iterator[tuple[int, list[str] | Unreadable]]:
    iterator = iter(records)
    next(iterator, None)
    return iterator


def _parse_fields(fields: list[str], names: list[str]) -> dict[str, Any] | Unreadable:
    if len(fields) != len(names):
        return Unreadable(f"{len(fields)} fields, {len(names)} expected", text=",".join(fields))
    if not _is_unicode("".join(fields)):
        return Unreadable("not UTF-8", text=",".join(fields))
    record = dict(zip(names, fields, strict=True))
    reason = _check_text(record["text"])
    return Unreadable(reason, text=",".join(fields)) if reason else record


class _Unix:
    """Collects CSV lines; ends them in a line feed alone, though a field with either sign of a line end is quoted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line[:-2] + "\n")


def _to_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    out = _Unix()
    csv.writer(out).writerows(rows)
    return "".join(out.lines).encode()


def _to_field(value: Any) -> Any:
    """Write a value as a CSV field; what is no string looks as it does in JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(_to_json(value), ensure_ascii=False)


# Parquet


def _open_parquet(stream: BinaryIO, name: str) -> Any:
    try:
        return pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{name}: not a Parquet file that can be read ({error}). Write it again.") from error


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _chunk_table(file: Any, chunk_rows: int) -> Iterator[Chunk]:
    number, row = 0, 0
    for batch in iter_batches(file, chunk_rows):
        size = max(1, min(chunk_rows, batch.num_rows * CHUNK_BYTES // max(1, batch.nbytes)))
        for start in range(0, batch.num_rows, size):
            piece = batch.slice(start, size)
            table = _to_stream(pa.Table.from_batches([piece]))
            yield Chunk(number, row, piece.num_rows, row + piece.num_rows, table=table)
            number, row = number + 1, row + piece.num_rows


def _parse_table(chunk: Chunk, layout: Layout) -> Rows:
    table = pa.ipc.open_stream(chunk.table).read_all()
    rows, kept = Rows(), []
    texts = table["text"]
    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    for i, raw in enumerate(texts.cast(pa.large_binary()).to_pylist()):
        try:
            text = None if raw is None else raw.decode()
            reason = _check_text(text)
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


def _serialize_table(rows: Rows, added: list[list[Any]], layout: Layout) -> bytes:
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


def _join_tables(parts: Iterable[bytes], target: Path, layout: Layout) -> None:
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


def _chunk_records(
    records: Iterable[tuple[int, Any]], chunk_rows: int, read_position: Callable[[], int]
) -> Iterator[Chunk]:
    number, row, size = 0, 0, 0
    held: list[Any] = []
    lines: list[int] = []
    for line, record in records:
        held.append(record)
        lines.append(line)
        size += 64 if isinstance(record, Unreadable) else _measure(record)
        if len(held) == chunk_rows or size >= CHUNK_BYTES:
            yield Chunk(number, row, len(held), read_position(), held, lines)
            number, row, size = number + 1, row + len(held), 0
            held, lines = [], []
    if held:
        yield Chunk(number, row, len(held), read_position(), held, lines)


def _measure(record: bytes | list[str]) -> int:
    return len(record) if isinstance(record, bytes) else sum(map(len, record))

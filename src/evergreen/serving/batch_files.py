"""Rows of JSONL, CSV and Parquet files for a batch: read in chunks, parsed and written a chunk at a time.

A row of the result is the input's row in its columns' order, then `row` (its number in the input, from 0), `label`
and `probability_LABEL` for each label. A column of the input with such a name is passed on as `input_NAME`.

Records of JSONL and CSV are in `batch_records`, tables of Parquet in `batch_tables`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from evergreen.serving.batch_records import (
    chunk_records,
    parse_fields,
    parse_json,
    read_lines,
    read_records,
    skip_header,
    survey_columns,
    to_csv,
    to_field,
)
from evergreen.serving.batch_rows import Chunk, Column, Layout, Rows, is_unicode, rename
from evergreen.serving.batch_tables import chunk_table, is_text, join_tables, open_parquet, parse_table, serialize_table
from evergreen.sources import SourceError, explain_unavailable, open_filesystem, open_uri, resolve
from evergreen.text.csv_records import Unreadable
from evergreen.text.inputs import FormatError, check_columns, check_signature
from evergreen.text.runtime import Prediction

FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
DECIMALS = 6


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
                parquet = open_parquet(stream, address)
                schema = parquet.schema_arrow
                columns = tuple(Column(name) for name in schema.names)
                _check_columns(address, columns)
                kind = schema.field("text").type
                if not is_text(kind):
                    raise SourceError(f"{address}: its column text holds {kind}. Write the texts as strings.")
                size, serialized = parquet.metadata.num_rows, schema.remove_metadata().serialize().to_pybytes()
                return cls(address, file_format, version, size, columns, serialized)
            header = next((fields for _, fields in read_records(stream)), None)
            if not isinstance(header, list):
                raise SourceError(f"{address}: no line of column names. Begin the file with one, as in id,text.")
            if not is_unicode("".join(header)):
                raise SourceError(f"{address}: its column names are not UTF-8. Save the file as UTF-8.")
            columns = tuple(Column(name) for name in header)
            _check_columns(address, columns)
            return cls(address, file_format, version, size, columns)

    def check_unchanged(self) -> None:
        """Raise SourceError when the content is no longer what was opened."""
        if _identify(self.address)[1] != self.version:
            raise SourceError(f"{self.address}: changed while it was read. Start again once nothing writes to it.")


def get_format(address: str) -> str:
    """Name the format that an address ends in."""
    suffix = Path(address).suffix.lower()
    if suffix not in FORMATS:
        raise FormatError(f"{address}: not a format of rows. Name a .jsonl, .csv or .parquet file.")
    return FORMATS[suffix]


def plan_layout(source: Source, target: str, labels: Sequence[str]) -> Layout:
    """Plan the rows of a result; JSONL that becomes a table is read once for the columns of all its rows."""
    columns = source.columns
    if columns is None and target != "jsonl":
        columns = survey_columns(source.address)
    return Layout(source.format, target, columns, source.schema, tuple(labels))


def read_chunks(source: Source, chunk_rows: int) -> Iterator[Chunk]:
    """Stream an input in chunks, which are the same each time; memory does not grow with it."""
    with open_uri(source.address) as stream:
        try:
            if source.format == "parquet":
                yield from chunk_table(open_parquet(stream, source.address), chunk_rows)
            else:
                records = read_lines(stream) if source.format == "jsonl" else skip_header(read_records(stream))
                yield from chunk_records(records, chunk_rows, stream.tell)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{source.address}: reading failed ({error}). Check the file and start again.") from error


def parse_chunk(chunk: Chunk, layout: Layout) -> Rows:
    """Parse the rows of a chunk."""
    if chunk.table is not None:
        return parse_table(chunk, layout)
    rows = Rows()
    names = [column.name for column in layout.columns or ()]
    for i, (record, line) in enumerate(zip(chunk.records, chunk.lines, strict=True)):
        row = chunk.first_row + i
        if isinstance(record, Unreadable):
            rows.reject(row, line, record.reason, record.text)
            continue
        parsed = parse_json(record) if isinstance(record, bytes) else parse_fields(record, names)
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
        return serialize_table(rows, added, layout)
    if layout.target == "csv":
        columns = [column.name for column in layout.columns or ()]
        values = (
            [*(to_field(record.get(name)) for name in columns), *more]
            for record, more in zip(rows.records, added, strict=True)
        )
        return to_csv(values)
    names = layout.added_columns
    lines = []
    for record, more in zip(rows.records, added, strict=True):
        renamed = dict(zip(rename(list(record), names), record.values(), strict=True))
        lines.append(json.dumps(renamed | dict(zip(names, more, strict=True)), ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def join_parts(parts: Iterable[bytes], target: Path, layout: Layout) -> None:
    """Write what `serialize_rows` made, chunk after chunk, as one file; memory does not grow with it."""
    if layout.target == "parquet":
        join_tables(parts, target, layout)
        return
    with target.open("wb") as file:
        if layout.target == "csv":
            file.write(to_csv([layout.names]))
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

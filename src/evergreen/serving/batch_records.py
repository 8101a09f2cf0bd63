"""Records of JSONL and CSV: read in chunks, parsed, and written."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from evergreen.serving.batch_rows import CHUNK_BYTES, PREFIX, Chunk, Column, check_text, is_unicode
from evergreen.sources import SourceError, open_uri
from evergreen.text.csv_records import CsvRecords, Unreadable
from evergreen.text.inputs import LONGEST_FIELD
from evergreen.text.lines import Lines

READ_BYTES = 1 << 18
"""Asked of the input at a time; few enough that its position tells the progress."""
MAX_COLUMNS = 1000
"""Of JSONL that becomes a table; more are data written as keys."""


def chunk_records(
    records: Iterable[tuple[int, Any]], chunk_rows: int, read_position: Callable[[], int]
) -> Iterator[Chunk]:
    """Gather records, each with the line at which it begins, in chunks."""
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


# JSONL


def read_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | Unreadable]]:
    """Read the lines of JSONL that are not blank, with their numbers from 1."""
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


def parse_json(line: bytes) -> dict[str, Any] | Unreadable:
    """Parse a line of JSONL; what has no text is unreadable."""
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
    if "\\u" in content and not is_unicode(json.dumps(record, ensure_ascii=False)):
        return Unreadable("half of a surrogate pair", text=prefix)
    reason = check_text(record.get("text"))
    return Unreadable(reason, text=prefix) if reason else record


def _refuse_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _parse_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("too large a number")
    return number


def survey_columns(address: str) -> tuple[Column, ...]:
    """Find the columns of all rows of JSONL, in the order in which they appear, and what kind of values each holds."""
    kinds: dict[str, set[str]] = {"text": {"string"}}
    order: dict[str, None] = {}
    with open_uri(address) as stream:
        for _, line in read_lines(stream):
            record = line if isinstance(line, Unreadable) else parse_json(line)
            if isinstance(record, Unreadable):
                continue
            for name, value in record.items():
                order.setdefault(name)
                kinds.setdefault(name, set()).add(_get_kind(value))
            if len(order) > MAX_COLUMNS:
                raise SourceError(
                    f"{address}: more than {MAX_COLUMNS} different keys, too many for columns. "
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


def read_records(stream: BinaryIO) -> Iterator[tuple[int, list[str] | Unreadable]]:
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


def skip_header(records: Iterable[tuple[int, list[str] | Unreadable]]) -> Iterator[tuple[int, list[str] | Unreadable]]:
    """Leave out the column names."""
    iterator = iter(records)
    next(iterator, None)
    return iterator


def parse_fields(fields: list[str], names: list[str]) -> dict[str, Any] | Unreadable:
    """Name the fields of a CSV row; what has no text is unreadable."""
    if len(fields) != len(names):
        return Unreadable(f"{len(fields)} fields, {len(names)} expected", text=",".join(fields))
    if not is_unicode("".join(fields)):
        return Unreadable("not UTF-8", text=",".join(fields))
    record = dict(zip(names, fields, strict=True))
    reason = check_text(record["text"])
    return Unreadable(reason, text=",".join(fields)) if reason else record


class _Unix:
    """Collects CSV lines; ends them in a line feed alone, though a field with either sign of a line end is quoted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line[:-2] + "\n")


def to_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """Write lines of CSV."""
    out = _Unix()
    csv.writer(out).writerows(rows)
    return "".join(out.lines).encode()


def to_field(value: Any) -> Any:
    """Write a value as a CSV field; what is no string looks as it does in JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)

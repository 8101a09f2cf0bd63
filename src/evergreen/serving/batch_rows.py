"""Rows of a batch on their way: chunks not parsed yet, the columns of a result, and what was parsed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from evergreen.text.csv_records import Unreadable

CHUNK_BYTES = 8 << 20
"""A chunk ends before its rows are complete when it holds as much, so that long texts don't fill the memory."""
PREFIX = 40
"""Characters of a rejected row that are kept, to find it by."""


@dataclass(frozen=True)
class Column:
    """A column of the input: its name and how its values are written to Parquet.

    Attributes:
        kind: string, int64, double, bool, or json for values of several kinds.
    """

    name: str
    kind: str = "string"


@dataclass(frozen=True)
class Chunk:
    """Some rows of an input, not parsed yet.

    Attributes:
        number: from 0.
        first_row: number of its first row in the input.
        records: a JSONL line or the fields of a CSV row, or why there are none.
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

    @property
    def added_columns(self) -> list[str]:
        """Names of the columns that a result has beside the input's."""
        return ["row", "label", *(f"probability_{label}" for label in self.labels)]

    @property
    def names(self) -> list[str]:
        """Names of all columns of a result that is a table."""
        return [*rename([column.name for column in self.columns or ()], self.added_columns), *self.added_columns]

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


def check_text(text: Any) -> str | None:
    """Say why there is nothing to predict."""
    if text is None:
        return "no text"
    if not isinstance(text, str):
        return "text is not a string"
    return None if text.strip() else "empty text"


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def rename(names: list[str], added: Sequence[str]) -> list[str]:
    """Names under which columns of the input are passed on."""
    taken, renamed = {*names, *added}, []
    for name in names:
        new = name
        while new in added or (new != name and new in taken):
            new = f"input_{new}"
        taken.add(new)
        renamed.append(new)
    return renamed

"""Records of a CSV file, for training and inference: one that can't be read is reported, and takes no other with it.

Python's `csv` reads them. pyarrow, Polars and DuckDB are faster, but a stray quote makes them lose rows without a word,
and an undecodable byte or a long row a whole file (docs/design-text.md, "Reading").
"""

import csv
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from evergreen.text.lines import Lines, RowTooLongError

SEPARATORS = (",", ";", "\t", "|")
MAX_KEPT = 4000
"""Characters of a row that can't be read."""
_MAX_LABELS = 1000
"""Remembered, of a file whose labels are not known; more would hardly be labels."""


@dataclass
class Unreadable:
    """What no row could be made of.

    Attributes:
        reason: one of few, to be counted.
        detail: what is wrong with this row in particular.
        text: the first `MAX_KEPT` characters of its first line.
    """

    reason: str
    detail: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        self.text = self.text[:MAX_KEPT]  # a batch may hold thousands of rows that are a million long


class CsvRecords:
    """Iterates over the records of a file, each with the number of its first line, from 1; the first is the header.

    A quote that is never closed, or only lines later, makes one field of all lines between. Such a record is known by
    its number of fields, its length, the end of the file, or by consisting of lines that are records by themselves; its
    first line is reported, and the others are read again. Empty lines are no records.

    Attributes:
        consists_of_records: tells this last case, of more than one line, by the record's fields and its lines; by
            default three lines or more, each with as many fields as the header. Two such lines are a text as well.
    """

    consists_of_records: Callable[[list[str], list[str]], bool]

    def __init__(self, lines: Lines, separator: str = ",", *, strict: bool = False) -> None:
        """Read `lines`; when `strict`, what follows a quoted field must be a separator."""
        self._lines = lines
        self._separator = separator
        self._strict = strict
        self._size = 0
        self.consists_of_records = lambda _fields, row: have_fields(row, separator, self._size)

    def __iter__(self) -> Iterator[tuple[int, list[str] | Unreadable]]:
        csv.field_size_limit(self._lines.limit + 1)  # its own limit would end a row with another error
        reader: Any = csv.reader(self._lines, delimiter=self._separator, strict=self._strict)
        while True:
            first = self._lines.number + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except RowTooLongError as error:
                yield first, self._reject_first_line("a row that is too long", str(error))
                continue
            except csv.Error as error:
                yield first, self._reject_first_line("not CSV", str(error))
                continue
            if fields:
                yield first, self._check(fields)
            self._lines.take()

    def _check(self, fields: list[str]) -> list[str] | Unreadable:
        row = self._lines.row
        self._size = self._size or len(fields)
        if len(row) > 1 and (self._lines.ended or len(fields) != self._size or self.consists_of_records(fields, row)):
            return self._reject_first_line("a quote that is not closed", f"{len(row):,} lines in one row")
        return fields

    def _reject_first_line(self, reason: str, detail: str) -> Unreadable:
        first, *others = self._lines.take()
        self._lines.put_back(others)
        return Unreadable(reason, detail, first)


def have_fields(row: list[str], separator: str, size: int) -> bool:
    """Whether there are three lines or more, each with `size` fields, two or more."""
    return len(row) > 2 and size > 1 and {line.count(separator) + 1 for line in row} == {size}


def detect_separator(lines: Lines, required: Collection[str]) -> str:
    """Return the separator with which the first line has the required columns, else most columns; read nothing."""
    row: list[str] = []
    for line in lines:
        row.append(line)
        if line.strip():
            break
    lines.take()
    lines.put_back(row)
    names = {mark: {name.strip() for name in next(csv.reader(row[-1:], delimiter=mark), [])} for mark in SEPARATORS}
    return max(SEPARATORS, key=lambda mark: (names[mark] >= set(required), len(names[mark])))


class LabelEvidence:
    """Tells whether a record consists of records, by the labels that its lines begin or end with."""

    def __init__(self, separator: str, header: list[str], text: str, label: str, labels: Collection[str]) -> None:
        """Know the columns.

        Args:
            header: names of all columns, `text` and `label` among them.
            labels: those that the file may have; empty: those that it learns.
        """
        self._separator = separator
        self._size = len(header)
        self._label = header.index(label)
        self._is_last = self._label > header.index(text)
        self._labels = set(labels)
        self._learns = not labels

    def learn(self, fields: list[str]) -> None:
        """Remember the label of a record, where labels are not known."""
        if self._learns and len(self._labels) < _MAX_LABELS:
            self._labels.add(fields[self._label].strip())

    def consists_of_records(self, fields: list[str], row: list[str]) -> bool:
        """Whether the label has several lines, which none has, or each line has a label in its place."""
        if len(fields[self._label].strip().splitlines()) > 1:
            return True
        return all(map(self._has_label, row)) if self._labels else have_fields(row, self._separator, self._size)

    def _has_label(self, line: str) -> bool:
        fields = line.strip("\r\n").split(self._separator)
        if len(fields) < self._size:
            return False
        # Counted from the text's other side, since a text may hold separators.
        label = fields[self._label - self._size if self._is_last else self._label]
        return label.strip(' "') in self._labels

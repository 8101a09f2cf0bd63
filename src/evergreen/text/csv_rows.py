"""Rows of a CSV file of any common dialect: a row that can't be read is reported, and takes no other with it.

Python's `csv` reads them. pyarrow, Polars and DuckDB are faster, but a stray quote makes them lose rows without a word,
and each stops or loses more than one row at an undecodable byte or a long row (docs/design-text.md, "Reading").
"""

import csv
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from evergreen.text.lines import MAX_CHARACTERS, UNDECODABLE, Lines, RowTooLongError

SEPARATORS = (",", ";", "\t", "|")
_MAX_LABELS = 1000
"""Remembered, of a file whose labels are not known; more would hardly be labels."""


@dataclass
class Unreadable:
    """What no row could be made of.

    Attributes:
        reason: one of few, to be counted.
        detail: what is wrong with this row in particular.
        text: its first line.
    """

    reason: str
    detail: str = ""
    text: str = ""


def read_header(lines: Lines, separator: str | None, required: Collection[str]) -> tuple[str, list[str]]:
    """Read the names of the columns, and detect by them what separates fields.

    Args:
        separator: None: the one with which the first line has the required columns, else most columns.

    Returns:
        The separator, and the names without spaces at their ends; no names where nothing is there to read.
    """
    names: list[str] = []
    with suppress(StopIteration, RowTooLongError, csv.Error):
        line = next(line for line in lines if line.strip())
        if separator is None:
            split = {mark: {name.strip() for name in next(csv.reader([line], delimiter=mark))} for mark in SEPARATORS}
            separator = max(SEPARATORS, key=lambda mark: (split[mark] >= set(required), len(split[mark])))
        lines.put_back([line])
        names = [name.strip() for name in next(csv.reader(lines, delimiter=separator))]
    lines.take()
    return separator or SEPARATORS[0], names


class CsvRows:
    """Iterates over the rows after the header: the values of some columns, or why there are none.

    A quote that is never closed, or only rows later, makes one field of all lines between. Such a row is known by
    its number of fields, its length, the end of the file, a label of several lines, or by each of its lines being a
    row with a label by itself; its first line is reported, and the others are read again. Empty lines are no rows.
    """

    def __init__(
        self, lines: Lines, separator: str, header: list[str], columns: Mapping[str, str], labels: Collection[str]
    ) -> None:
        """Continue a file behind its header.

        Args:
            header: names of all columns.
            columns: names of those to return, `text` and `label` among the keys.
            labels: those that the file may have; empty: those seen so far are taken.
        """
        csv.field_size_limit(MAX_CHARACTERS + 1)  # rows are limited already
        self._lines = lines
        self._separator = separator
        self._size = len(header)
        self._positions = [header.index(name) for name in columns.values()]
        self._label = header.index(columns["label"])
        self._label_is_last = self._label > header.index(columns["text"])
        self._labels = set(labels)
        self._learn_labels = not labels

    def __iter__(self) -> Iterator[list[str] | Unreadable]:
        reader: Any = csv.reader(self._lines, delimiter=self._separator)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except RowTooLongError:
                yield self._reject_first_line("a row that is too long", f"more than {MAX_CHARACTERS:,} characters")
                continue
            except csv.Error as error:
                yield self._reject_first_line("not a row of a CSV file", str(error))
                continue
            if fields:
                yield self._check(fields)
            self._lines.take()

    def _check(self, fields: list[str]) -> list[str] | Unreadable:
        row = self._lines.row
        if len(row) > 1 and (self._lines.ended or len(fields) != self._size or self._hold_rows(fields, row)):
            return self._reject_first_line("a quote that is not closed", f"{len(row):,} lines in one row")
        if len(fields) != self._size:
            return self._reject_first_line("another number of fields", f"{len(fields)} instead of {self._size}")
        values = [fields[position] for position in self._positions]
        if any(UNDECODABLE in value for value in values):
            return self._reject_first_line(f"not valid in data.encoding ({self._lines.encoding})", "")
        if self._learn_labels and len(self._labels) < _MAX_LABELS:
            self._labels.add(fields[self._label].strip())
        return values

    def _reject_first_line(self, reason: str, detail: str) -> Unreadable:
        first, *others = self._lines.take()
        self._lines.put_back(others)
        return Unreadable(reason, detail, first)

    def _hold_rows(self, fields: list[str], row: list[str]) -> bool:
        # No label has several lines; and of a text with several, hardly each one begins or ends with a label.
        return len(fields[self._label].strip().splitlines()) > 1 or all(map(self._is_row, row))

    def _is_row(self, line: str) -> bool:
        fields = line.strip("\r\n").split(self._separator)
        if len(fields) < self._size:
            return False
        # Counted from the text's other side, since a text may hold separators.
        label = fields[self._label - self._size if self._label_is_last else self._label]
        return not self._labels or label.strip(' "') in self._labels

"""Texts of a file for inference, streamed: `.txt` (one a line), `.csv` or `.jsonl` (with `text`), or standard input."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from evergreen.sources import SourceError

LONGEST_FIELD = 1 << 24
"""Characters of one CSV field; an unclosed quote swallows no more memory than that."""

Result = TypeVar("Result")


class FormatError(SourceError):
    """A file's name ends in a format that isn't read."""

    exit_code = 2


def read_texts(file: str) -> Iterator[str]:
    """Stream the texts of a file, in its order and in constant memory; `-` reads lines of standard input.

    Raises:
        FormatError: at once, when the name ends in another format.
        SourceError: when the row that can't be read is reached, naming its line.
    """
    read = _READERS.get(Path(file).suffix.lower())
    if read is None:
        raise FormatError(f"{file}: not a format that is read. Write a .txt, .csv or .jsonl file, or - for lines.")
    return _read_file(file, read)


def delay_errors(process: Callable[[Iterable[str]], Iterator[Result]], texts: Iterable[str]) -> Iterator[Result]:
    """Yield the results of all texts before one that can't be read, then raise its SourceError.

    Without it, a `process` that works in batches would lose the texts of the last, unfinished batch.
    """
    errors: list[SourceError] = []

    def read_until_error() -> Iterator[str]:
        try:
            yield from texts
        except SourceError as error:
            errors.append(error)

    yield from process(read_until_error())
    if errors:
        raise errors[0]


def _read_file(file: str, read: Callable[[BinaryIO, str], Iterator[str]]) -> Iterator[str]:
    if file == "-":
        yield from read(sys.stdin.buffer, "standard input")
        return
    try:
        with Path(file).open("rb") as stream:
            yield from read(stream, file)
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror}. Correct the path or the permissions.") from error


def _read_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in _decode_lines(stream, name))


def _decode_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(f"{name}, line {number}: not UTF-8. Save the file as UTF-8.") from error


def _read_csv(stream: BinaryIO, name: str) -> Iterator[str]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.DictReader(_decode_lines(stream, name), strict=True)
    try:
        columns = list(reader.fieldnames or [])
        if "text" not in columns:
            raise SourceError(f"{name}: no column text among {columns}. Name the column of the texts text.")
        for row in reader:
            if row["text"] is None:
                raise SourceError(f"{name}, line {reader.line_num}: no text in this row. Add it, or remove the row.")
            yield row["text"]
    except csv.Error as error:
        raise SourceError(
            f"{name}, after line {reader.line_num}: not CSV ({error}). Correct the quotes there."
        ) from error


def _read_jsonl(stream: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(_decode_lines(stream, name), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{name}, line {number}: not JSON. Write one object a line.") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise SourceError(f'{name}, line {number}: no key text with a string. Write {{"text": "…"}}.')
        yield row["text"]


_READERS = {"": _read_lines, ".txt": _read_lines, ".csv": _read_csv, ".jsonl": _read_jsonl}

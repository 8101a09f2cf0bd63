"""Texts of a file for inference, streamed: `.txt` (one a line), `.csv` or `.jsonl` (with `text`), or standard input."""

import json
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from evergreen.sources import SourceError
from evergreen.text.csv_records import CsvRecords, Unreadable
from evergreen.text.lines import UNDECODABLE, Lines

LONGEST_FIELD = 1 << 24
"""Characters of one CSV field; an unclosed quote swallows no more memory than that."""
BATCH = 1024
"""Texts that are given to the model together, where they come fast enough."""
_READ_BYTES = 1 << 16
_SIGNATURES = {
    b"\xff\xfe": "UTF-16. Save the file as UTF-8.",
    b"\xfe\xff": "UTF-16. Save the file as UTF-8.",
    b"\x1f\x8b": "compressed by gzip. Unpack it.",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet. Unpack it, or export the sheet as CSV in UTF-8.",
}


class FormatError(SourceError):
    """A file's name ends in a format that isn't read."""

    exit_code = 2


def read_batches(file: str, size: int = BATCH) -> Iterator[list[str]]:
    """Stream the texts of a file in batches, in its order and in constant memory.

    `-` reads lines of standard input; what has arrived of them makes a batch.

    Raises:
        FormatError: at once, when the name ends in another format.
        SourceError: when the row that can't be read is reached, naming its line; the texts before it come first.
    """
    _check_format(file)
    return _read_arrived(size) if file == "-" else _batch(_read_file(file), size)


def check_signature(name: str, beginning: bytes) -> None:
    """Refuse a file whose first bytes, four or more, show that it holds no lines of UTF-8, in place of every row of it.

    Raises:
        SourceError: with what it holds.
    """
    for signature, kind in _SIGNATURES.items():
        if beginning.startswith(signature):
            raise SourceError(f"{name}: {kind}")


def check_columns(name: str, columns: Sequence[str]) -> None:
    """Raise SourceError unless one column of a CSV file is named text."""
    if "text" in columns:
        if list(columns).count("text") > 1:
            raise SourceError(f"{name}: several columns named ['text']. Give each a name of its own.")
        return
    separator = next((sign for sign in ";\t|" if "text" in "".join(columns).split(sign)), None)
    remedy = "Name the column of the texts text."
    if separator is not None:
        remedy = f"Separate the fields by commas, not by {separator!r}."
    raise SourceError(f"{name}: no column text among {list(columns)}. {remedy}")


def _check_format(file: str) -> None:
    if Path(file).suffix.lower() not in _READERS:
        raise FormatError(f"{file}: not a format that is read. Write a .txt, .csv or .jsonl file, or - for lines.")


def _batch(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while True:
        batch: list[str] = []
        failure = None
        try:
            batch.extend(islice(iterator, size))  # keeps what came before an error
        except SourceError as error:
            failure = error
        if batch:
            yield batch
        if failure is not None:
            raise failure
        if not batch:
            return


def _read_file(file: str) -> Iterator[str]:
    try:
        with Path(file).open("rb") as stream:
            check_signature(file, stream.peek(4))
            yield from _READERS[Path(file).suffix.lower()](stream, file)
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror}. Correct the path or the permissions.") from error


def _read_arrived(size: int) -> Iterator[list[str]]:
    name = "standard input"
    if sys.stdin is None:  # as Python has it where it was closed
        raise SourceError(f"{name}: closed. Pipe the texts into the command, or name a file.")
    first = 1
    for lines in _wait_for_lines(cast(BufferedReader, sys.stdin.buffer), size, name):
        yield from _batch(_read_lines(lines, name, first), size)
        first += len(lines)


def _wait_for_lines(stream: BufferedReader, size: int, name: str) -> Iterator[list[bytes]]:
    """Yield the complete lines once as many have arrived, or nothing more is there yet."""
    lines: list[bytes] = []
    parts: list[bytes] = []  # of a line that has no end yet
    try:
        while chunk := stream.read1(_READ_BYTES):
            parts.append(chunk)
            if b"\n" in chunk:
                *complete, rest = b"".join(parts).split(b"\n")
                lines += complete
                parts = [rest]
            if lines and (len(lines) >= size or not _has_more(stream)):
                yield lines
                lines = []
    except OSError as error:  # a terminal that is gone, say
        raise SourceError(f"{name}: {error.strerror}. Pipe the texts again.") from error
    last = b"".join(parts)
    if lines or last:
        yield [*lines, last] if last else lines


def _has_more(stream: BufferedReader) -> bool:
    try:
        return bool(select.select([stream], [], [], 0)[0])
    except (OSError, ValueError):  # no file of the system's, or one that it can't ask
        return False


def _read_lines(lines: Iterable[bytes], name: str, first: int = 1) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in _decode_lines(lines, name, first))


def _decode_lines(lines: Iterable[bytes], name: str, first: int = 1) -> Iterator[str]:
    for number, line in enumerate(lines, first):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(f"{name}, line {number}: not UTF-8. Save the file as UTF-8.") from error


def _read_csv(stream: BinaryIO, name: str) -> Iterator[str]:
    header: list[str] = []
    with Lines(stream, "utf-8", LONGEST_FIELD) as lines:
        for number, fields in CsvRecords(lines, strict=True):
            if isinstance(fields, Unreadable):
                problem = f"{fields.reason} ({fields.detail})"
                raise SourceError(f"{name}, line {number}: not CSV: {problem}. Correct the quotes there.")
            if any(UNDECODABLE in field for field in fields):
                raise SourceError(f"{name}, line {number}: not UTF-8. Save the file as UTF-8.")
            if not header:
                check_columns(name, fields)
                header = fields
                continue
            if len(fields) > len(header):  # a text of which a part would be lost
                counts = f"{len(fields)} fields, {len(header)} expected"
                raise SourceError(f"{name}, line {number}: {counts}. Quote a text that has commas.")
            position = header.index("text")
            if len(fields) <= position:
                raise SourceError(f"{name}, line {number}: no text in this row. Add it, or remove the row.")
            yield fields[position]
    if not header:
        check_columns(name, header)


def _read_jsonl(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(_decode_lines(lines, name), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{name}, line {number}: not JSON. Write one object a line.") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise SourceError(f'{name}, line {number}: no key text with a string. Write {{"text": "…"}}.')
        yield row["text"]


_READERS: dict[str, Callable[[BinaryIO, str], Iterator[str]]] = {
    "": _read_lines,
    ".txt": _read_lines,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}

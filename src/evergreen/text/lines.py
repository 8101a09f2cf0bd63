"""Lines of a text file in any encoding, with any ends, none of them longer than memory bears."""

import codecs
import io
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, Self

MAX_CHARACTERS = 1 << 20
"""Of a row of a corpus; the first so many of a longer one are enough to report it."""
UNDECODABLE = "\udfff"
"""Stands where bytes are not valid in the file's encoding; no decoder makes it otherwise."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark begins alike
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class RowTooLongError(Exception):
    """More characters were read than a row may have."""


class Lines:
    """Iterates over the lines of a file, their ends included, and remembers those of the current row.

    Attributes:
        encoding: what the file's byte order mark says, or else what was given.
        limit: characters of a row at most.
        number: of the last line, from 1.
        row: the lines since the last `take`.
        ended: whether a line was wanted after the last one.
    """

    def __init__(self, stream: BinaryIO, encoding: str, limit: int = MAX_CHARACTERS) -> None:
        start = stream.read(4)
        stream.seek(0)
        self.encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), encoding)
        self._text = io.TextIOWrapper(stream, self.encoding, errors="evergreen.mark", newline="")
        self._returned: deque[str] = deque()
        self.limit = limit
        self.number = 0
        self.row: list[str] = []
        self.ended = False
        self._size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else self._text.readline(self.limit + 1)
        self.ended = not line
        if not line:
            raise StopIteration
        self.number += 1
        self.row.append(line)
        self._size += len(line)
        if self._size > self.limit:
            if len(line) > self.limit:
                self.row[-1] = self._shorten(line)
            raise RowTooLongError(f"longer than {self.limit:,} characters")
        return line

    def _shorten(self, part: str) -> str:
        line = part[: self.limit] + "\n"
        while part and not part.endswith(("\r", "\n")):
            part = self._text.readline(self.limit)
        return line  # still too long, should it be read again

    def take(self) -> list[str]:
        """Return the lines of the row, and begin the next one."""
        row, self.row, self._size = self.row, [], 0
        return row

    def put_back(self, lines: list[str]) -> None:
        """Let lines be read once more."""
        self._returned.extendleft(reversed(lines))
        self.number -= len(lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._text.closed:
            self._text.detach()  # the stream outlives this


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return UNDECODABLE, error.end


codecs.register_error("evergreen.mark", _mark)

"""Texts of a file for inference: formats, order, streaming, and errors that name the line."""

import csv
import gzip
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evergreen.sources import SourceError
from evergreen.text.inputs import FormatError, read_batches

TEXTS = ["good flight", 'a "quoted", text', "", "äöü 😀", "last"]


def read_texts(file: str) -> Iterator[str]:
    return itertools.chain.from_iterable(read_batches(file))


def write(path: Path, texts: list[str]) -> str:
    if path.suffix.lower() == ".csv":
        lines = ["id,text", *('%d,"%s"' % (i, text.replace('"', '""')) for i, text in enumerate(texts))]
    elif path.suffix.lower() == ".jsonl":
        lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    else:
        lines = texts
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def set_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("name", ["t.txt", "t.csv", "t.jsonl", "T.CSV", "without-suffix"])
def test_texts_keep_their_order(tmp_path: Path, name: str):
    assert list(read_texts(write(tmp_path / name, TEXTS))) == TEXTS


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_byte_order_mark_is_no_text(tmp_path: Path, suffix: str):
    path = Path(write(tmp_path / f"t{suffix}", TEXTS))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(read_texts(str(path))) == TEXTS


def test_csv_text_with_line_breaks(tmp_path: Path):
    file = tmp_path / "t.csv"
    file.write_bytes(b'text,id\r\n"good\r\nflight",1\r\nbad,2\r\n')
    assert list(read_texts(str(file))) == ["good\r\nflight", "bad"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch):
    set_stdin(monkeypatch, b"good\r\n\r\nbad")
    assert list(read_texts("-")) == ["good", "", "bad"]
    set_stdin(monkeypatch, b"\xff\n")
    with pytest.raises(SourceError, match="standard input, line 1: not UTF-8"):
        list(read_texts("-"))


def test_empty_files(tmp_path: Path):
    for name in ("t.txt", "t.jsonl"):
        (tmp_path / name).write_bytes(b"")
        assert list(read_texts(str(tmp_path / name))) == []


def test_unknown_format_is_refused_before_reading():
    with pytest.raises(FormatError, match=r"t\.parquet.*\.csv") as error:
        read_texts("t.parquet")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"good\nbad\n\xff\xfe\ngood\n", "line 3: not UTF-8"),
        ("t.csv", b"text\ngood\nbad\n\xff\n", "line 4: not UTF-8"),
        ("t.csv", b'text\ngood\nbad\n"never closed\n', "line 4: not CSV: .*quotes"),
        (
            "t.csv",
            b'id,text\n1,good\n2,bad\n3,"good\n4,bad\n5,good"\n',
            "line 4: not CSV: a quote that is not closed .3 lines",
        ),
        ("t.csv", b"id,text\n1,good\n2,bad\n3\n", "line 4: no text"),
        ("t.csv", b"id,text\n1,good\n2,bad\n3,good, but late\n", "line 4: 3 fields, 2 expected"),
        ("t.jsonl", b'{"text": "good"}\n\n{"text": "bad"}\n{"text"\n', "line 4: not JSON"),
        ("t.jsonl", b'{"text": "good"}\n{"text": "bad"}\n{"texts": "x"}\n', "line 3: no key text"),
        ("t.jsonl", b'{"text": "good"}\n{"text": "bad"}\n{"text": 7}\n', "line 3: no key text with a string"),
        ("t.jsonl", b'{"text": "good"}\n{"text": "bad"}\n[1]\n', "line 3: no key text"),
        ("t.jsonl", b'{"text": "good"}\n{"text": "bad"}\n' + b"[" * 200_000 + b"\n", "line 3: not JSON"),
    ],
)
def test_error_names_the_line_after_earlier_texts(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    texts = read_texts(str(tmp_path / name))
    assert list(itertools.islice(texts, 2)) == ["good", "bad"]
    with pytest.raises(SourceError, match=message) as error:
        next(texts)
    assert name in str(error.value)


def test_two_columns_of_texts(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes(b"text,text\ngood,bad\n")
    with pytest.raises(SourceError, match="several columns named"):
        list(read_texts(str(tmp_path / "t.csv")))


@pytest.mark.parametrize("content", [b"id,words\n1,good\n", b""])
def test_csv_without_text_column(tmp_path: Path, content: bytes):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(SourceError, match="no column text"):
        list(read_texts(str(tmp_path / "t.csv")))


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_csv_with_another_separator_is_told_from_one_without_texts(tmp_path: Path, sign: str):
    (tmp_path / "t.csv").write_text(f"id{sign}text\n1{sign}good\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"no column text among .*Separate the fields by commas"):
        list(read_texts(str(tmp_path / "t.csv")))


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\ngood\n".encode("utf-16"), "UTF-16.*Save the file as UTF-8"),
        (gzip.compress(b"text\ngood\n"), "gzip.*Unpack"),
        (b"PK\x03\x04\x14\x00", "spreadsheet.*export"),
    ],
    ids=["utf-16", "gzip", "zip"],
)
def test_file_of_another_kind_is_named(tmp_path: Path, suffix: str, content: bytes, message: str):
    (tmp_path / f"t{suffix}").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(read_texts(str(tmp_path / f"t{suffix}")))


def test_csv_field_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("evergreen.text.inputs.LONGEST_FIELD", 100)
    (tmp_path / "t.csv").write_text('text\n"' + "never closed\n" * 20, encoding="utf-8")
    limit = csv.field_size_limit()
    try:
        with pytest.raises(SourceError, match=r"line 2: not CSV: .*longer than 100 characters"):
            list(read_texts(str(tmp_path / "t.csv")))
    finally:
        csv.field_size_limit(limit)  # of the whole process: importlib.metadata reads CSV too


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(SourceError, match=r"none\.txt: No such file.*Correct the path"):
        list(read_texts(str(tmp_path / "none.txt")))
    with pytest.raises(SourceError, match="directory"):
        list(read_texts(str(tmp_path)))


def test_texts_are_streamed(monkeypatch: pytest.MonkeyPatch):
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            buffer[:2] = b"a\n"
            return 2

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    assert list(itertools.islice(read_texts("-"), 1000)) == ["a"] * 1000


@pytest.mark.parametrize("name", ["t.txt", "t.csv", "t.jsonl"])
def test_batches_are_full_and_come_before_the_error(tmp_path: Path, name: str):
    file = Path(write(tmp_path / name, list("abcde")))
    assert list(read_batches(str(file), 2)) == [["a", "b"], ["c", "d"], ["e"]]
    file.write_bytes(file.read_bytes() + b"\xff\n")
    batches = read_batches(str(file), 2)
    assert list(itertools.islice(batches, 3)) == [["a", "b"], ["c", "d"], ["e"]]
    with pytest.raises(SourceError, match=r"not UTF-8"):
        next(batches)


class Arriving(io.RawIOBase):
    """A pipe that gives the chunks one at a time."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        chunk = self.chunks.pop(0) if self.chunks else b""
        buffer[: len(chunk)] = chunk
        return len(chunk)


@pytest.mark.parametrize(
    ("chunks", "batches"),
    [
        ([b"a\n", b"b\n"], [["a"], ["b"]]),
        ([b"a\nb\nc", b"d\r", b"\n\n", b"e"], [["a", "b"], ["cd", ""], ["e"]]),
        (["ä\n".encode()[:1], "ä\n".encode()[1:]], [["ä"]]),
        ([b"\xef\xbb", b"\xbfa\n", b"\xef\xbb\xbfb\n"], [["a"], ["\ufeffb"]]),
        ([b"a\nb\nc\n"], [["a", "b"], ["c"]]),
        ([b"a\x00\n\n"], [["a\x00", ""]]),
        ([], []),
    ],
)
def test_lines_of_standard_input_are_read_as_they_arrive(
    monkeypatch: pytest.MonkeyPatch, chunks: list[bytes], batches: list[list[str]]
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Arriving(*chunks))))
    assert list(read_batches("-", 2)) == batches


def test_a_bad_line_of_standard_input_is_named_by_its_number_among_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Arriving(b"a\nb\n", b"c\n\xff\nd\n"))))
    batches = read_batches("-")
    assert [next(batches), next(batches)] == [["a", "b"], ["c"]]
    with pytest.raises(SourceError, match="standard input, line 4: not UTF-8"):
        next(batches)


def test_lines_that_come_fast_fill_the_batches(monkeypatch: pytest.MonkeyPatch):
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        os.write(writer, b"a\n" * 30_000)
        os.close(writer)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        sizes = [len(batch) for batch in read_batches("-", 1024)]
    assert sizes == [1024] * 29 + [304]


def test_closed_standard_input(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SourceError, match="standard input: closed"):
        next(read_batches("-"))

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from evergreen.params import Columns
from evergreen.sources import SourceError
from evergreen.text import readers
from evergreen.text.csv_records import MAX_KEPT
from evergreen.text.readers import CorpusError, CorpusFormat, read_batches

NAMED = Columns(text="tweet", label="sentiment")
ROWS = [{"tweet": f"text {n}", "sentiment": "neutral", "other": n} for n in range(7)]


def read(path: Path, columns: Columns = NAMED, encoding: str = "utf-8", batch_rows: int = 3, **more: Any):
    """All rows of a corpus as {row number: (text, label)}, and what could not be read as {row number: reason}."""
    rows, unreadable = {}, {}
    for batch in read_batches(str(path), CorpusFormat(columns, encoding, batch_rows=batch_rows, **more)):
        assert len(batch.rows) <= batch_rows
        values = batch.rows[["text", "label"]].astype(object).itertuples(index=False, name=None)
        rows |= dict(zip(batch.rows.index.tolist(), values, strict=True))
        unreadable |= {number: problem.reason for number, problem in batch.unreadable.items()}
    assert not set(rows) & set(unreadable)
    return rows, unreadable


def expected(count: int = 7) -> dict[int, tuple[str, str]]:
    return {n: (f"text {n}", "neutral") for n in range(count)}


def write_csv(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


PLAIN = b"other,tweet,sentiment\n" + b"".join(b"%d,text %d,neutral\n" % (n, n) for n in range(7))


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
def test_csv_in_batches(tmp_path, batch_rows):
    rows, unreadable = read(write_csv(tmp_path / "a.csv", PLAIN), batch_rows=batch_rows)
    assert rows == expected()
    assert not unreadable


def test_csv_with_newlines_in_quotes_and_texts_that_look_like_nothing(tmp_path):
    path = write_csv(tmp_path / "a.csv", b'tweet,sentiment\n"one\ntwo, ""so""",neutral\nNA,null\n,\n')
    rows, unreadable = read(path)
    assert rows == {0: ('one\ntwo, "so"', "neutral"), 1: ("NA", "null"), 2: ("", "")}
    assert not unreadable


def test_csv_of_another_encoding(tmp_path):
    path = write_csv(tmp_path / "a.csv", "tweet,sentiment\ncafé \x93,neutral\n".encode("latin-1"))
    assert read(path, encoding="latin-1")[0] == {0: ("café \x93", "neutral")}
    path = write_csv(tmp_path / "b.csv", "tweet,sentiment\ncafé “,neutral\n".encode("utf-16"))
    assert read(path, encoding="utf-16")[0] == {0: ("café “", "neutral")}


@pytest.mark.parametrize("encoding", ["utf-8", "UTF_8", "utf8", "utf-8-sig"])
def test_csv_with_a_byte_order_mark(tmp_path, encoding):
    path = write_csv(tmp_path / "a.csv", "tweet,sentiment\ncafé,neutral\n".encode("utf-8-sig"))
    assert read(path, encoding=encoding)[0] == {0: ("café", "neutral")}


def test_a_csv_row_that_is_not_valid_is_reported_and_the_others_are_read(tmp_path):
    path = write_csv(tmp_path / "a.csv", b"tweet,sentiment\ngood,neutral\nbad \xff\xfe,neutral\nfine,neutral\n")
    rows, unreadable = read(path)
    assert rows == {0: ("good", "neutral"), 2: ("fine", "neutral")}
    assert unreadable == {1: "not valid in data.encoding (utf-8)"}


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_csv_rows_with_a_wrong_number_of_fields_are_reported_with_their_number(tmp_path, batch_rows):
    content = b"tweet,sentiment\na,neutral\nb,neutral,more\nc,neutral\nd\n\xff,neutral\ne,neutral\n"
    rows, unreadable = read(write_csv(tmp_path / "a.csv", content), batch_rows=batch_rows)
    assert rows == {0: ("a", "neutral"), 2: ("c", "neutral"), 5: ("e", "neutral")}
    assert unreadable == {
        1: "another number of fields",
        3: "another number of fields",
        4: "not valid in data.encoding (utf-8)",
    }


def test_row_numbers_hold_beyond_the_first_block_of_a_csv(tmp_path):
    filler = b"x" * 1000
    lines = [b"%d %b,neutral\n" % (n, filler) for n in range(9000)]  # 9 MB: three blocks
    for bad in (10, 5000, 8000):
        lines[bad] = b"one,two,three\n"
    rows, unreadable = read(write_csv(tmp_path / "a.csv", b"tweet,sentiment\n" + b"".join(lines)), batch_rows=4000)
    assert set(unreadable) == {10, 5000, 8000}
    assert len(rows) == 8997
    assert all(text.split()[0] == str(number) for number, (text, _) in rows.items())


def test_a_csv_of_bad_rows_only_is_reported(tmp_path):
    rows, unreadable = read(write_csv(tmp_path / "a.csv", b"tweet,sentiment\na\nb\n"))
    assert not rows
    assert set(unreadable) == {0, 1}


def test_other_columns_of_a_csv_may_change_type(tmp_path):
    filler = "y" * 1000
    lines = [f"{n if n < 8000 else 'word'},text {filler},neutral\n" for n in range(9000)]
    path = write_csv(tmp_path / "a.csv", ("other,tweet,sentiment\n" + "".join(lines)).encode())
    assert len(read(path, batch_rows=9000)[0]) == 9000


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (b"", "utf-8", "empty"),
        (b"\n\n", "utf-8", "empty"),
        ("tweet,sentiment\na,neutral\n".encode("utf-16-le"), "utf-8", "data.encoding, utf-8; .* utf-16-le"),
        (b"tweet,tweet,sentiment\na,b,neutral\n", "utf-8", r"more than one column \['tweet'\]"),
    ],
)
def test_a_csv_file_that_can_not_be_read_is_a_corpus_error(tmp_path, content, encoding, message):
    with pytest.raises(CorpusError, match=message) as error:
        read(write_csv(tmp_path / "a.csv", content), encoding=encoding)
    assert "a.csv" in str(error.value)


QUOTE = "a quote that is not closed"


def with_lines(lines: dict[int, str], count: int = 7) -> bytes:
    """A CSV file of `count` rows, some of them replaced."""
    rows = [lines.get(n, f"text {n},neutral") for n in range(count)]
    return "\n".join(["tweet,sentiment", *rows, ""]).encode()


@pytest.mark.parametrize("labels", [(), ("neutral", "positive")])
@pytest.mark.parametrize(
    ("lines", "lost"),
    [
        ({2: '"text 2,neutral'}, {2}),  # to the end of the file
        ({2: '"text 2,neutral', 5: 'text 5",neutral'}, {2}),
        ({2: '"text 2,neutral', 3: 'text 3",neutral'}, {2}),
        ({2: '"text, 2,neutral', 3: 'text 3",neutral'}, {2}),
        ({2: '"text 2,neutral', 4: '"text 4",neutral'}, {2}),
        ({2: '"text 2,neutral', 4: '"text, 4",neutral'}, {2}),
        ({2: '"text 2,neutral', 3: '"text 3,neutral', 5: '"text 5,neutral'}, {2, 3, 5}),
        ({6: '"text 6,neutral'}, {6}),
    ],
)
def test_a_stray_quote_takes_no_other_row_with_it(tmp_path, lines, lost, labels):
    rows, unreadable = read(write_csv(tmp_path / "a.csv", with_lines(lines)), labels=labels)
    assert set(rows) | set(unreadable) == set(range(7))
    assert set(unreadable) == lost
    assert {number: row for number, row in rows.items() if number not in lines} == {
        number: row for number, row in expected().items() if number not in lost and number not in lines
    }


def test_a_stray_quote_where_the_label_comes_first(tmp_path):
    rows = [f"neutral,{n},text {n}" for n in range(7)]
    rows[2], rows[4] = 'neutral,2,"text 2', 'neutral,4,text 4"'
    content = "\n".join(["sentiment,id,tweet", *rows]).encode()
    lines, unreadable = read(write_csv(tmp_path / "a.csv", content))
    assert set(lines) == {0, 1, 3, 4, 5, 6}
    assert unreadable == {2: QUOTE}


@pytest.mark.parametrize(
    "text", ["one\ntwo", "a, b\nc, d", "neutral\nneutral", "a\n\nb\n", "one\r\ntwo", "1\n" * 500, "\n"]
)
def test_texts_of_several_lines_stay_whole(tmp_path, text):
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("tweet", "sentiment"), ("text 0", "neutral"), (text, "neutral"), (text, "neutral")]
        )
    rows, unreadable = read(tmp_path / "a.csv")
    assert rows == {0: ("text 0", "neutral"), 1: (text, "neutral"), 2: (text, "neutral")}
    assert not unreadable


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_what_a_writer_of_csv_wrote_is_read(tmp_path_factory, texts, separator):
    path = tmp_path_factory.mktemp("written") / "a.csv"
    texts = [f"{n} {text}" for n, text in enumerate(texts)]
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [("tweet", "sentiment"), *((text, "neutral") for text in texts)]
        csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(rows)
    rows, unreadable = read(path, labels=["neutral"])
    assert not unreadable
    assert [text for text, _ in rows.values()] == texts


@settings(deadline=None)
@given(st.lists(st.text('a,"\n', max_size=12), min_size=1, max_size=12))
def test_no_line_vanishes_whatever_is_in_it(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("any") / "a.csv"
    path.write_text("\n".join(["tweet,sentiment", *lines, "text 0,neutral", "text 1,neutral", "text 2,neutral\n"]))
    rows, unreadable = read(path, labels=["neutral"])
    assert sorted({*rows, *unreadable}) == list(range(len(rows) + len(unreadable)))
    kept = [text for text, label in rows.values() if label == "neutral"]
    assert kept[-2:] == ["text 1", "text 2"]


def test_a_quote_that_is_never_closed_in_a_large_file(tmp_path):
    content = b'tweet,sentiment\na,neutral\n"b,neutral\n' + b"c,neutral\n" * 500_000
    rows, unreadable = read(write_csv(tmp_path / "a.csv", content), batch_rows=100_000)
    assert unreadable == {1: "a row that is too long"}
    assert len(rows) == 500_001


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl"])
def test_a_row_longer_than_any_block_is_one_row(tmp_path, name, end):
    long = b"x " * 5_000_000
    if name == "a.jsonl":
        lines = as_jsonl(ROWS).splitlines()
        lines.insert(3, b'{"tweet": "' + long + b'", "sentiment": "neutral"}')
    else:
        lines = PLAIN.splitlines()
        lines.insert(4, b"9," + long + b",neutral")
    content = end.join([*lines, b""])
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    rows, unreadable = read(tmp_path / name)
    assert set(rows) == {0, 1, 2, 4, 5, 6, 7}
    assert unreadable == {3: "a row that is too long"}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_separators_line_ends_and_byte_order_marks_are_detected(tmp_path, separator, end, encoding):
    rows = [("other", "tweet", "sentiment"), *((str(n), f"text {n}", "neutral") for n in range(7))]
    content = end.join(separator.join(row) for row in rows)
    path = write_csv(tmp_path / "a.csv", content.encode(encoding))
    assert read(path, encoding="utf-8") == (expected(), {})


def test_a_separator_is_what_params_say(tmp_path):
    path = write_csv(tmp_path / "a.csv", b"tweet~sentiment\na, b; c~neutral\n")
    assert read(path, separator="~")[0] == {0: ("a, b; c", "neutral")}
    with pytest.raises(CorpusError, match=r"no column .* It has \['tweet~sentiment'\].*data.separator"):
        read(path)


def test_names_of_columns_may_have_spaces_and_lines(tmp_path):
    path = write_csv(tmp_path / "a.csv", b'\n"other\nthing", tweet , sentiment\n1,a,neutral\n')
    assert read(path) == ({0: ("a", "neutral")}, {})


@pytest.mark.parametrize("encoding", ["cp1252", "shift_jis", "utf-8", "utf-16-le"])
def test_one_undecodable_byte_is_one_row(tmp_path, encoding):
    lines = [f"text {n},neutral\n".encode(encoding) for n in range(7)]
    lines[3] = (
        "te".encode(encoding)
        + {"utf-16-le": b"\x00\xd8", "shift_jis": b"\xff"}.get(encoding, b"\x81")
        + "xt,neutral\n".encode(encoding)
    )
    path = write_csv(tmp_path / "a.csv", "tweet,sentiment\n".encode(encoding) + b"".join(lines))
    rows, unreadable = read(path, encoding=encoding)
    assert unreadable == {3: f"not valid in data.encoding ({encoding})"}
    assert set(rows) == {0, 1, 2, 4, 5, 6}


def test_an_undecodable_byte_where_nothing_is_read_does_no_harm(tmp_path):
    path = write_csv(tmp_path / "a.csv", b"other,tweet,sentiment\n\xff,a,neutral\n")
    assert read(path) == ({0: ("a", "neutral")}, {})


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_batch_of_long_rows_ends_early(tmp_path, monkeypatch, name):
    monkeypatch.setattr(readers, "_BATCH_CHARACTERS", 30)  # two rows of seven and six characters reach no 30, three do
    (tmp_path / name).write_bytes(PLAIN if name == "a.csv" else as_jsonl(ROWS))
    sizes = [len(batch.rows) for batch in read_batches(str(tmp_path / name), CorpusFormat(NAMED))]
    assert sizes == [3, 3, 1]
    assert read(tmp_path / name)[0] == expected()


def test_of_a_row_that_can_not_be_read_only_the_start_is_kept(tmp_path):
    path = write_csv(tmp_path / "a.csv", b"tweet,sentiment\n" + b"word " * 100_000 + b"\nb,neutral\n")
    (batch,) = read_batches(str(path), CorpusFormat(NAMED))
    assert len(batch.unreadable[0].text) == MAX_KEPT


def test_a_csv_with_a_header_only_has_no_rows(tmp_path):
    assert read(write_csv(tmp_path / "a.csv", b"tweet,sentiment\n")) == ({}, {})


def as_jsonl(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_jsonl_with_lines_that_are_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    deep = b"[" * 200_000
    path.write_bytes(
        b'{"tweet": "a", "sentiment": "neutral"}\n{"tweet": \n\n["b", "neutral"]\n3\n{"tweet": "\xff"}\n'
        + deep + b'\n   \n{"tweet": "c"}\n{"tweet": null, "sentiment": "positive", "more": {}}'
    )  # fmt: skip
    rows, unreadable = read(path)
    assert rows == {0: ("a", "neutral"), 8: ("c", None), 9: (None, "positive")}
    assert unreadable.pop(5) == "not valid UTF-8"
    assert unreadable == dict.fromkeys((1, 3, 4, 6), "not valid JSON")


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_a_key_that_some_jsonl_rows_lack_is_no_missing_column_whatever_the_batches(tmp_path, batch_rows):
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_jsonl([{"tweet": "a"}, {"tweet": "b", "sentiment": "neutral"}, {"sentiment": "neutral"}]))
    rows, _ = read(path, batch_rows=batch_rows)
    assert rows == {0: ("a", None), 1: ("b", "neutral"), 2: (None, "neutral")}


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.ndjson.gz", "a.csv.gz", "a.CSV.GZ"])
def test_compressed_files(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(PLAIN if "csv" in name.lower() else as_jsonl(ROWS)))
    assert read(tmp_path / name)[0] == expected()


@pytest.mark.parametrize("content", [b"not compressed", gzip.compress(PLAIN * 1000)[:200]])
@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz"])
def test_a_broken_compressed_file_is_a_corpus_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=name):
        read(tmp_path / name)


def test_parquet(tmp_path):
    pd.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0] == expected()


def test_integers_of_a_parquet_file_stay_exact_beside_nulls(tmp_path):
    ids = [2**60 + n for n in range(6)]
    table = pa.table(
        {
            "tweet": ["a", "b", "c", "d", "e", "f"],
            "sentiment": pa.array([0, 1, None, 1, 0, 1], pa.int64()),
            "key": pa.array([*ids[:5], None], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    columns = NAMED.model_copy(update={"id": "key"})
    (batch,) = read_batches(str(tmp_path / "a.parquet"), CorpusFormat(columns))
    assert batch.rows["label"].tolist() == ["0", "1", None, "1", "0", "1"]
    assert batch.rows["id"].tolist() == [*map(str, ids[:5]), None]


@pytest.mark.parametrize("column", ["tweet", "sentiment"])
def test_an_index_that_pandas_keeps_is_a_column(tmp_path, column):
    pd.DataFrame(ROWS).set_index(column).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == (expected(), {})


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())],
)
def test_strings_of_any_arrow_type(tmp_path, kind):
    table = pa.Table.from_pylist(ROWS)
    for n, name in ((0, "tweet"), (1, "sentiment")):
        table = table.set_column(n, name, table[name].cast(kind))
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == (expected(), {})


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_one_string_of_a_parquet_file_that_is_not_utf8_is_one_row(tmp_path, kind):
    texts = pa.array([b"text 0", b"\xff", b"text 2"], pa.binary())
    column = pa.Array.from_buffers(kind, 3, texts.buffers())
    pq.write_table(pa.table({"tweet": column, "sentiment": ["neutral"] * 3}), tmp_path / "a.parquet")
    rows, unreadable = read(tmp_path / "a.parquet")
    assert rows == {0: ("text 0", "neutral"), 2: ("text 2", "neutral")}
    assert unreadable == {1: "not valid UTF-8"}


def test_a_column_of_lists_is_a_corpus_error(tmp_path):
    pq.write_table(pa.table({"tweet": [["a", "b"]], "sentiment": ["neutral"]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a.parquet: column 'tweet' holds list.*single values"):
        read(tmp_path / "a.parquet")


def test_a_damaged_page_of_a_parquet_file_is_a_corpus_error_with_its_place(tmp_path):
    path = tmp_path / "a.parquet"
    rng = np.random.default_rng(0)
    texts = [rng.bytes(30).hex() for _ in range(3000)]
    table = pa.table({"tweet": texts, "sentiment": ["neutral"] * 3000})
    pq.write_table(table, path, row_group_size=1000, write_page_checksum=True, use_dictionary=False, compression="none")
    content = bytearray(path.read_bytes())
    position = content.index(texts[1500].encode()[:8])
    content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"a.parquet: damaged after row [1-9][\d,]* \(.*Write the file again"):
        read(path, batch_rows=100)


def test_a_broken_parquet_file_is_a_corpus_error(tmp_path):
    for content in (b"", b"not parquet at all"):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(CorpusError, match="not a Parquet file"):
            read(tmp_path / "a.parquet")


def test_a_saved_dataset(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved")[0] == expected()


def test_a_saved_dataset_with_splits(tmp_path):
    parts = {name: datasets.Dataset.from_list(ROWS[:4]) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    sizes = [len(batch.rows) for batch in read_batches(str(tmp_path / "saved"), CorpusFormat(NAMED))]
    assert sizes == [4, 4]


def test_a_folder_of_files_of_any_format(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    write_csv(folder / "a.csv", PLAIN)
    (folder / "b.ndjson").write_bytes(as_jsonl(ROWS))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(as_jsonl(ROWS)))
    pd.DataFrame(ROWS).to_parquet(folder / "deeper" / "d.parquet")
    (folder / "README.md").write_text("no data")
    assert sum(len(batch.rows) for batch in read_batches(str(folder), CorpusFormat(NAMED))) == 28


def test_hidden_files_are_not_read_and_it_is_said(tmp_path):
    folder = tmp_path / ".downloads" / "folder"  # what lies above does not matter
    hidden = [".ipynb_checkpoints/a-checkpoint.csv", "._a.csv", "__MACOSX/a.csv", "_temporary/0/part.csv", "b/.c/a.csv"]
    for name in ["a.csv", "_b.csv", *hidden]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_csv(folder / name, PLAIN)
    with capture_logs() as logs:
        files = [batch.file for batch in read_batches(str(folder), CorpusFormat(NAMED))]
    assert files == [f"{folder}/_b.csv", f"{folder}/a.csv"]
    assert [(entry["log_level"], entry["count"], entry["files"]) for entry in logs] == [("warning", 5, sorted(hidden))]


def test_a_folder_without_data_is_a_corpus_error(tmp_path):
    (tmp_path / "README.md").write_text("no data")
    with pytest.raises(CorpusError, match="a folder without"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz"])
def test_an_unknown_format_is_a_corpus_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"1")
    with pytest.raises(CorpusError, match="unknown format"):
        read(tmp_path / name)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "saved"])
def test_a_missing_column_is_reported_with_those_there_are(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    frame = pd.DataFrame([{"body": "a", "sentiment": "neutral"}])
    match kind:
        case "csv":
            frame.to_csv(path, index=False)
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case "parquet":
            frame.to_parquet(path)
        case "saved":
            datasets.Dataset.from_pandas(frame).save_to_disk(path)
    with pytest.raises(CorpusError, match=r"no column \['tweet'\].*'body', 'sentiment'"):
        read(path)


def test_an_empty_jsonl_file_has_no_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"")
    assert read(tmp_path / "a.jsonl") == ({}, {})


def test_all_columns_are_named_as_ours(tmp_path):
    path = write_csv(tmp_path / "a.csv", b"t,l,key,at,from,extra\na,neutral,1,2026-01-05,airline,x\n")
    columns = Columns(text="t", label="l", id="key", observed_at="at", topic="from")
    (batch,) = read_batches(str(path), CorpusFormat(columns))
    assert batch.rows.to_dict("records") == [
        {"text": "a", "label": "neutral", "id": "1", "observed_at": "2026-01-05", "topic": "airline"}
    ]


def test_a_missing_file_is_a_source_error(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        read(tmp_path / "none.csv")

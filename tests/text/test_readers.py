import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from evergreen.params import Columns
from evergreen.sources import SourceError
from evergreen.text.readers import CorpusError, read_batches

NAMED = Columns(text="tweet", label="sentiment")
ROWS = [{"tweet": f"text {n}", "sentiment": "neutral", "other": n} for n in range(7)]


def read(path: Path, columns: Columns = NAMED, encoding: str = "utf-8", batch_rows: int = 3):
    """All rows of a corpus as {row number: (text, label)}, and what could not be read as {row number: reason}."""
    rows, unreadable = {}, {}
    for batch in read_batches(str(path), columns, encoding, batch_rows):
        assert len(batch.rows) <= batch_rows
        values = batch.rows[["text", "label"]].astype(object).itertuples(index=False, name=None)
        rows |= dict(zip(batch.rows.index.tolist(), values, strict=True))
        unreadable |= dict(batch.unreadable)
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
    assert unreadable == {1: "not valid in data.encoding"}


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_csv_rows_with_a_wrong_number_of_fields_are_reported_with_their_number(tmp_path, batch_rows):
    content = b"tweet,sentiment\na,neutral\nb,neutral,more\nc,neutral\nd\n\xff,neutral\ne,neutral\n"
    rows, unreadable = read(write_csv(tmp_path / "a.csv", content), batch_rows=batch_rows)
    assert rows == {0: ("a", "neutral"), 2: ("c", "neutral"), 5: ("e", "neutral")}
    assert unreadable == {
        1: "3 fields, 2 expected",
        3: "1 fields, 2 expected",
        4: "not valid in data.encoding",
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
        (b"tweet,sentiment\nsm\x81ll,neutral\n", "cp1252", "data.encoding"),
    ],
)
def test_a_csv_file_that_can_not_be_read_is_a_corpus_error(tmp_path, content, encoding, message):
    with pytest.raises(CorpusError, match=message) as error:
        read(write_csv(tmp_path / "a.csv", content), encoding=encoding)
    assert "a.csv" in str(error.value)


def test_a_quote_that_is_never_closed_is_reported(tmp_path):
    path = write_csv(tmp_path / "a.csv", b'tweet,sentiment\na,neutral\n"b,neutral\n' + b"c,neutral\n" * 500_000)
    rows, unreadable = read(path)
    assert rows == {0: ("a", "neutral")}
    assert unreadable == {1: "1 fields, 2 expected"}


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
    assert set(unreadable) == {1, 3, 4, 5, 6}
    assert all(reason.startswith("not valid JSON") for reason in unreadable.values())
    assert "not an object" in unreadable[3]


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
    sizes = [len(batch.rows) for batch in read_batches(str(tmp_path / "saved"), NAMED, "utf-8", 100)]
    assert sizes == [4, 4]


def test_a_folder_of_files_of_any_format(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    write_csv(folder / "a.csv", PLAIN)
    (folder / "b.ndjson").write_bytes(as_jsonl(ROWS))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(as_jsonl(ROWS)))
    pd.DataFrame(ROWS).to_parquet(folder / "deeper" / "d.parquet")
    (folder / "README.md").write_text("no data")
    assert sum(len(batch.rows) for batch in read_batches(str(folder), NAMED, "utf-8", 100)) == 28


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
    (batch,) = read_batches(str(path), columns, "utf-8", 10)
    assert batch.rows.to_dict("records") == [
        {"text": "a", "label": "neutral", "id": "1", "observed_at": "2026-01-05", "topic": "airline"}
    ]


def test_a_missing_file_is_a_source_error(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        read(tmp_path / "none.csv")

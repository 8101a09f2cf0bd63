import csv
import io
import json
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.serving import batch_records, batch_tables
from evergreen.serving.batch_files import (
    Source,
    get_format,
    join_parts,
    parse_chunk,
    plan_layout,
    read_chunks,
    serialize_rows,
)
from evergreen.serving.batch_rows import PREFIX
from evergreen.sources import SourceError
from evergreen.text.inputs import FormatError
from evergreen.text.runtime import Prediction

LABELS = ("no", "yes")


def convert(source, target, chunk_rows=2):
    """What a batch does to the rows of a file, with an answer that needs no model: (reports, row numbers)."""
    opened = Source.open(str(source))
    layout = plan_layout(opened, get_format(str(target)), LABELS)
    parts, rejects, numbers = [], [], []
    for chunk in read_chunks(opened, chunk_rows):
        rows = parse_chunk(chunk, layout)
        answers = [Prediction("yes", {"no": 0.25, "yes": 0.75}) for _ in rows.texts]
        parts.append(serialize_rows(rows, answers, layout))
        rejects += map(json.loads, rows.rejects)
        numbers += rows.numbers
    join_parts(parts, target, layout)
    return rejects, numbers


def read(path):
    """Rows of a file, as independent readers see them."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return pq.read_table(path).to_pylist()


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


ADDED = {"row", "label", "probability_no", "probability_yes"}


@pytest.mark.parametrize("target", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("source", ["jsonl", "csv", "parquet"])
def test_all_pairs_of_formats(source, target, tmp_path):
    rows = [{"id": f"r{i}", "text": f'"é", {i}\u2028\nx', "more": "z,\r"} for i in range(5)]
    out = tmp_path / f"out.{target}"
    rejects, numbers = convert(write(tmp_path / f"in.{source}", rows), out)
    assert rejects == []
    assert numbers == [0, 1, 2, 3, 4]
    result = read(out)
    assert list(result[0]) == ["id", "text", "more", "row", "label", "probability_no", "probability_yes"]
    for i, (row, made) in enumerate(zip(rows, result, strict=True)):
        assert {name: made[name] for name in row} == row
        assert (int(made["row"]), made["label"]) == (i, "yes")
        assert (float(made["probability_no"]), float(made["probability_yes"])) == (0.25, 0.75)


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=6), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_csv_rows_pass_through(tmp_path_factory, cells, line_end, bom, quote):
    folder = tmp_path_factory.mktemp("csv")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=line_end, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_NONNUMERIC)
    writer.writerows([("text", "note"), *((f"a{text}", note) for text, note in cells)])
    source, target = folder / "in.csv", folder / "out.csv"
    source.write_bytes(buffer.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    rejects, _ = convert(source, target)
    assert rejects == []
    assert [(row["text"], row["note"]) for row in read(target)] == [(f"a{text}", note) for text, note in cells]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | CELLS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(CELLS, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(CELLS, JSON, max_size=3), max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_jsonl_rows_pass_through(tmp_path_factory, rows, line_end, escape):
    folder = tmp_path_factory.mktemp("jsonl")
    rows = [row | {"text": "a"} for row in rows]
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    lines = [json.dumps(row, ensure_ascii=escape) + line_end for row in rows]
    source.write_bytes("\ufeff".encode() + "".join(lines).encode())
    rejects, _ = convert(source, target)
    assert rejects == []
    made = read(target)
    assert [{name: row[name] for name in row if name not in ADDED} for row in made] == [
        {f"input_{name}" if name in ADDED else name: value for name, value in row.items()} for row in rows
    ]
    for suffix in ("csv", "parquet"):
        rejects, numbers = convert(source, folder / f"out.{suffix}")
        assert (rejects, numbers) == ([], list(range(len(rows))))


def test_jsonl_columns_become_typed(tmp_path):
    rows = [
        {"text": "a", "n": 1, "x": 1, "b": True, "m": 1, "nested": {"a": [1]}},
        {"text": "b", "late": "s", "n": 2**60, "x": 0.5, "m": "s", "none": None},
    ]
    convert(write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    kinds = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert kinds["n"] == "int64"
    assert kinds["x"] == kinds["probability_no"] == "double"
    assert kinds["b"] == "bool"
    assert kinds["m"] == kinds["nested"] == kinds["late"] == kinds["none"] == "string"
    assert table["m"].to_pylist() == ["1", '"s"']
    assert table["nested"].to_pylist() == ['{"a": [1]}', None]
    convert(tmp_path / "in.jsonl", tmp_path / "out.csv")
    assert read(tmp_path / "out.csv")[0]["nested"] == '{"a": [1]}'


def test_parquet_keeps_its_types_and_becomes_json(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["a", "b"]).dictionary_encode(),
            "day": [date(2026, 1, 2), None],
            "price": [Decimal("1.50"), None],
            "list": [[1, 2], []],
            "raw": [b"\xff", None],
            "nan": [float("nan"), 1.5],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    convert(tmp_path / "in.parquet", tmp_path / "out.parquet", chunk_rows=1)
    made = pq.read_table(tmp_path / "out.parquet")
    assert [made.schema.field(name).type for name in table.column_names] == table.schema.types
    assert made["list"].to_pylist() == [[1, 2], []]
    convert(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    first = read(tmp_path / "out.jsonl")[0]
    assert {name: first[name] for name in ("day", "price", "list", "raw", "nan")} == {
        "day": "2026-01-02",
        "price": "1.50",
        "list": [1, 2],
        "raw": "/w==",
        "nan": None,
    }


def test_names_that_are_taken_are_prefixed(tmp_path):
    rows = [{"text": "a", "label": "gold", "input_label": "older", "row": "7"}]
    for source in ("jsonl", "csv", "parquet"):
        for target in ("jsonl", "csv", "parquet"):
            out = tmp_path / f"{source}.{target}"
            convert(write(tmp_path / f"in.{source}", rows), out)
            (row,) = read(out)
            assert list(row)[:4] == ["text", "input_input_label", "input_label", "input_row"]
            assert (row["input_input_label"], row["input_label"], row["label"]) == ("gold", "older", "yes")


def test_rejected_lines_of_jsonl(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_records, "LONGEST_FIELD", 1000)
    lines = [
        b'{"text": "fine"}',
        b"",
        b"{nope",
        b'{"text": 5}',
        b'{"other": 1}',
        b"[1]",
        b'{"text": "\xff"}',
        b'{"text": "' + b"x" * 3000 + b'"}',
        b'{"text": " "}',
        b'{"text": "a", "n": NaN}',
        b'{"text": "a", "n": 1e999}',
        b'{"text": "\\ud800"}',
        b"[" * 900,
        b'{"text": "last"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    rejects, numbers = convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", 3)
    assert numbers == [0, 12]
    assert [(reject["row"], reject["line"]) for reject in rejects] == [(i, i + 2) for i in range(1, 12)]
    assert [reject["reason"] for reject in rejects] == [
        "not JSON",
        "text is not a string",
        "no text",
        "not a JSON object",
        "not UTF-8",
        "longer than 1000 bytes",
        "empty text",
        "not JSON",
        "not JSON",
        "half of a surrogate pair",
        "not JSON",
    ]
    assert all(len(reject["prefix"]) <= PREFIX for reject in rejects)


def test_rejected_rows_of_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_records, "LONGEST_FIELD", 1000)
    lines = [
        b"id,text",
        b"0,fine",
        b"1",
        b"2,a,b",
        b"3,\xff",
        b'4,"open',
        b"5,after the open quote",
        b'6,"quoted" badly',
        b"7," + b"x" * 3000,
        b"",
        b'8,"two\nlines"',
        b"9,",
        b'10,"open at the end',
        b"11,last",
    ]
    (tmp_path / "in.csv").write_bytes(b"\r\n".join(lines))
    rejects, numbers = convert(tmp_path / "in.csv", tmp_path / "out.csv")
    assert [row["text"] for row in read(tmp_path / "out.csv")] == [
        "fine",
        "after the open quote",
        "two\nlines",
        "last",
    ]
    assert numbers == [0, 5, 8, 11]
    assert [(reject["row"], reject["line"]) for reject in rejects] == [
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
        (6, 8),
        (7, 9),
        (9, 13),
        (10, 14),
    ]
    assert rejects[0]["reason"] == "1 fields, 2 expected"
    assert rejects[2]["reason"] == "not UTF-8"
    assert "not CSV" in rejects[3]["reason"]
    assert "longer than 1,000" in rejects[5]["reason"]


def test_a_stray_quote_takes_no_other_row_with_it(tmp_path):
    lines = [f"{n},text {n}" for n in range(20)]
    lines[5], lines[12] = '5,"text 5', '12,text 12"'
    (tmp_path / "in.csv").write_text("\n".join(["id,text", *lines, ""]))
    rejects, numbers = convert(tmp_path / "in.csv", tmp_path / "out.csv")
    assert numbers == [n for n in range(20) if n != 5]
    assert [(reject["row"], reject["line"], reject["prefix"]) for reject in rejects] == [(5, 7, '5,"text 5')]
    assert rejects[0]["reason"] == "not CSV: a quote that is not closed (8 lines in one row)"


def test_rejected_rows_of_parquet(tmp_path):
    raw = pa.array([b"a", None, b"\xff", b" ", b"b"]).cast(pa.binary())
    texts = pa.StringArray.from_buffers(5, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    for target in ("jsonl", "csv", "parquet"):
        rejects, numbers = convert(tmp_path / "in.parquet", tmp_path / f"out.{target}")
        assert numbers == [0, 4]
        assert [(r["row"], r["reason"]) for r in rejects] == [(1, "no text"), (2, "not UTF-8"), (3, "empty text")]
        assert [row["text"] for row in read(tmp_path / f"out.{target}")] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.txt", b"x", "not a format of rows"),
        ("a.csv", b"", "no line of column names"),
        ("a.csv", b"id,body\n1,a\n", "Name the column of the texts text"),
        ("a.csv", b"text,a,a\nb,1,2\n", "several columns named"),
        ("a.csv", b"text,\xff\nb,1\n", "not UTF-8"),
        ("a.csv", b"id;text\n1;a\n", "Separate the fields by commas, not by ';'"),
        ("a.csv", "id,text\n1,a\n".encode("utf-16"), "UTF-16. Save the file as UTF-8"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "UTF-16. Save the file as UTF-8"),
        ("a.csv", b"PK\x03\x04", "a spreadsheet"),
        ("a.parquet", b"PAR1 broken", "not a Parquet file"),
    ],
)
def test_unusable_files(name, content, remedy, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=remedy):
        Source.open(str(tmp_path / name))


def test_unusable_parquet_columns(tmp_path):
    pq.write_table(pa.table({"text": [1]}), tmp_path / "number.parquet")
    with pytest.raises(SourceError, match="holds int64"):
        Source.open(str(tmp_path / "number.parquet"))
    with pytest.raises(SourceError, match="no such file"):
        Source.open(str(tmp_path / "none.parquet"))
    with pytest.raises(FormatError):
        Source.open(str(tmp_path))


def test_keys_that_are_data_are_refused_as_columns(tmp_path):
    rows = [{"text": "a", f"key{i}": 1} for i in range(1200)]
    source = write(tmp_path / "in.jsonl", rows)
    with pytest.raises(SourceError, match="different keys"):
        convert(source, tmp_path / "out.csv")
    assert convert(source, tmp_path / "out.jsonl", 500)[0] == []


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_no_rows(suffix, tmp_path):
    source = tmp_path / f"in.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), source)
    else:
        source.write_text("" if suffix == "jsonl" else "text\n")
    for target in ("jsonl", "csv", "parquet"):
        convert(source, tmp_path / f"out.{target}")
        assert read(tmp_path / f"out.{target}") == []
    assert "text" in pq.read_schema(tmp_path / "out.parquet").names


def test_long_rows_end_a_chunk_early(tmp_path, monkeypatch):
    for module in (batch_records, batch_tables):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1000)
    rows = [{"text": "x" * 300} for _ in range(10)]
    for suffix in ("jsonl", "csv", "parquet"):
        chunks = list(read_chunks(Source.open(str(write(tmp_path / f"in.{suffix}", rows))), 100))
        assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
        assert sum(chunk.rows for chunk in chunks) == 10
        assert len(chunks) >= 3
        assert chunks[1].first_row == chunks[0].rows

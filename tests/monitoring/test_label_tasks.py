"""Files for people who label, and what comes back in them, right or wrong."""

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from logged import make_row

from evergreen.monitoring.label_selection import Selection
from evergreen.monitoring.label_tasks import LabelError, LabelRow, RejectedRow, check_rows, read_labels, write_tasks
from evergreen.monitoring.log import PredictionLog

LABELS = ["negative", "positive"]
TEXTS = [
    "late again",
    '=HYPERLINK("http://x")',
    'two\nlines, a "quote"; and a semicolon',
    "@united thanks",
    "ünïcode 🛫",
]


@pytest.fixture
def selections() -> list[Selection]:
    strategies = ["random", "combined"]
    return [Selection(make_row(id=f"p{i}", text=text), strategies[i % 2]) for i, text in enumerate(TEXTS)]  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path, selections: list[Selection]) -> PredictionLog:
    log = PredictionLog.open(f"sqlite:///{tmp_path}/log.db")
    log.insert([selection.prediction for selection in selections])
    log.insert([make_row(id="film", kind="video", text=None)])
    return log


def fill_in(path: Path, labels: list[str], delimiter: str = ",", encoding: str = "utf-8-sig") -> None:
    """As a spreadsheet saves it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(row | {"label": label} for row, label in zip(rows, labels, strict=True))


def list_labels(rows: list[LabelRow | RejectedRow]) -> list[tuple[str, str, str]]:
    return [(row.prediction_id, row.label, row.strategy) for row in rows if isinstance(row, LabelRow)]


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-8-sig")])
def test_csv_comes_back_as_a_spreadsheet_saves_it(
    tmp_path: Path, selections: list[Selection], log: PredictionLog, delimiter: str, encoding: str
) -> None:
    path = tmp_path / "labels.csv"
    assert write_tasks(selections, LABELS, path) == [path]
    fill_in(path, ["negative", " Positive ", "", "negative", "POSITIVE"], delimiter, encoding)
    valid, rejected = check_rows(read_labels(path), LABELS, log)
    assert rejected == []
    assert list_labels(list(valid)) == [
        ("p0", "negative", "random"),
        ("p1", "positive", "combined"),
        ("p3", "negative", "combined"),
        ("p4", "positive", "random"),
    ]


def test_no_text_is_a_formula_in_a_spreadsheet(tmp_path: Path, selections: list[Selection]) -> None:
    path = tmp_path / "labels.csv"
    write_tasks(selections, LABELS, path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert texts == [TEXTS[0], f"'{TEXTS[1]}", TEXTS[2], f"'{TEXTS[3]}", TEXTS[4]]


def test_rows_that_cannot_be_taken_are_named_and_the_others_are_taken(tmp_path: Path, log: PredictionLog) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(
        "prediction_id,text,label\n"
        "p0,late,negative\n"
        "p1,late,angry\n"
        "nobody,late,negative\n"
        "film,,negative\n"
        "p2,late,negative,and,more\n"
        "p3,late,negative\n"
        "p3,late,positive\n"
    )
    valid, rejected = check_rows(read_labels(path), LABELS, log)
    assert [row.prediction_id for row in valid] == ["p0"]
    assert {(row.position, row.reason.split(".")[0]) for row in rejected} == {
        ("line 3", "label: 'angry'"),
        ("line 4", "prediction_id: 'nobody'"),
        ("line 5", "prediction_id: 'film'"),
        ("line 6", "more fields than columns"),
        ("line 7", "prediction_id: twice, with different labels"),
        ("line 8", "prediction_id: twice, with different labels"),
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.csv", b"text,label\nlate,negative\n", "no columns prediction_id and label"),
        ("labels.csv", b"", "no columns prediction_id and label"),
        ("labels.csv", "prediction_id,label\np0,négatif\n".encode("latin-1"), "not UTF-8"),
        ("labels.csv", b'prediction_id,label\np0,"negative\n', "after line 1: not CSV"),
        ("labels.json", b"{", "not JSON"),
        ("labels.json", b'{"id": 1}', "not a list of tasks"),
        ("labels.xlsx", b"PK", "not a format that is read"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LabelError, match=message):
        read_labels(path)


def test_missing_file_and_unknown_suffix_are_named(tmp_path: Path, selections: list[Selection]) -> None:
    with pytest.raises(LabelError, match=r"labels\.csv: No such file"):
        read_labels(tmp_path / "labels.csv")
    with pytest.raises(LabelError, match=r"Name it \.csv, or \.json"):
        write_tasks(selections, LABELS, tmp_path / "labels.xlsx")


def test_tasks_for_label_studio_show_the_champions_answers(tmp_path: Path, selections: list[Selection]) -> None:
    path = tmp_path / "tasks.json"
    _, interface = write_tasks(selections, LABELS, path)
    tasks = json.loads(path.read_text())
    view = ElementTree.fromstring(interface.read_text())  # noqa: S314 - our own
    text, choices = view.find("Text"), view.find("Choices")
    assert text is not None
    assert choices is not None
    assert [choice.get("value") for choice in choices] == LABELS
    for task, selection in zip(tasks, selections, strict=True):
        assert task["data"][text.get("value", "").removeprefix("$")] == selection.prediction.text
        (result,) = task["predictions"][0]["result"]
        assert (result["from_name"], result["to_name"]) == (choices.get("name"), choices.get("toName"))
        assert result["value"]["choices"] == [selection.prediction.label]


def annotate(*labels: str, cancelled: bool = False) -> dict[str, Any]:
    results = [
        {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [label]}} for label in labels
    ]
    return {"result": results, "was_cancelled": cancelled, "completed_by": 1}


def test_export_of_label_studio_is_read(tmp_path: Path, log: PredictionLog) -> None:
    path = tmp_path / "export.json"
    annotations: list[list[dict[str, Any]]] = [
        [annotate("negative")],
        [annotate("negative"), annotate("negative")],
        [annotate("positive"), annotate("negative", cancelled=True)],
        [annotate("positive"), annotate("negative")],
        [],
    ]
    tasks = [
        {
            "id": 10 + i,
            "data": {"prediction_id": f"p{i}", "text": "late", "strategy": "random"},
            "annotations": annotation,
        }
        for i, annotation in enumerate(annotations)
    ]
    path.write_text(json.dumps([*tasks, {"id": 20, "data": {"text": "another project's"}, "annotations": []}]))
    valid, rejected = check_rows(read_labels(path), LABELS, log)
    assert [(row.prediction_id, row.label) for row in valid] == [
        ("p0", "negative"),
        ("p1", "negative"),
        ("p2", "positive"),
    ]
    assert [row.position for row in rejected] == ["task 13", "task 20"]
    assert "annotators disagree (negative, positive)" in rejected[0].reason


def test_short_export_of_label_studio_is_read(tmp_path: Path, log: PredictionLog) -> None:
    path = tmp_path / "export.json"
    path.write_text(
        json.dumps(
            [
                {
                    "id": 3,
                    "prediction_id": "p0",
                    "text": "late",
                    "strategy": "combined",
                    "label": "negative",
                    "annotator": 1,
                }
            ]
        )
    )
    valid, rejected = check_rows(read_labels(path), LABELS, log)
    assert rejected == []
    assert list_labels(list(valid)) == [("p0", "negative", "combined")]


def test_csv_export_of_label_studio_is_read(tmp_path: Path, log: PredictionLog) -> None:
    """Whose `id` is the task's."""
    path = tmp_path / "export.csv"
    path.write_text(
        '"annotation_id","id","label","prediction_id","strategy","text"\r\n19,21,"negative","p0","combined","late"\r\n'
    )
    valid, rejected = check_rows(read_labels(path), LABELS, log)
    assert rejected == []
    assert list_labels(list(valid)) == [("p0", "negative", "combined")]

"""Files that people label in: a CSV for a spreadsheet, or tasks of Label Studio; and the labels that come back in them.

Label Studio's formats: https://labelstud.io/guide/task_format and https://labelstud.io/guide/export.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from evergreen import files
from evergreen.errors import EvergreenError
from evergreen.monitoring.label_selection import Selection
from evergreen.monitoring.log import PredictionLog

COLUMNS = ("prediction_id", "text", "label", "predicted", "confidence", "strategy")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula in a spreadsheet: an apostrophe before it keeps it a text."""
_SEPARATORS = (",", ";", "\t")
_MAX_HOTKEYS = 9


class LabelError(EvergreenError):
    """A file of labels can't be written or read; the message names the file and the remedy."""


@dataclass(frozen=True)
class LabelRow:
    """A row of a file that came back.

    Attributes:
        position: where it is in the file, for people.
        prediction_id: of the log.
        label: as somebody wrote it; empty: not labeled.
        strategy: that selected the prediction; empty where the file does not say.
    """

    position: str
    prediction_id: str
    label: str
    strategy: str


@dataclass(frozen=True)
class RejectedRow:
    """A row whose label is not taken, and why."""

    position: str
    reason: str


def write_tasks(selections: list[Selection], labels: list[str], path: Path) -> list[Path]:
    """Write predictions to label; `.csv`, or `.json` for Label Studio with its labeling interface in `.xml` beside it.

    Returns:
        The files.

    Raises:
        LabelError: for another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in {".csv", ".json"}:
        raise LabelError(f"{path}: unknown format {suffix or '(no suffix)'}. Name it .csv, or .json for Label Studio.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".csv":
        files.write_whole(path, _make_csv(selections).encode("utf-8-sig"))  # the mark: Excel takes it for UTF-8
        return [path]
    interface = path.with_suffix(".xml")
    files.write_whole(interface, _make_interface(labels))
    tasks = [_make_task(selection) for selection in selections]
    files.write_whole(path, json.dumps(tasks, ensure_ascii=False, indent=1).encode())
    return [path, interface]


def _make_csv(selections: Iterable[Selection]) -> str:
    sheet = io.StringIO(newline="")
    writer = csv.writer(sheet)
    writer.writerow(COLUMNS)
    for selection in selections:
        prediction = selection.prediction
        text = prediction.text or ""
        shown = f"'{text}" if text.startswith(_FORMULA) else text
        confidence = f"{prediction.probabilities[prediction.label]:.3f}"
        writer.writerow([prediction.id, shown, "", prediction.label, confidence, selection.strategy])
    return sheet.getvalue()


def _make_task(selection: Selection) -> dict[str, Any]:
    """A task whose pre-annotation is the champion's answer."""
    prediction = selection.prediction
    answer = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [prediction.label]}}
    return {
        "data": {"prediction_id": prediction.id, "text": prediction.text, "strategy": selection.strategy},
        "predictions": [
            {
                "model_version": prediction.model,
                "score": prediction.probabilities[prediction.label],
                "result": [answer],
            }
        ],
    }


def _make_interface(labels: list[str]) -> bytes:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", name="text", value="$text")
    choices = ElementTree.SubElement(
        view, "Choices", name="label", toName="text", choice="single", showInline="true", required="true"
    )
    for number, label in enumerate(labels, 1):
        choice = ElementTree.SubElement(choices, "Choice", value=label)
        if number <= _MAX_HOTKEYS:
            choice.set("hotkey", str(number))
    return bytes(ElementTree.tostring(view, encoding="utf-8"))


def read_labels(path: Path) -> list[LabelRow | RejectedRow]:
    """Read what came back: a CSV with prediction_id and label, or Label Studio's export as JSON, JSON-MIN or CSV.

    Raises:
        LabelError: when it is neither, naming what is missing.
    """
    readers: dict[str, Callable[[str, Path], Iterator[LabelRow | RejectedRow]]] = {
        ".csv": _read_csv,
        ".json": _read_label_studio,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise LabelError(f"{path}: not a format that is read. Name a .csv file, or Label Studio's export in .json.")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not UTF-8. Save it as CSV UTF-8.") from error
    except OSError as error:
        raise LabelError(f"{path}: {error.strerror}. Correct the path or the permissions.") from error
    return list(reader(content, path))


def _read_csv(content: str, path: Path) -> Iterator[LabelRow | RejectedRow]:
    header = content.split("\n", 1)[0]
    separator = next((sign for sign in _SEPARATORS if {"prediction_id", "label"} <= set(_split(header, sign))), None)
    if separator is None:
        raise LabelError(
            f"{path}: no columns prediction_id and label in its first line. Keep the header of the file you filled in."
        )
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            position = f"line {reader.line_num}"
            if None in row:
                yield RejectedRow(position, "more fields than columns. Quote a text that has separators")
                continue
            yield LabelRow(
                position, *((row.get(name) or "").strip() for name in ("prediction_id", "label", "strategy"))
            )
    except csv.Error as error:
        raise LabelError(
            f"{path}, after line {reader.line_num}: not CSV ({error}). Correct the quotes there."
        ) from error


def _split(header: str, separator: str) -> list[str]:
    return [name.strip().strip('"') for name in header.split(separator)]


def _read_label_studio(content: str, path: Path) -> Iterator[LabelRow | RejectedRow]:
    try:
        tasks = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{path}: not JSON ({error}). Export it from Label Studio as JSON.") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise LabelError(f"{path}: not a list of tasks. Export it from Label Studio as JSON or JSON-MIN.")
    for number, task in enumerate(tasks, 1):
        position = f"task {task.get('id', number)}"
        data = task["data"] if isinstance(task.get("data"), dict) else task
        if not isinstance(data.get("prediction_id"), str):
            yield RejectedRow(position, "no prediction_id in its data. Import the tasks that label select wrote")
            continue
        try:
            choices = set(_list_choices(task))
        except (KeyError, TypeError, AttributeError):
            yield RejectedRow(position, "annotations of another form. Label with the interface that label select wrote")
            continue
        if len(choices) > 1:
            yield RejectedRow(position, f"annotators disagree ({', '.join(sorted(choices))}). Settle on one")
            continue
        yield LabelRow(position, data["prediction_id"], next(iter(choices), ""), str(data.get("strategy", "")))


def _list_choices(task: dict[str, Any]) -> Iterator[str]:
    """The labels that annotators chose; of JSON-MIN the one that it names."""
    if "annotations" not in task:
        label = task.get("label", "")
        yield from [label] if isinstance(label, str) else label["choices"]
        return
    for annotation in task["annotations"]:
        if not annotation.get("was_cancelled"):
            for result in annotation["result"]:
                if result["from_name"] == "label":
                    yield from result["value"]["choices"]


def check_rows(
    rows: Iterable[LabelRow | RejectedRow], labels: list[str], log: PredictionLog
) -> tuple[list[LabelRow], list[RejectedRow]]:
    """Divide rows into those with a label of the model for a prediction that was logged, and those that are rejected.

    Rows without a label are left out of both. Labels are matched without regard to capitals.

    Raises:
        LogUnavailable: when the log can't be read.
    """
    names = {label.casefold(): label for label in labels} | {label: label for label in labels}
    valid: list[LabelRow] = []
    rejected: list[RejectedRow] = []
    for row in rows:
        if isinstance(row, RejectedRow):
            rejected.append(row)
            continue
        if not row.label:
            continue
        label = names.get(row.label) or names.get(row.label.casefold())
        if label is None:
            rejected.append(RejectedRow(row.position, f"label: {row.label!r}. One of {', '.join(labels)}"))
        elif not _has_text(log, row.prediction_id):
            rejected.append(
                RejectedRow(
                    row.position, f"prediction_id: {row.prediction_id!r}. No prediction of a text in the log has it"
                )
            )
        else:
            valid.append(LabelRow(row.position, row.prediction_id, label, row.strategy))
    given: dict[str, set[str]] = {}
    for row in valid:
        given.setdefault(row.prediction_id, set()).add(row.label)
    disputed = {prediction_id for prediction_id, names in given.items() if len(names) > 1}
    rejected += [
        RejectedRow(row.position, "prediction_id: twice, with different labels. Keep one")
        for row in valid
        if row.prediction_id in disputed
    ]
    return [row for row in valid if row.prediction_id not in disputed], rejected


def _has_text(log: PredictionLog, prediction_id: str) -> bool:
    prediction = log.find(prediction_id=prediction_id)
    return prediction is not None and prediction.kind == "text"


def count_strategies(rows: Iterable[LabelRow]) -> dict[str, int]:
    """Labels by the strategy that selected their predictions."""
    return dict(Counter(row.strategy or "no strategy" for row in rows).most_common())

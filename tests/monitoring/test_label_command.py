"""From the log to a file that people label in, and back into the log."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monitored import NEW, OLD, SHIPPED, UNTIL, make_rows, write_test_set
from tiny_text_bundle import write_bundle
from typer.testing import CliRunner

from evergreen import cli
from evergreen.monitoring.log import RANDOM_SOURCE, SELECTED_SOURCE, PredictionLog
from evergreen.text.runtime import Classifier

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def log(tmp_path: Path, clean_environment: None) -> Iterator[PredictionLog]:
    """Of a week in which the texts changed, beside the champion that answered them, in the current folder."""
    shutil.copy(SHIPPED, "params.yaml")
    classifier = Classifier.load(write_bundle(tmp_path / "models/text"))
    write_test_set(tmp_path / "data/text/test.parquet", classifier)
    Path(".evergreen").mkdir()
    log = PredictionLog.open(f"sqlite:///{Path('.evergreen/predictions.db').resolve()}")
    log.insert([row.prediction for row in make_rows(classifier, [*OLD, *NEW])])
    yield log
    log.close()


def label(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["label", *arguments])


def fill_in(path: Path, answers: list[str]) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"label": answer} for row, answer in zip(rows, answers, strict=True))


def test_labels_make_the_way_to_people_and_back(log: PredictionLog) -> None:
    selected = label("select", "--budget", "40", "--now", UNTIL.isoformat())
    assert selected.exit_code == 0, selected.output
    assert "40 of" in selected.stdout
    assert "20 of them at random" in selected.stdout
    assert "evergreen label import labels.csv" in selected.stdout
    fill_in(Path("labels.csv"), ["negative"] * 30 + ["", "angry"] + ["positive"] * 8)
    imported = label("import", "labels.csv")
    assert imported.exit_code == 1
    assert "38 labels imported" in imported.stdout
    assert "1 rows without a label, 1 rejected" in imported.stdout
    assert "label: 'angry'. One of negative, neutral, positive" in imported.stderr
    sources = [row.feedback.source for row in log.stream() if row.feedback]
    assert sorted(set(sources)) == [RANDOM_SOURCE, SELECTED_SOURCE]
    assert len(sources) == 38
    again = label("select", "--budget", "10000", "--out", "more.csv", "--now", UNTIL.isoformat())
    assert again.exit_code == 0
    first, second = (
        {row["prediction_id"] for row in csv.DictReader(path.open(encoding="utf-8-sig"))}
        for path in map(Path, ["labels.csv", "more.csv"])
    )
    assert len(first & second) == 2  # the two that have no label yet


def test_a_file_that_may_hold_labels_is_not_overwritten(log: PredictionLog) -> None:
    Path("labels.csv").write_text("prediction_id,label\n")
    result = label("select", "--budget", "40", "--now", UNTIL.isoformat())
    assert result.exit_code == 2
    assert Path("labels.csv").read_text() == "prediction_id,label\n"


def test_nothing_to_label_says_why(log: PredictionLog) -> None:
    result = label("select", "--budget", "40", "--now", "2030-01-01")
    assert result.exit_code == 0
    assert "nothing to label: no prediction of text" in result.stdout
    assert not Path("labels.csv").exists()


def test_an_unknown_strategy_is_named(log: PredictionLog) -> None:
    result = label("select", "--budget", "40", "--strategy", "luck")
    assert result.exit_code == 2
    assert "labeling.strategy" in result.stderr

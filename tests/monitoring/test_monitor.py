"""A look from the command line: exit codes, and the files and records that it leaves."""

import json
import shutil
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from monitored import NEW, OLD, SHIPPED, UNTIL, make_rows, make_window, make_windows, write_test_set
from tiny_text_bundle import write_bundle
from typer.testing import CliRunner

from evergreen import cli, cli_monitor
from evergreen.monitoring.alert_text import Links, render_body
from evergreen.monitoring.drift_report import PROJECT
from evergreen.monitoring.explanation import TopicShares
from evergreen.monitoring.history import extend_history, read_history
from evergreen.monitoring.log import PredictionLog
from evergreen.monitoring.monitor import describe_run
from evergreen.monitoring.report import render_page, write_report
from evergreen.monitoring.signals import load_signals
from evergreen.monitoring.staleness import Verdict, judge, measure
from evergreen.params import Params
from evergreen.text.runtime import Classifier

pytestmark = pytest.mark.usefixtures("clean_environment")

HOSTILE = "<script>alert(1)</script> & “quoted” <img src=x onerror=alert(1)>"


@pytest.fixture
def checkout(tmp_path: Path, clean_environment: None) -> Classifier:
    """What a look needs, in the current folder: parameters, champion, test set."""
    shutil.copy(SHIPPED, "params.yaml")
    classifier = Classifier.load(write_bundle(tmp_path / "models/text"))
    write_test_set(tmp_path / "data/text/test.parquet", classifier)
    return classifier


def fill_log(classifier: Classifier, texts: list[str], labels: list[str] | None = None, **fields: Any) -> None:
    Path(".evergreen").mkdir(exist_ok=True)
    log = PredictionLog.open(f"sqlite:///{Path('.evergreen/predictions.db').resolve()}")
    rows = make_rows(classifier, texts, labels, **fields)
    log.write([row.prediction for row in rows], [row.feedback for row in rows if row.feedback])


def look(*arguments: str) -> Any:
    now = (UNTIL + timedelta(hours=5)).isoformat()
    return CliRunner().invoke(cli.app, ["monitor", "--now", now, *arguments])


def read_verdict(folder: str = "reports/monitoring") -> Verdict:
    return Verdict.load(Path(folder) / "verdict.json")


def test_same_texts_are_fresh(checkout: Classifier) -> None:
    fill_log(checkout, OLD[::-1])
    result = look()
    assert result.exit_code == 0, result.output
    assert "Fresh: no signal gives an alarm." in result.output
    verdict = read_verdict()
    assert (verdict.status, verdict.action, verdict.reasons) == ("fresh", "none", [])
    assert verdict.until == UNTIL
    assert {reason.signal for reason in verdict.signals} == load_signals(Params.load().monitor.signals).keys()
    names = {"verdict.json", "report.html", "drift.html", "drift.json", "history.jsonl", "history.png"}
    assert {file.name for file in Path("reports/monitoring").iterdir()} == names


def test_other_texts_are_stale(checkout: Classifier) -> None:
    fill_log(checkout, NEW)
    result = look("--json")
    assert result.exit_code == 3, result.output
    verdict = json.loads(result.stdout)
    assert verdict["status"] == "stale"
    for reason in verdict["reasons"]:
        assert {"signal", "message", "value", "low", "high", "threshold", "n_current", "evidence"} <= reason.keys()
        assert reason["n_current"] == 300


def test_with_an_alert_a_stale_model_is_no_failure(checkout: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_log(checkout, NEW)
    result = look("--alert")
    assert result.exit_code == 0, result.output
    assert read_verdict().status == "stale"
    assert "no channel: set GITHUB_TOKEN" in result.output
    monkeypatch.setenv("EVERGREEN_ALERT_URLS", "json://127.0.0.1:9/")
    result = look("--alert")
    assert result.exit_code == 1, result.output
    assert "Kept for the next run" in result.output
    Path("data/text/test.parquet").unlink()
    assert look("--alert").exit_code == 1


def test_looks_are_repeated_sooner_after_a_failure(checkout: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds / 3600)
        if len(pauses) == 1:
            assert Path("reports/monitoring/verdict.json").is_file()
            Path("models/text/model.onnx").unlink()
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_monitor.time, "sleep", sleep)
    CliRunner().invoke(cli.app, ["monitor", "--alert", "--every", "24"])
    assert pauses == [24, cli_monitor.RETRY_HOURS]


@pytest.mark.parametrize("options", [["--every", "24"], ["--every", "0", "--alert"], ["--alert", "--json"]])
def test_options_that_contradict_are_refused(options: list[str]) -> None:
    assert CliRunner().invoke(cli.app, ["monitor", *options]).exit_code == 2


def test_wrong_answers_alone_are_stale(checkout: Classifier) -> None:
    wrong = {"negative": "neutral", "neutral": "positive", "positive": "negative"}
    fill_log(checkout, OLD, [wrong[prediction.label] for prediction in checkout.predict(OLD)])
    assert look().exit_code == 3
    assert [reason.signal for reason in read_verdict().reasons] == ["measured_performance"]


@pytest.mark.parametrize("texts", [[], OLD[:20]], ids=["nothing", "little"])
def test_too_little_traffic_is_its_own_answer(checkout: Classifier, texts: list[str]) -> None:
    fill_log(checkout, texts)
    result = look()
    assert result.exit_code == 0, result.output
    verdict = read_verdict()
    assert (verdict.status, verdict.can_judge, verdict.action) == ("watch", False, "wait")
    assert "too few to judge" in verdict.reasons[0].message
    assert Path("reports/monitoring/drift.html").is_file() == bool(texts)


def test_a_log_without_texts_is_judged_by_what_it_has(checkout: Classifier) -> None:
    fill_log(checkout, NEW, text=None)
    assert look().exit_code == 3
    verdict = read_verdict()
    assert "embedding_drift" not in {reason.signal for reason in verdict.reasons}
    drift = json.loads(Path("reports/monitoring/drift.json").read_text())
    assert not any("characters" in metric["metric_name"] for metric in drift["metrics"])


def test_a_repeated_look_replaces_what_it_left(checkout: Classifier) -> None:
    fill_log(checkout, OLD)
    for _ in range(2):
        assert look().exit_code == 0
    later = CliRunner().invoke(cli.app, ["monitor", "--now", (UNTIL + timedelta(days=1)).isoformat()])
    assert later.exit_code == 0, later.output
    assert [each.until for each in read_history(Path("reports/monitoring/history.jsonl"))] == [
        UNTIL,
        UNTIL + timedelta(days=1),
    ]
    from evidently.ui.workspace import Workspace

    store = Workspace(".evergreen/evidently")
    [project] = store.search_project(PROJECT)
    assert len(store.list_runs(project.id)) == 2
    import mlflow

    runs = mlflow.MlflowClient(f"sqlite:///{Path('.evergreen/mlflow.db').resolve()}").search_runs(["1"])
    assert {run.info.run_name for run in runs} == {"monitor 2026-05-01", "monitor 2026-05-02"}
    assert {"class_drift.value", "class_drift.p_value", "is_stale"} <= runs[0].data.metrics.keys()
    assert runs[0].data.tags["status"] == "fresh"


@pytest.mark.parametrize(
    ("spoil", "words", "code"),
    [
        (lambda: Path("data/text/test.parquet").unlink(), "test.parquet: missing. Fetch it (dvc pull data/text)", 1),
        (lambda: Path("models/text/model.onnx").unlink(), "model.onnx: missing", 1),
        (lambda: Path("params.yaml").unlink(), "params.yaml: no such file", 2),
        (
            lambda: Path("params.yaml").write_text(SHIPPED.read_text().replace("min_loss: 0.02", "min_los: 0.02")),
            "monitor.signals.estimated_performance.min_los: found 0.02",
            2,
        ),
        (
            lambda: Path("params.yaml").write_text(SHIPPED.read_text().replace("history_days: 28", "history_days: 3")),
            "history_days: 3. At least window_days (7)",
            2,
        ),
        (lambda: Path(".evergreen").write_text(""), "EVERGREEN_STATE_DIR: .evergreen can't be used", 2),
    ],
)
def test_what_is_missing_is_named(checkout: Classifier, spoil: Any, words: str, code: int) -> None:
    spoil()
    result = look()
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "Traceback" not in result.output


def make_verdict(**fields: Any) -> tuple[Verdict, Any]:
    params = Params.load(SHIPPED).monitor
    windows = make_windows(300, **fields)
    signals = {name: signal for name, signal in load_signals(params.signals).items() if name != "data_quality"}
    return judge(measure(windows, signals, params), windows, params, []), windows


def test_user_text_can_not_break_the_page(tmp_path: Path) -> None:
    texts = [f"{HOSTILE} {i}" for i in range(300)]
    verdict, windows = make_verdict(current=make_window(300, 2, shift=2, texts=texts))
    assert any(HOSTILE in line for reason in verdict.reasons for line in reason.evidence)
    write_report(verdict, windows, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    verdict, windows = make_verdict()
    write_report(verdict, windows, tmp_path)
    page = render_page(verdict, tmp_path / "history.png", True)
    assert "http" not in page
    assert 'href="drift.html"' in page
    assert "drift.html" not in render_page(verdict, tmp_path / "history.png", False)


def test_page_of_many_classes_and_topics_is_short(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = [f"a name of sixty characters that differs from the next by {i:04}" for i in range(150)]
    windows = make_windows(
        reference=make_window(600, labels=labels, y_proba=rng.dirichlet(np.ones(150) / 5, 600).astype(np.float32)),
        current=make_window(600, labels=labels, y_proba=rng.dirichlet(rng.random(150), 600).astype(np.float32)),
    )
    params = Params.load(SHIPPED).monitor
    signals = {name: signal for name, signal in load_signals(params.signals).items() if name == "class_drift"}
    topics = [TopicShares(topic=f"topic {i}", reference=0.1, current=0.2) for i in range(1500)]
    verdict = judge(measure(windows, signals, params), windows, params, topics)
    write_report(verdict, windows, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert len(page.splitlines()) <= 200
    assert page.count(" of the reference, ") <= 5
    assert "The 20 that changed most of 1,500; verdict.json has all." in page
    assert len(Verdict.load(tmp_path / "verdict.json").topics) == 1500
    assert (tmp_path / "drift.html").stat().st_size < 8_000_000
    assert len(render_body(verdict, Links())) <= 60_000


def test_cut_history_loses_one_look(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    verdict, _ = make_verdict()
    for days in range(3):
        extend_history(verdict.model_copy(update={"until": UNTIL + timedelta(days=days)}), path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:40], lines[2]]))
    looks = extend_history(verdict.model_copy(update={"until": UNTIL + timedelta(days=9)}), path)
    assert [(look.until - UNTIL).days for look in looks] == [0, 2, 9]
    assert read_history(path) == looks


def test_record_is_one_for_each_look(tmp_path: Path) -> None:
    verdict, _ = make_verdict()
    run = describe_run(verdict, tmp_path)
    assert run.key == describe_run(verdict, tmp_path).key
    assert run.key != describe_run(verdict.model_copy(update={"model": "text 2 x"}), tmp_path).key
    assert run.metrics["is_stale"] == 0


def test_replay_from_the_command_line(checkout: Classifier) -> None:
    labels = [prediction.label for prediction in checkout.predict(OLD)]
    for name, topic in (("validation", "airline"), ("stream", "apple")):
        rows = {"text": OLD if topic == "airline" else NEW, "label": labels, "topic": topic}
        pd.DataFrame(rows).to_parquet(f"data/text/{name}.parquet")
    Path("own.yaml").write_text(
        "{description: Own., start: 2026-05-04, texts_per_week: 250, feedback: {fraction: 0}, "
        "weeks: [{topics: {airline: 1}}, {topics: {apple: 1}}]}"
    )
    for _ in range(2):  # the second one begins anew
        result = CliRunner().invoke(cli.app, ["replay", "own.yaml"])
        assert result.exit_code == 0, result.output
        assert read_verdict("reports/replay/own").status == "stale"
        assert len(read_history(Path("reports/replay/own/history.jsonl"))) == 2
    with sqlite3.connect(".evergreen/replay/own.db") as connection:
        assert connection.execute("select count(*) from predictions").fetchone() == (500,)
    assert not Path(".evergreen/predictions.db").exists()  # the log of production is not touched
    assert CliRunner().invoke(cli.app, ["replay", "none"]).exit_code == 2


def test_a_champion_made_for_the_new_texts_is_fresh(checkout: Classifier) -> None:
    """Its test set holds old texts; what production saw when it was trained counts."""
    cutoff = datetime.fromisoformat(checkout.manifest.data_cutoff)
    fill_log(checkout, NEW)
    assert look().exit_code == 3
    assert read_verdict().reference == "the test set"
    fill_log(checkout, NEW[::-1], until=cutoff, model="text 0.0.9 the one before")
    result = look()
    assert result.exit_code == 0, result.output
    verdict = read_verdict()
    assert (verdict.status, verdict.n_reference) == ("fresh", len(NEW))
    assert verdict.reference == "production from 2026-02-22 until 2026-03-01"
    assert "production from 2026-02-22 until 2026-03-01" in Path("reports/monitoring/report.html").read_text()

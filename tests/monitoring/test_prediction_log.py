"""The prediction log on SQLite: what goes in comes out, once, in order, and only what may be kept."""

import csv
import hashlib
import json
import pickle
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logged import NOW, make_row, open_at_once
from typer.testing import CliRunner

from evergreen.cli import app
from evergreen.monitoring.log import Feedback, LogError, LoggedPrediction, LogUnavailable, PredictionLog
from evergreen.monitoring.log_export import ExportError, export
from evergreen.monitoring.log_schema import metadata

TEXT_HASH = hashlib.sha256(b"late again").hexdigest()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    opened = PredictionLog.open(f"sqlite:///{tmp_path}/state/log.db")
    yield opened
    opened.close()


def read_ids(log: PredictionLog, **bounds: object) -> list[str]:
    return [row.prediction.id for row in log.stream(**bounds)]


def test_row_comes_back_as_it_was(log: PredictionLog) -> None:
    row = make_row(
        caller_id="c", client="shop", observed_at=datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    )
    log.insert([row])
    stored = log.find(prediction_id=row.id)
    assert stored == replace(row, text_hash=TEXT_HASH)
    assert stored.observed_at.tzinfo is UTC
    assert log.find(caller_id="d") is None


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(st.characters(codec=None), max_size=30), st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)))
def test_any_text_and_time_can_be_logged(log: PredictionLog, text: str, time: datetime) -> None:
    row = make_row(text=text, observed_at=time.replace(tzinfo=UTC))
    assert LoggedPrediction.from_json(row.to_json()) == row
    log.insert([row])
    stored = log.find(prediction_id=row.id)
    assert stored is not None
    assert stored.observed_at == row.observed_at
    assert stored.text == text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def test_replay_writes_a_row_once_and_caller_id_finds_the_newest(log: PredictionLog) -> None:
    first, second = make_row(caller_id="c"), make_row(caller_id="c", age_days=3)
    for _ in range(2):
        log.insert([first, second, first])
    assert read_ids(log) == [first.id, second.id]
    found = log.find(caller_id="c")
    assert found is not None
    assert found.id == second.id


@pytest.mark.parametrize(
    ("policy", "text", "text_hash"),
    [("cleaned", "late again", TEXT_HASH), ("hash", None, TEXT_HASH), ("none", None, None)],
)
def test_policy_says_what_is_kept_of_a_text(
    tmp_path: Path, policy: str, text: str | None, text_hash: str | None
) -> None:
    log = PredictionLog.open(f"sqlite:///{tmp_path}/log.db", policy)
    log.insert([make_row()])
    [row] = log.stream()
    assert (row.prediction.text, row.prediction.text_hash) == (text, text_hash)
    log.close()
    if text is None:
        assert all(b"late again" not in file.read_bytes() for file in tmp_path.iterdir())


def test_feedback_replaces_its_source_and_late_feedback_nothing_newer(log: PredictionLog) -> None:
    row = make_row()
    label = Feedback(row.id, "user", "positive", NOW)
    log.write([row], [label])
    log.write([], [replace(label, label="negative", received_at=NOW - timedelta(days=1))])  # the clock was set back
    assert [item.feedback.label for item in log.stream() if item.feedback] == ["negative"]
    log.write([], [replace(label, label="old", received_at=NOW - timedelta(days=2))], replayed=True)
    log.write([], [Feedback(row.id, "expert", "neutral", NOW + timedelta(days=1))])
    [item] = log.stream()
    assert item.feedback == Feedback(row.id, "expert", "neutral", NOW + timedelta(days=1))


def test_order_of_arrival_outlives_a_clock_set_back(log: PredictionLog) -> None:
    rows = [make_row(age_days=age) for age in (1, 2, 40, 3, 50, 0)]
    for row in rows:
        log.insert([row])
    assert read_ids(log, batch_rows=2) == [row.id for row in rows]
    assert read_ids(log, since=NOW - timedelta(days=3), until=NOW) == [rows[0].id, rows[1].id, rows[3].id]
    second = list(log.stream())[1].seq
    assert read_ids(log, after_seq=second) == [row.id for row in rows[2:]]
    log.write(
        [], [Feedback(rows[2].id, "user", "positive", NOW), Feedback("gone", "user", "x", NOW - timedelta(days=99))]
    )
    assert log.prune(NOW - timedelta(days=30)) == 2
    assert read_ids(log) == [rows[index].id for index in (0, 1, 3, 5)]
    with sqlite3.connect(str(log.url.database)) as connection:
        assert connection.execute("SELECT count(*) FROM feedback").fetchone() == (0,)
        plan = str(
            connection.execute(
                "EXPLAIN QUERY PLAN SELECT id FROM predictions WHERE observed_at >= 'a' AND seq > 1 AND seq <= 9 ORDER BY seq LIMIT 9"
            ).fetchall()
        )
    assert "TEMP B-TREE" not in plan  # each page walks the rows in order


def test_pruned_text_is_gone_from_the_file_and_its_number_not_reused(log: PredictionLog) -> None:
    log.insert([make_row(text=f"secret {number} " * 9, age_days=9) for number in range(2500)])
    last = max(row.seq for row in log.stream())
    assert log.prune(NOW) == 2500
    log.insert([make_row()])
    assert [row.seq for row in log.stream()] == [last + 1]
    log.close()
    assert all(b"secret" not in file.read_bytes() for file in Path(str(log.url.database)).parent.iterdir())


@pytest.mark.parametrize(
    "bad",
    [
        {"probabilities": {"a": float("nan")}},
        {"label": None},
        {"observed_at": datetime(2026, 1, 1)},
        {"label": object()},
    ],
)
def test_bad_row_is_its_own_fault_and_keeps_nothing_of_its_group(log: PredictionLog, bad: dict[str, object]) -> None:
    with pytest.raises(LogError, match="a row can't be written") as caught:
        log.insert([make_row(), make_row(**bad)])
    assert not isinstance(caught.value, LogUnavailable)
    assert "late again" not in str(caught.value)
    assert read_ids(log) == []
    log.probe()


@pytest.mark.parametrize("url", ["mysql://u:pa55word@h/d", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_wrong_address_has_a_remedy_and_no_password(url: str) -> None:
    with pytest.raises(LogError, match="DATABASE_URL") as caught:
        PredictionLog.open(url)
    assert "pa55word" not in str(caught.value)


def test_log_that_cannot_be_opened_or_is_newer_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogUnavailable, match="Check that the folder"):
        PredictionLog.open(f"sqlite:///{tmp_path}/file/log.db")
    newer = PredictionLog.open(f"sqlite:///{tmp_path}/log.db")
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LogError, match="newer Evergreen"):
        newer.migrate()


def test_removed_file_is_noticed(log: PredictionLog) -> None:
    log.insert([make_row()])
    Path(str(log.url.database)).unlink()
    with pytest.raises(LogError):
        log.probe()
    log.migrate()
    log.insert([make_row()])
    assert len(read_ids(log)) == 1


def test_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    open_at_once(url)
    log = pickle.loads(pickle.dumps(PredictionLog(url)))  # noqa: S301
    assert sorted(read_ids(log)) == ["0", "1", "2", "3", "same"]


def test_export_writes_what_was_logged(log: PredictionLog, tmp_path: Path) -> None:
    rows = [make_row(age_days=age, text='a "quoted",\ntext') for age in range(3)]
    log.write(rows, [Feedback(rows[1].id, "user", "positive", NOW)])
    for suffix in ("jsonl", "csv", "parquet"):
        assert export(log.stream(), f"{tmp_path}/out/log.{suffix}") == 3
    lines = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "out/log.parquet").to_pylist()
    with (tmp_path / "out/log.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [row["id"] for row in lines] == [row["id"] for row in table] == [row["id"] for row in cells]
    assert [row["feedback_label"] for row in table] == [None, "positive", None]
    assert cells[0]["text"] == table[0]["text"] == lines[0]["text"] == rows[0].text
    assert dict(table[0]["probabilities"]) == lines[0]["probabilities"] == json.loads(cells[0]["probabilities"])
    assert table[2]["observed_at"] == rows[2].observed_at == datetime.fromisoformat(lines[2]["observed_at"])
    with pytest.raises(ExportError, match=r"\.parquet"):
        export(log.stream(), f"{tmp_path}/out/log.txt")


def test_export_that_fails_leaves_the_old_file(log: PredictionLog, tmp_path: Path) -> None:
    out = tmp_path / "log.csv"
    out.write_text("old")

    def fail() -> Iterator[object]:
        yield from log.stream()
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError):
        export(fail(), str(out))
    assert out.read_text() == "old"
    assert not list(tmp_path.glob(".export*"))


@pytest.mark.usefixtures("clean_environment")
def test_command_line_prunes_and_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    log = PredictionLog.open(f"sqlite:///{Path('.evergreen').resolve()}/predictions.db")
    log.insert([replace(make_row(), observed_at=datetime.now(UTC) - timedelta(days=days)) for days in (0, 5, 100)])
    assert CliRunner().invoke(app, ["log", "prune"]).output == "1 deleted\n"
    since = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%d")
    assert (
        CliRunner().invoke(app, ["log", "export", "o.jsonl", "--since", since]).output == "1 predictions in o.jsonl\n"
    )


def test_migrations_make_the_tables_that_the_code_uses(log: PredictionLog) -> None:
    with log._get_engine().connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []

"""The prediction log on a real PostgreSQL: the same answers as on SQLite, through stops and starts."""

import time
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path

import pytest
from logged import NOW, make_row, open_at_once
from postgres import Postgres
from test_log_writer import read_ids, run_until_killed, wait_until

from evergreen.monitoring.log import Feedback, LogError, LogUnavailable, PredictionLog
from evergreen.monitoring.log_writer import LogWriter

pytestmark = pytest.mark.slow


def test_rows_and_feedback_come_back(postgres: Postgres) -> None:
    log = PredictionLog.open(postgres.make_database())
    rows = [make_row(age_days=age, caller_id="c", text="nul \0 and \ud800") for age in (1, 40, 0, 50)]
    log.insert(rows)
    log.write(rows, [Feedback(rows[0].id, "user", "positive", NOW)])
    log.write([], [Feedback(rows[0].id, "user", "neutral", NOW - timedelta(days=1))], replayed=True)
    stored = list(log.stream(batch_rows=3))
    assert [row.prediction.id for row in stored] == [row.id for row in rows]
    assert stored[0].prediction.observed_at == rows[0].observed_at
    assert stored[0].prediction.observed_at.tzinfo is UTC
    assert stored[0].prediction.text == "nul \ufffd and ?"
    assert stored[0].feedback == Feedback(rows[0].id, "user", "positive", NOW)
    found = log.find(caller_id="c")
    assert found is not None
    assert found.id == rows[3].id
    assert log.prune(NOW - timedelta(days=30)) == 2
    assert read_ids(log) == [rows[0].id, rows[2].id]
    for bad in (replace(rows[0], id="x", label="nul \0"), replace(rows[0], id="x", label=None)):
        with pytest.raises(LogError) as caught:
            log.insert([bad])
        assert not isinstance(caught.value, LogUnavailable)
    log.close()


def test_processes_that_start_at_once_migrate_once(postgres: Postgres) -> None:
    url = postgres.make_database()
    open_at_once(url)
    assert sorted(read_ids(PredictionLog(url))) == ["0", "1", "2", "3", "same"]


def test_acknowledged_rows_survive_a_kill(postgres: Postgres, tmp_path: Path) -> None:
    log = PredictionLog.open(postgres.make_database())
    acknowledged = run_until_killed(log.url.render_as_string(False), tmp_path, "refuse", 0.5)
    acknowledged += run_until_killed(log.url.render_as_string(False), tmp_path, "refuse", 0.2)
    ids = read_ids(log)
    assert acknowledged
    assert len(ids) == len(set(ids))
    assert set(acknowledged) <= set(ids)
    log.close()


@pytest.mark.parametrize("mode", ["refuse", "spool"])
def test_server_gone_and_back(postgres: Postgres, tmp_path: Path, mode: str) -> None:
    url = postgres.make_database()
    log = PredictionLog.open(url)
    writer = LogWriter(log, tmp_path / "spool", mode)
    acknowledged = []
    for number in range(300):
        if number == 100:
            postgres.stop()
        if number == 200:
            if mode == "spool":
                assert writer.state.spooled == 100
            with pytest.raises(LogUnavailable) as caught:
                PredictionLog.open(url)
            assert "pa55word" not in str(caught.value) + str(writer.state.last_error)
            postgres.start()
            wait_until(lambda: writer.state.available and not writer.state.spooled)
        row = make_row()
        started = time.monotonic()
        error = writer.submit([row]).exception(10)
        assert time.monotonic() - started < 5
        if error is None:
            acknowledged.append(row.id)
    assert len(acknowledged) == (200 if mode == "refuse" else 300)
    assert read_ids(log) == acknowledged
    # A restart in between costs no row, since the writer connects again at once.
    postgres.stop()
    postgres.start()
    writer.submit([make_row()]).result(10)
    writer.close()
    log.close()

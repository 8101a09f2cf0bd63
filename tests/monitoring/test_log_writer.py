"""The writer: what it acknowledged is in the log exactly once, whatever is killed, full, locked or gone meanwhile."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

import logged
import pytest
from logged import NOW, make_row

from evergreen.monitoring import log_writer
from evergreen.monitoring.log import Feedback, LogError, LogUnavailable, PredictionLog
from evergreen.monitoring.log_spool import Spool
from evergreen.monitoring.log_writer import LogWriter


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def read_ids(log: PredictionLog) -> list[str]:
    return [row.prediction.id for row in log.stream()]


@pytest.fixture
def log(tmp_path: Path) -> PredictionLog:
    return PredictionLog.open(f"sqlite:///{tmp_path}/log.db")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def lock(log: PredictionLog) -> sqlite3.Connection:
    connection = sqlite3.connect(str(log.url.database), isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection


def test_rows_are_durable_in_order_and_bad_ones_fail_alone(log: PredictionLog, spool: Path) -> None:
    writer = LogWriter(log, spool, "refuse")
    rows = [make_row() for _ in range(3000)]
    bad = make_row(label=None)
    futures = [writer.submit([row]) for row in rows[:1500]]
    failing = writer.submit([bad], [Feedback(rows[0].id, "user", "x", NOW)])
    futures += [writer.submit([row]) for row in rows[1500:]]
    wait(futures)
    assert all(future.exception() is None for future in futures)
    assert isinstance(failing.exception(), LogError)
    assert read_ids(log) == [row.id for row in rows]
    writer.close()
    assert isinstance(writer.submit([make_row()]).exception(), LogUnavailable)
    assert writer.state.pending == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "spool"])
def test_locked_database_opens_the_circuit_until_it_is_free(log: PredictionLog, spool: Path, mode: str) -> None:
    writer = LogWriter(log, spool, mode)
    before, during = make_row(), [make_row() for _ in range(50)]
    writer.submit([before]).result(5)
    other = lock(log)
    first = writer.submit([make_row()])
    wait_until(lambda: not writer.state.available)
    started = time.monotonic()
    outcomes = [writer.submit([row], [Feedback(row.id, "user", "x", NOW)]) for row in during]
    wait(outcomes)
    assert time.monotonic() - started < 1
    state = writer.state
    if mode == "refuse":
        assert all(isinstance(future.exception(), LogUnavailable) for future in [first, *outcomes])
        assert "locked" in str(state.last_error)
    else:
        assert all(future.exception() is None for future in [first, *outcomes])
        assert state.spooled == 101
    other.execute("ROLLBACK")
    wait_until(lambda: writer.state.available and not writer.state.spooled and not list(spool.glob("*.jsonl")))
    after = make_row()
    writer.submit([after]).result(5)
    ids = read_ids(log)
    assert len(ids) == (2 if mode == "refuse" else 53)
    assert ids[-1] == after.id
    assert sum(row.feedback is not None for row in log.stream()) == (0 if mode == "refuse" else 50)
    writer.close()


def run_until_killed(url: str, spool: Path, mode: str, seconds: float) -> list[str]:
    command = [sys.executable, logged.__file__, url, str(spool), mode]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    return (first + rest).split("\n")[:-1]  # the last may be cut off


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "spool"])
def test_acknowledged_rows_survive_a_kill(log: PredictionLog, spool: Path, mode: str) -> None:
    other = lock(log) if mode == "spool" else None
    acknowledged: list[str] = []
    for seconds in (0.1, 0.3, 0.7):
        acknowledged += run_until_killed(str(log.url), spool, mode, seconds)
    assert len(acknowledged) > 20
    if other is not None:
        assert read_ids(log) == []
        other.execute("ROLLBACK")
        writer = LogWriter(log, spool, mode)
        writer.start()
        wait_until(lambda: not list(spool.glob("*.jsonl")))
        writer.close()
    ids = read_ids(log)
    assert len(ids) == len(set(ids))
    assert set(acknowledged) <= set(ids)


def test_spool_tolerates_a_torn_line_and_a_move_that_was_interrupted(log: PredictionLog, spool: Path) -> None:
    rows = [make_row() for _ in range(450)]
    left = Spool(spool)
    left.append([([row], []) for row in rows])
    left.release()
    [file] = spool.glob("*.jsonl")
    lines = file.read_bytes()
    file.write_bytes(lines + b"not json\n" + lines.splitlines()[0][:40])
    for _ in left.drain(lambda moved: log.write(*moved)):
        break  # as if killed in between
    writer = LogWriter(log, spool, "refuse")
    writer.start()
    wait_until(lambda: not list(spool.glob("*.jsonl")))
    writer.close()
    assert read_ids(log) == [row.id for row in rows]
    assert (spool / "rejected.txt").read_bytes() == b"not json\n"


def test_full_database_is_spooled_and_recovers(log: PredictionLog, spool: Path) -> None:
    # Of this one connection: the pool keeps it and gives it to the next writer.
    with log._get_engine().connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")
    writer = LogWriter(log, spool, "spool")
    rows = [make_row(text="x" * 900) for _ in range(100)]
    futures = [writer.submit([row]) for row in rows]
    wait(futures)
    assert all(future.exception() is None for future in futures)
    assert "full" in str(writer.state.last_error)
    log.close()  # connections without the limit
    wait_until(lambda: writer.state.available and not writer.state.spooled and len(read_ids(log)) == 100)
    writer.close()
    assert sorted(read_ids(log)) == sorted(row.id for row in rows)


@pytest.mark.slow
def test_full_disk_refuses_what_can_be_kept_nowhere_and_loses_nothing_else(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("no small disk can be mounted here, so a full one is not tested: run as root")
    try:
        log = PredictionLog.open(f"sqlite:///{disk}/log.db")
        writer = LogWriter(log, disk / "spool", "spool")
        kept = []
        refused = 0
        for _ in range(3000):
            row = make_row(text="y" * 500)
            error = writer.submit([row]).exception(20)
            if error is None:
                kept.append(row.id)
            else:
                assert isinstance(error, LogUnavailable)
                refused += 1
            if refused > 20:
                break
        assert kept
        assert refused > 20
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        wait_until(lambda: writer.state.available and not writer.state.spooled)
        wait_until(lambda: not list((disk / "spool").glob("*.jsonl")))
        writer.close()
        ids = read_ids(log)
        assert len(ids) == len(set(ids))
        assert set(kept) <= set(ids)
        log.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


def test_fork_writes_with_a_thread_and_a_connection_of_its_own(log: PredictionLog, spool: Path) -> None:
    writer = LogWriter(log, spool, "refuse")
    writer.submit([make_row(id="parent")]).result(5)
    child = os.fork()
    if child == 0:
        try:
            writer.submit([make_row(id="child")]).result(5)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    writer.submit([make_row(id="again")]).result(5)
    writer.close()
    assert read_ids(log) == ["parent", "child", "again"]


def test_more_than_may_wait_is_refused(log: PredictionLog, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MAX_PENDING_ROWS", 10)
    writer = LogWriter(log, spool, "refuse")
    other = lock(log)
    futures = [writer.submit([make_row()]) for _ in range(12)]
    assert [future.done() for future in futures] == [False] * 10 + [True] * 2
    assert writer.state.pending == 10
    other.execute("ROLLBACK")
    assert all(future.exception(10) is None for future in futures[:10])
    writer.close()

"""The server under faults, in reduced form; `make soak` runs the full ones."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults import (
    Load,
    ShiftedClock,
    audit,
    fill_disk,
    kill,
    kill_under_load,
    mount_small_disk,
    read_metric,
    run_mixed_load,
)
from postgres import Postgres, make_postgres
from running import RunningServer, run_server
from tiny_text_bundle import write_bundle

from evergreen.monitoring.log import LabeledPrediction, PredictionLog
from evergreen.text.runtime import Classifier

pytestmark = pytest.mark.slow

SPOOL = {"EVERGREEN_LOG_UNAVAILABLE": "spool"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "text")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Postgres]:
    server = make_postgres()
    yield server
    server.remove()


def wait_until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def post(server: RunningServer, text: str = "a good flight") -> httpx.Response:
    return server.client.post("/v1/classify", json={"text": text})


def is_refusing(server: RunningServer) -> bool:
    """Whether everything says that the log can't be written; while a disk fills up, small rows may still fit."""
    response, ready = post(server), server.client.get("/ready")
    if response.status_code == 200:
        return False
    assert response.status_code == 503, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) >= 1
    assert "prediction log" in response.json()["detail"]
    return (
        ready.status_code == 503
        and any("prediction log" in problem for problem in ready.json()["problems"])
        and read_metric(server, "evergreen_log_available") == 0
    )


def read_rows(url: str) -> list[LabeledPrediction]:
    return list(PredictionLog.open(url).stream())


def test_acknowledged_rows_survive_kills(tmp_path: Path, bundle: Path) -> None:
    figures = kill_under_load(RunningServer(tmp_path, bundle).start(), kills=3)
    assert sum(figures.kills.values()) == 3
    assert min(figures.audit.predictions, figures.audit.feedback, figures.audit.job_rows) > 100
    assert (figures.audit.missing, figures.audit.doubled) == (0, 0)
    assert max(max(seconds) for seconds in figures.silence.values()) < 20


def test_mixed_load_is_logged_and_measured(tmp_path: Path, bundle: Path) -> None:
    figures = run_mixed_load(RunningServer(tmp_path, bundle).start(), minutes=3 / 60, sample_seconds=3)
    assert (figures.audit.missing, figures.audit.doubled, figures.n_failed) == (0, 0, 0)
    assert figures.jobs == {"succeeded": 1}
    assert figures.memory_mb[0] > 50


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: no small disk can be mounted, so a full one is not tested")
def test_full_disk_refuses_until_there_is_room(tmp_path: Path, bundle: Path) -> None:
    with mount_small_disk(tmp_path / "state"), run_server(tmp_path, bundle) as server, Load(server.url, 2) as load:
        filler = fill_disk(tmp_path / "state")
        wait_until(lambda: is_refusing(server))
        filler.unlink()
        wait_until(lambda: post(server).status_code == 200)
        load.__exit__()
        assert set(load.receipts.statuses) == {200, 503}
        result = audit(server.read_log(), load.receipts)
        assert (result.missing, result.doubled) == (0, 0)


def test_locked_database_is_spooled(tmp_path: Path, bundle: Path) -> None:
    with run_server(tmp_path, bundle, **SPOOL) as server, Load(server.url, 2) as load:
        with sqlite3.connect(tmp_path / "state" / "predictions.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            wait_until(lambda: read_metric(server, "evergreen_log_spooled_rows") > 20)
            other.execute("ROLLBACK")
        wait_until(lambda: read_metric(server, "evergreen_log_spooled_rows") == 0)
        load.__exit__()
        assert len(load.receipts.predictions) > 20
        result = audit(server.read_log(), load.receipts)
        assert (result.missing, result.doubled) == (0, 0)


def test_lost_database_refuses_until_it_is_back(tmp_path: Path, bundle: Path, cluster: Postgres) -> None:
    url = cluster.make_database()
    with run_server(tmp_path, bundle, DATABASE_URL=url) as server, Load(server.url, 2) as load:
        cluster.stop()
        try:
            wait_until(lambda: is_refusing(server))
        finally:
            cluster.start()
        wait_until(lambda: post(server).status_code == 200)
        load.__exit__()
        result = audit(read_rows(url), load.receipts)
        assert (result.missing, result.doubled) == (0, 0)
        assert "pa55word" not in server.read_output()


def test_lost_database_is_spooled_from_the_start(tmp_path: Path, bundle: Path, cluster: Postgres) -> None:
    url = cluster.make_database()
    cluster.stop()
    try:
        server = RunningServer(tmp_path, bundle, DATABASE_URL=url, **SPOOL).start()
        with Load(server.url, 2) as load:
            wait_until(lambda: len(load.receipts.predictions) > 50)
            kill(server, "main")  # what is spooled outlives the process
            wait_until(lambda: read_metric(server, "evergreen_log_spooled_rows") > 20)
            cluster.start()
            wait_until(lambda: read_metric(server, "evergreen_log_spooled_rows") == 0)
            wait_until(lambda: load.receipts.feedback)
            cluster.stop()
            wait_until(lambda: read_metric(server, "evergreen_log_spooled_rows") > 20)
    finally:
        cluster.start()
    wait_until(lambda: read_metric(server, "evergreen_log_spooled_rows") == 0)
    server.stop()
    result = audit(read_rows(url), load.receipts)
    assert result.predictions > 50
    assert (result.missing, result.doubled) == (0, 0)


def test_clock_set_back_changes_nothing(tmp_path: Path, bundle: Path) -> None:
    clock = ShiftedClock(tmp_path / "clock")
    limit = {"EVERGREEN_RATE_LIMIT": "300/second"}
    with run_server(tmp_path, bundle, **limit, **clock.environment) as server:
        with Load(server.url, 2, pause=0.02) as load:
            wait_until(lambda: len(load.receipts.predictions) > 50)
            clock.set(-7200)
            n_before = len(load.receipts.moments)
            wait_until(lambda: len(load.receipts.moments) > n_before + 100)
        assert set(load.receipts.statuses) == {200}
        rows = server.read_log()
        result = audit(rows, load.receipts)
        assert (result.missing, result.doubled) == (0, 0)
        times = [row.prediction.observed_at for row in rows]
        assert (times[0] - times[-1]).total_seconds() == pytest.approx(7200, abs=60)
        assert [row.seq for row in rows] == sorted(row.seq for row in rows)


def test_kill_during_reload_leaves_a_bundle_that_starts(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "models" / "text", seed=1)
    server = RunningServer(tmp_path, folder).start()
    for seed, delay in ((2, 0.0), (3, 0.02)):
        write_bundle(folder, seed)
        server.process.send_signal(signal.SIGHUP)
        time.sleep(delay)
        kill(server, "main")
        expected = Classifier.load(folder)("word9").probabilities
        assert server.classify("word9")["probabilities"] == pytest.approx(expected, abs=1e-5)
    server.stop()
    bundles = tmp_path / "state" / "serving" / "bundles"
    assert sorted(path.name for path in bundles.iterdir()) == ["current", (bundles / "current").resolve().name]


def test_text_whose_workers_die_is_refused(tmp_path: Path, bundle: Path) -> None:
    """The text is long enough to be killed at; after it, the server answers as before."""
    limits = {"EVERGREEN_MAX_CHARACTERS": 30_000_000, "EVERGREEN_MAX_BODY_BYTES": 64 << 20, "EVERGREEN_WORKERS": 1}
    with run_server(tmp_path, bundle, **limits) as server:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(post(server, "word7 @someone " * 1_900_000)))
        asking.start()
        killed: set[int] = set()

        def kill_all() -> bool:
            for worker in server.workers():
                if worker.cpu_times().user > 1.5 and worker.pid not in killed:  # loaded, and at work
                    killed.add(worker.pid)
                    worker.kill()
            return not asking.is_alive()

        wait_until(kill_all, 40)
        assert answers[0].status_code == 503
        assert answers[0].json()["detail"].startswith("The text could not be predicted")
        assert len(killed) == 3
        assert post(server).status_code == 200


def test_workers_that_die_before_they_answer_are_a_timeout(tmp_path: Path, bundle: Path) -> None:
    with run_server(tmp_path, bundle, EVERGREEN_REQUEST_TIMEOUT=2) as server:
        stopped = threading.Event()

        def kill_all() -> None:
            while not stopped.is_set():
                for worker in server.workers():
                    worker.kill()

        killing = threading.Thread(target=kill_all)
        killing.start()
        try:
            wait_until(lambda: read_metric(server, "evergreen_workers") == 0)
            started = time.monotonic()
            response = post(server)
            assert time.monotonic() - started < 6
        finally:
            stopped.set()
            killing.join()
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        wait_until(lambda: post(server).status_code == 200)

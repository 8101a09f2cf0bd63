"""The server while its prediction log can't be written: a full disk, a database locked or gone."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import Load, audit, fill_disk, kill, mount_small_disk, post, read_metric, wait_until
from postgres import Postgres, make_postgres
from running import RunningServer, run_server
from tiny_text_bundle import write_bundle

from evergreen.monitoring.log import LabeledPrediction, PredictionLog

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


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: no small disk can be mounted, so a full one is not tested")
def test_full_disk_refuses_until_there_is_room(tmp_path: Path, bundle: Path) -> None:
    with mount_small_disk(tmp_path / "state"), run_server(tmp_path, bundle) as server, Load(server.url, 2) as load:
        wait_until(lambda: load.receipts.statuses[200] > 0)
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

"""The server while its processes are killed or its clock is set back, in reduced form; `make soak` runs the full one."""

import random
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest
from faults import Load, audit, kill, kill_under_load, post, read_metric, run_mixed_load, wait_until
from running import RunningServer, run_server
from shifted_clock import ShiftedClock
from tiny_text_bundle import write_bundle

from evergreen.serving.problems import RefusedError
from evergreen.serving.security import RateLimit
from evergreen.text.runtime import Classifier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "text")


def test_acknowledged_rows_survive_kills(tmp_path: Path, bundle: Path) -> None:
    figures = kill_under_load(RunningServer(tmp_path, bundle).start(), kills=3)
    assert sum(figures.kills.values()) == 3
    assert min(figures.audit.predictions, figures.audit.feedback, figures.audit.job_rows) > 20
    assert (figures.audit.missing, figures.audit.doubled) == (0, 0)
    assert max(max(seconds) for seconds in figures.silence.values()) < 40


def test_mixed_load_is_logged_and_measured(tmp_path: Path, bundle: Path) -> None:
    figures = run_mixed_load(RunningServer(tmp_path, bundle).start(), minutes=3 / 60, sample_seconds=3)
    assert (figures.audit.missing, figures.audit.doubled, figures.n_failed) == (0, 0, 0)
    assert figures.jobs == {"succeeded": 1}
    assert figures.memory_mb[0] > 50


def test_clock_set_back_changes_nothing(tmp_path: Path, bundle: Path) -> None:
    clock = ShiftedClock(tmp_path / "clock")
    limit = {"EVERGREEN_RATE_LIMIT": "200/second"}
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
    write_bundle(folder, seed=2)
    server.process.send_signal(signal.SIGHUP)
    time.sleep(random.uniform(0, 0.05))  # noqa: S311 - no secret
    kill(server, "main")
    expected = Classifier.load(folder)("word9").probabilities
    assert server.classify("word9")["probabilities"] == pytest.approx(expected, abs=1e-5)
    server.stop()
    bundles = tmp_path / "state" / "serving" / "bundles"
    (folder,) = (path for path in bundles.iterdir() if path.is_dir())
    assert sorted(path.name for path in folder.iterdir()) == ["current", (folder / "current").resolve().name]


def test_text_whose_workers_die_is_refused(tmp_path: Path, bundle: Path) -> None:
    """The text is long enough to be killed at; after it, the server answers as before."""
    limits = {"EVERGREEN_MAX_CHARACTERS": 10_000_000, "EVERGREEN_MAX_BODY_BYTES": 16 << 20, "EVERGREEN_WORKERS": 1}
    with run_server(tmp_path, bundle, **limits) as server:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(post(server, "word7 @someone " * 600_000)))
        asking.start()
        killed: set[int] = set()

        def kill_all() -> bool:
            if read_metric(server, "evergreen_queue_texts") == 0 and read_metric(server, "evergreen_workers"):
                killed.update(worker.pid for worker in server.workers())
                for worker in server.workers():
                    worker.kill()
            return not asking.is_alive()

        wait_until(kill_all, 40)
        assert answers[0].status_code == 503
        assert answers[0].json()["detail"].startswith("The text could not be predicted")
        assert len(killed) >= 3
        assert post(server).status_code == 200


def test_workers_that_die_before_they_answer_are_a_timeout(tmp_path: Path, bundle: Path) -> None:
    with run_server(tmp_path, bundle, EVERGREEN_REQUEST_TIMEOUT=2) as server:
        stopped = threading.Event()

        def kill_all() -> None:
            while not stopped.wait(0.02):
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


def test_rate_limit_follows_no_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = RateLimit("2/second")
    for _ in range(2):
        limit.check("web")
    with pytest.raises(RefusedError):
        limit.check("web")
    limit.check("other")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    time.sleep(1.1)
    limit.check("web")

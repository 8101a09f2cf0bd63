"""Tracking: against a real MLflow, with the server available, unavailable, and failing half-way."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from evergreen import tracking
from evergreen.settings import Settings

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "EVERGREEN_STATE_DIR", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    # `flush` sets these where nobody did; undone after the test.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def settings(state: Path) -> Settings:
    """No server: a SQLite file under the state folder."""
    return Settings(EVERGREEN_STATE_DIR=state)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def runs(tmp_path: Path) -> list[tracking.Run]:
    """The records of the two stages of one run."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    (tmp_path / "training.png").write_bytes(b"curve")
    (tmp_path / "card.md").write_text("card")
    steps = [{"step": 10 * i, "loss": 1 / (i + 1), "epoch": i / 10} for i in range(60)]
    return [
        tracking.Run(
            key=KEY,
            name="text 0.1.0",
            params={"seed": 7, "train": {"epochs": 2, "warm_start": None}},
            metrics={"seconds": 12.5, "good": True, "nan": float("nan"), "validation": {"macro_f1": 0.7}},
            steps=steps,
            tags={"stage": "train"},
            artifacts=[tmp_path / "training.png"],
        ),
        tracking.Run(
            key=KEY,
            name="text 0.1.0",
            params={"seed": 7},
            metrics={"test": {"slices": {"0–40": 0.8}}},
            tags={"stage": "evaluate"},
            artifacts=[tmp_path / "card.md"],
            bundle=tmp_path / "bundle",
        ),
    ]


def check(uri: str) -> None:
    """One run with everything of both records, and one model version."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("evergreen")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "text 0.1.0"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "7", "train.epochs": "2", "train.warm_start": "None"}
    numbers = {name: value for name, value in run.data.metrics.items() if not name.startswith("training.")}
    assert numbers == {"seconds": 12.5, "validation.macro_f1": 0.7, "test.slices.0_40": 0.8}
    curve = client.get_metric_history(run.info.run_id, "training.loss")
    assert [(m.step, m.value) for m in sorted(curve, key=lambda m: m.step)] == [
        (10 * i, 1 / (i + 1)) for i in range(60)
    ]
    assert run.data.tags["evergreen.run"] == KEY
    assert run.data.tags["stage"] == "evaluate"
    assert run.data.tags["git_commit"]
    assert {f.path for f in client.list_artifacts(run.info.run_id)} == {"training.png", "card.md", "bundle"}
    assert [f.path for f in client.list_artifacts(run.info.run_id, "bundle")] == ["bundle/bundle.json"]
    [version] = client.search_model_versions("name = 'evergreen-text'")
    assert version.run_id == run.info.run_id
    assert version.source.endswith("/artifacts/bundle")


def test_two_records_become_one_run(settings: Settings, runs: list[tracking.Run], state: Path) -> None:
    for run in runs:
        assert tracking.record(run, settings) == tracking.FlushResult(1, 0)
    check(settings.tracking_uri)
    assert tracking.count_pending(settings) == 0
    assert tracking.flush(settings) == tracking.FlushResult(0, 0)
    check(settings.tracking_uri)
    # The same again, as after a repeated stage: nothing is doubled.
    tracking.record(runs[1], settings)
    check(settings.tracking_uri)
    assert (state / "mlflow.db").exists()


def test_another_key_is_another_run_and_version(settings: Settings, runs: list[tracking.Run]) -> None:
    tracking.record(runs[1], settings)
    runs[1].key = "f" * 32
    tracking.record(runs[1], settings)
    client = mlflow.MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name("evergreen")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    versions = client.search_model_versions("name = 'evergreen-text'")
    assert {v.version for v in versions} == {"1", "2"} or {v.version for v in versions} == {1, 2}


@pytest.mark.parametrize("step", ["log_batch", "log_artifacts", "create_model_version", "set_terminated"])
def test_a_failure_half_way_is_made_good(
    settings: Settings, runs: list[tracking.Run], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    tracking.record(runs[0], settings)
    real = getattr(mlflow.MlflowClient, step)
    failures = [ConnectionError(), ConnectionError("gone\nfor good")]  # the first says nothing at all

    def fail(*args: Any, **kwargs: Any) -> Any:
        if failures:
            real(*args, **kwargs)  # the server got it, the answer was lost
            raise failures.pop(0)
        return real(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, step, fail)
    flushed = tracking.record(runs[1], settings)
    assert (flushed.sent, flushed.kept) == (0, 1)
    assert flushed.problem is not None
    assert "ConnectionError" in flushed.problem
    while tracking.count_pending(settings):
        tracking.flush(settings)
    check(settings.tracking_uri)


def test_a_server_that_is_unavailable_keeps_the_record(state: Path, runs: list[tracking.Run]) -> None:
    port = free_port()
    unavailable = Settings(EVERGREEN_STATE_DIR=state, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{port}")
    for number, run in enumerate(runs, 1):
        flushed = tracking.record(run, unavailable)
        assert (flushed.sent, flushed.kept) == (0, number)
        assert flushed.problem is not None
        assert "127.0.0.1" in flushed.problem
    assert tracking.count_pending(unavailable) == 2
    # The files it was made from may go: the outbox has its own.
    for artifact in runs[0].artifacts:
        artifact.unlink()
    back = Settings(EVERGREEN_STATE_DIR=state)
    assert tracking.flush(back) == tracking.FlushResult(2, 0)
    check(back.tracking_uri)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:nonsense", "http://127.0.0.1:99999", "http://", "http://a..b"])
def test_an_address_that_is_none_keeps_the_record(state: Path, runs: list[tracking.Run], uri: str) -> None:
    wrong = Settings(EVERGREEN_STATE_DIR=state, MLFLOW_TRACKING_URI=uri, EVERGREEN_TRACKING_TIMEOUT=0.5)
    flushed = tracking.record(runs[0], wrong)
    assert flushed.problem
    assert tracking.count_pending(wrong) == 1


def test_a_record_needs_no_git(settings: Settings, runs: list[tracking.Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert tracking._describe_commit() == "unknown"


def test_a_record_cut_off_while_it_was_written_is_not_sent(settings: Settings, state: Path) -> None:
    (state / "outbox" / "1-x.partial").mkdir(parents=True)
    assert tracking.count_pending(settings) == 0
    assert tracking.flush(settings) == tracking.FlushResult(0, 0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real server, started by the test that asks for it and ended with it."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(tmp_path / "kept"), "--serve-artifacts"]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        for _ in range(240):
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail("the server did not start: " + (tmp_path / "server.log").read_text()[-2000:])
        yield uri
    finally:
        os.killpg(process.pid, 9)  # with its workers; the session is its own
        process.wait()


def test_what_was_kept_reaches_a_server_that_is_back(state: Path, runs: list[tracking.Run], server: str) -> None:
    unavailable = Settings(EVERGREEN_STATE_DIR=state, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    for run in runs:
        tracking.record(run, unavailable)
    back = Settings(EVERGREEN_STATE_DIR=state, MLFLOW_TRACKING_URI=server)
    assert tracking.flush(back) == tracking.FlushResult(2, 0)
    check(server)
    assert tracking.flush(back) == tracking.FlushResult(0, 0)


def test_a_record_that_is_refused_holds_no_other_up(
    settings: Settings, runs: list[tracking.Run], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "outbox" / "1-broken").mkdir(parents=True)  # without what it says
    flushed = tracking.record(runs[0], settings)
    assert (flushed.sent, flushed.kept) == (1, 1)
    assert flushed.problem is not None
    assert [path.name for path in (state / "outbox").iterdir()] == ["1-broken"]


def test_a_kill_while_a_sent_record_is_removed_leaves_none_to_send(
    settings: Settings, runs: list[tracking.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        tracking.record(runs[0], settings)
    assert tracking.count_pending(settings) == 0

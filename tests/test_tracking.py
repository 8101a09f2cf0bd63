"""Tracking: against a real MLflow, with the server available, unavailable, and failing half-way."""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
from typer.testing import CliRunner

from evergreen import cli, tracking
from evergreen.files import claim
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


@pytest.mark.parametrize(
    "uri",
    ["http://127.0.0.1:nonsense", "http://127.0.0.1:99999", "http://", "http://a..b", "http://[::1", "nope://host/a"],
)
def test_an_address_that_is_none_keeps_the_record(state: Path, runs: list[tracking.Run], uri: str) -> None:
    wrong = Settings(EVERGREEN_STATE_DIR=state, MLFLOW_TRACKING_URI=uri, EVERGREEN_TRACKING_TIMEOUT=0.5)
    flushed = tracking.record(runs[0], wrong)
    assert flushed.problem
    assert tracking.count_pending(wrong) == 1


def test_a_record_needs_no_git(settings: Settings, runs: list[tracking.Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert tracking.describe_commit() == "unknown"


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


# Several processes


def test_processes_that_send_at_once_record_each_run_once(
    state: Path, runs: list[tracking.Run], server: str, tmp_path: Path
) -> None:
    unavailable = Settings(EVERGREEN_STATE_DIR=state, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    for run in runs:
        tracking.record(run, unavailable)
    command = [sys.executable, "-c", "from evergreen.cli import main; main()", "runs", "send"]
    environment = os.environ | {"EVERGREEN_STATE_DIR": str(state), "MLFLOW_TRACKING_URI": server}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(3)]
    for process in processes:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, ""), out
    assert tracking.count_pending(unavailable) == 0
    check(server)


def test_a_record_beside_a_process_that_sends_is_left_to_it(
    settings: Settings, runs: list[tracking.Run], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_STATE_DIR", str(state))
    with claim(state / "outbox.lock"):  # type: ignore[union-attr]
        assert tracking.record(runs[0], settings) == tracking.FlushResult(0, 1, "another process is sending", busy=True)
        result = CliRunner().invoke(cli.app, ["runs", "send"])
    assert (result.exit_code, result.stdout) == (0, "0 sent, 1 kept\nanother process is sending them\n")
    assert tracking.flush(settings) == tracking.FlushResult(1, 0)


def test_what_is_added_while_a_process_sends_is_sent_by_it(
    settings: Settings, runs: list[tracking.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = tracking._send
    added: list[tracking.FlushResult] = []

    def add_then_send(*arguments: Any) -> None:
        if not added:
            added.append(tracking.record(runs[1], settings))
        send(*arguments)

    monkeypatch.setattr(tracking, "_send", add_then_send)
    assert tracking.record(runs[0], settings) == tracking.FlushResult(2, 0)
    assert added[0].busy
    check(settings.tracking_uri)


# Silent servers. The bounds are far above what is promised, and far below what a silent server cost before.


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_silent_server_costs_the_timeout(state: Path, runs: list[tracking.Run], silent: str) -> None:
    settings = Settings(EVERGREEN_STATE_DIR=state, MLFLOW_TRACKING_URI=silent, EVERGREEN_TRACKING_TIMEOUT=1)
    start = time.monotonic()
    for number, run in enumerate(runs, 1):
        flushed = tracking.record(run, settings)
        assert (flushed.sent, flushed.kept) == (0, number)
        assert "127.0.0.1" in str(flushed.problem)
    assert time.monotonic() - start < 8
    assert tracking.flush(Settings(EVERGREEN_STATE_DIR=state)) == tracking.FlushResult(2, 0)
    check(Settings(EVERGREEN_STATE_DIR=state).tracking_uri)


class FallsSilent(BaseHTTPRequestHandler):
    """Answers whether it is there, and nothing else."""

    ended = threading.Event()

    def do_GET(self) -> None:
        if "experiments/get?" not in self.path:
            self.ended.wait(120)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_falls_silent_costs_one_deadline(state: Path, runs: list[tracking.Run]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), FallsSilent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        settings = Settings(EVERGREEN_STATE_DIR=state, MLFLOW_TRACKING_URI=uri, EVERGREEN_TRACKING_TIMEOUT=0.3)
        kept = Settings(EVERGREEN_STATE_DIR=state, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
        for _ in range(5):
            tracking.record(runs[0], kept)
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        start = time.monotonic()
        flushed = tracking.record(runs[1], settings)
        assert time.monotonic() - start < 12  # of 3 s; one request for each of six records would take 18
        FallsSilent.ended.set()
        server.shutdown()
    assert (flushed.sent, flushed.kept) == (0, 6)
    assert flushed.problem


# The commit


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository, untouched, at a commit with an annotated tag."""
    folder = tmp_path / "repository"
    for name in ("src/a.py", "params.yaml", "dvc.lock", "data/corpora/a.csv.dvc", "metrics/text.json", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("one")
    monkeypatch.chdir(folder)
    for name in ("models/card.md", "reports/text/data.png", "tests/test_a.py", ".github/ci.yml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("one")
    run_git("init", "-q")
    run_git("add", ".")
    run_git("commit", "-q", "-m", "first")
    run_git("tag", "-a", "v1.0", "-m", "a release")
    return folder


def run_git(*arguments: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "tag.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_named_and_not_its_tag(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = run_git("rev-parse", "HEAD")
    assert len(commit) == 40
    assert tracking.describe_commit() == commit
    monkeypatch.chdir(repository / "src")
    assert tracking.describe_commit() == commit


RESULTS = ["dvc.lock", "metrics/text.json", "models/card.md", "reports/text/data.png"]
UNREAD = ["README.md", "tests/test_a.py", ".github/ci.yml", "untracked.py"]


@pytest.mark.parametrize("name", [*RESULTS, *UNREAD])
def test_what_no_run_depends_on_makes_nothing_dirty(repository: Path, name: str) -> None:
    (repository / name).write_text("two")
    assert tracking.describe_commit() == run_git("rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["src/a.py", "params.yaml", "data/corpora/a.csv.dvc"])
def test_code_parameters_and_data_make_it_dirty(repository: Path, name: str) -> None:
    file, commit = repository / name, run_git("rev-parse", "HEAD")
    os.utime(file, (1, 1))  # touched, and the same
    assert tracking.describe_commit() == commit
    file.write_text("two")
    assert tracking.describe_commit() == f"{commit}-dirty"
    run_git("add", ".")
    assert tracking.describe_commit() == f"{commit}-dirty"
    file.unlink()
    assert tracking.describe_commit() == f"{commit}-dirty"


def test_no_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tracking.describe_commit() == "unknown"
    run_git("init", "-q")
    assert tracking.describe_commit() == "unknown"


# Records that come late, or tell of another evaluation


def evaluate(score: float, n_resamples: int, tmp_path: Path) -> tracking.Run:
    (tmp_path / "card.md").write_text(f"scored {score}")
    return tracking.Run(
        KEY,
        "text 0.1.0",
        params={"seed": 7, "evaluate": {"n_resamples": n_resamples}},
        metrics={"test": {"macro_f1": score}},
        tags={"stage": "evaluate", "score": str(score)},
        artifacts=[tmp_path / "card.md"],
        bundle=tmp_path / "bundle",
    )


def read_runs(uri: str) -> list[tuple[dict[str, str], float | None, str]]:
    """Parameters, score and card of each MLflow run, the shared one first."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("evergreen")
    found = client.search_runs([experiment.experiment_id])
    found.sort(key=lambda run: len(run.data.tags["evergreen.run"]))
    return [
        (
            {name: value for name, value in run.data.params.items() if name.startswith("evaluate")},
            run.data.metrics.get("test.macro_f1"),
            Path(client.download_artifacts(run.info.run_id, "card.md")).read_text(),
        )
        for run in found
    ]


def test_a_bundle_evaluated_in_another_way_is_a_run_of_its_own(
    settings: Settings, runs: list[tracking.Run], tmp_path: Path
) -> None:
    runs[0].params["evaluate"] = {"n_resamples": 1000}
    assert tracking.record(runs[0], settings).kept == 0
    for score, n_resamples in ((0.7, 1000), (0.6, 10), (0.65, 10)):
        assert tracking.record(evaluate(score, n_resamples, tmp_path), settings).kept == 0
    assert read_runs(settings.tracking_uri) == [
        ({"evaluate.n_resamples": "1000"}, 0.7, "scored 0.7"),
        ({"evaluate.n_resamples": "10"}, 0.65, "scored 0.65"),  # repeated, it is the same run
    ]
    client = mlflow.MlflowClient(settings.tracking_uri)
    [version] = client.search_model_versions("name = 'evergreen-text'")  # one bundle, one version
    assert client.get_run(version.run_id).data.tags["evergreen.run"] == KEY
    [experiment] = [e for e in client.search_experiments() if e.name == "evergreen"]
    own = client.search_runs([experiment.experiment_id], "tags.`mlflow.parentRunId` LIKE '%'")
    assert [run.data.tags["mlflow.parentRunId"] for run in own] == [version.run_id]


def test_a_record_that_comes_late_replaces_nothing(
    settings: Settings, tmp_path: Path, runs: list[tracking.Run], state: Path
) -> None:
    other = Settings(EVERGREEN_STATE_DIR=tmp_path / "other", MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    tracking.record(evaluate(0.6, 1000, tmp_path), other)  # kept, on a machine without a network
    runs[0].artifacts[0].write_bytes(b"late, and missing")
    tracking.record(runs[0], other)
    tracking.record(evaluate(0.7, 1000, tmp_path), settings)
    late = Settings(EVERGREEN_STATE_DIR=tmp_path / "other", MLFLOW_TRACKING_URI=settings.tracking_uri)
    for _ in range(2):
        tracking.flush(late)
        assert tracking.count_pending(late) == 0
    assert read_runs(settings.tracking_uri) == [({"evaluate.n_resamples": "1000"}, 0.7, "scored 0.7")]
    client = mlflow.MlflowClient(settings.tracking_uri)
    [run] = client.search_runs([client.get_experiment_by_name("evergreen").experiment_id])
    assert (run.data.tags["stage"], run.data.tags["score"]) == ("evaluate", "0.7")
    assert run.data.metrics["validation.macro_f1"] == 0.7
    assert Path(client.download_artifacts(run.info.run_id, "training.png")).read_bytes() == b"late, and missing"


def test_a_run_that_cannot_be_kept_is_one_line(runs: list[tracking.Run], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(tracking.TrackingError, match=r"the run can't be kept .* Set EVERGREEN_STATE_DIR"):
        tracking.record(runs[0], Settings(EVERGREEN_STATE_DIR=tmp_path / "file" / "state"))
    runs[1].bundle = tmp_path / "gone"
    with pytest.raises(tracking.TrackingError, match="gone"):
        tracking.record(runs[1], Settings(EVERGREEN_STATE_DIR=tmp_path / "state"))
    assert not list((tmp_path / "state" / "outbox").iterdir())


def test_a_damaged_record_has_a_remedy(settings: Settings, state: Path) -> None:
    (state / "outbox" / "1-broken").mkdir(parents=True)
    (state / "outbox" / ".DS_Store").write_text("")
    (state / "outbox" / "1-broken" / "run.json").write_text("{}")
    flushed = tracking.flush(settings)
    assert flushed.kept == 1
    assert "1-broken: not a whole record" in str(flushed.problem)
    assert "Remove the folder" in str(flushed.problem)

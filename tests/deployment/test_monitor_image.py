"""The monitor's image: built, run on a log, its page asked. Skipped loudly where no container can be run."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from containers import (
    REPOSITORY,
    RunningContainer,
    build_for_tests,
    call,
    copy_repository,
    find_engine,
    inspect_image,
)
from monitored import NEW, OLD, UNTIL, make_rows, write_test_set
from tiny_text_bundle import write_bundle

from evergreen.monitoring.log import PredictionLog
from evergreen.monitoring.staleness import Verdict
from evergreen.serving.verdict_metrics import VerdictState
from evergreen.text.runtime import Classifier

pytestmark = pytest.mark.slow

PORT = 18420
NOW = ["--now", (UNTIL + timedelta(hours=5)).isoformat()]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository as it is now, with a champion made for tests."""
    folder = copy_repository(tmp_path_factory.mktemp("source") / "evergreen")
    write_test_set(folder / "data/text/test.parquet", Classifier.load(write_bundle(folder / "models/text")))
    return folder


@pytest.fixture(scope="module")
def image(source: Path) -> Iterator[str]:
    with build_for_tests("localhost/evergreen-monitor-test:latest", source, TARGET="monitor") as tag:
        yield tag


class Look:
    """A state folder with a log, and the monitor's container on it."""

    def __init__(self, image: str, source: Path, folder: Path, texts: list[str]) -> None:
        self.reports = folder / "reports"
        self.state = folder / "state"
        for path in (self.reports, self.state):
            path.mkdir()
        rows = make_rows(Classifier.load(source / "models/text"), texts)
        log = PredictionLog.open(f"sqlite:///{self.state / 'predictions.db'}")
        log.write([row.prediction for row in rows], [])
        for path in (self.reports, self.state, *self.state.iterdir()):
            path.chmod(0o777)  # for the image's user
        self.container = RunningContainer(image, self.state, PORT)

    def run(self, *arguments: str, run_flags: str = "") -> str:
        network = "" if self.container.is_confined else "--network host"  # where the alerts are received
        flags = f"{network} --volume {self.reports}:/reports/monitoring {run_flags}"
        return self.container.run("monitor", *arguments, run_flags=flags)

    def read(self) -> Verdict:
        return Verdict.load(self.reports / "verdict.json")


@pytest.fixture
def stale(image: str, source: Path, tmp_path: Path) -> Look:
    return Look(image, source, tmp_path, NEW)


@contextmanager
def receive_messages(messages: list[Any]) -> Iterator[int]:
    """Take alerts over HTTP; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def run_page(image: str, state: Path, port: int) -> Iterator[httpx.Client]:
    """Evidently's page, as compose runs it but on loopback."""
    engine, flags = find_engine()
    service = yaml.safe_load((REPOSITORY / "docker/compose.yaml").read_text())["services"]["evidently"]
    program, *arguments = service["entrypoint"]
    arguments = [{"0.0.0.0": "127.0.0.1", "8001": str(port)}.get(word, word) for word in arguments]  # noqa: S104
    name = f"evergreen-page-{os.getpid()}"
    (mount,) = service["volumes"]
    command = [engine, *flags.get("ENGINE_FLAGS", "").split(), "run", "--rm", "--name", name]
    command += [*flags.get("RUN_FLAGS", "--network host").split(), "--read-only", "--tmpfs", "/tmp"]  # noqa: S108
    command += ["--cap-drop", "ALL", "--volume", mount.replace("state", str(state), 1), "--entrypoint", program]
    process = subprocess.Popen([*command, image, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    finally:
        subprocess.run([engine, "rm", "--force", name], check=False, capture_output=True)
        process.wait(60)


def wait_for(page: httpx.Client, path: str, seconds: float = 60) -> httpx.Response:
    """Ask the page until it answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(httpx.TransportError):
            response = page.get(path)
            if response.is_success:
                return response
        time.sleep(0.2)
    raise AssertionError(f"{path}: no answer within {seconds} s")


def test_image_says_what_it_is(image: str, source: Path) -> None:
    config = inspect_image(image)["Config"]
    assert config["Labels"]["org.opencontainers.image.title"] == "evergreen-monitor"
    bundle = json.loads((source / "models/text/bundle.json").read_text())
    assert config["Labels"]["org.evergreen.model"] == bundle["digest"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--", "evergreen"]
    assert config["Cmd"] == ["monitor", "--alert"]
    assert "DO_NOT_TRACK=1" in config["Env"]


def test_stale_model_is_told_and_is_no_failure(stale: Look) -> None:
    messages: list[Any] = []
    with receive_messages(messages) as port:
        flags = f"--env EVERGREEN_ALERT_URLS=json://127.0.0.1:{port}/"
        first = stale.run("--alert", *NOW, run_flags=flags)
        second = stale.run("--alert", *NOW, run_flags=flags)
    assert "messages: 1 sent, 0 kept" in first
    assert "messages: 0 sent, 0 kept" in second  # the state remembers
    (message,) = messages
    assert "stale" in message["title"].lower()
    assert stale.read().status == "stale"
    assert {file.name for file in stale.reports.iterdir()} >= {"report.html", "drift.html", "history.png"}
    assert VerdictState.model_validate_json((stale.reports / "verdict.json").read_bytes()).status == "stale"
    with pytest.raises(AssertionError, match=": 3\n"):
        stale.run(*NOW)


def test_fresh_model_is_fresh_there_too(image: str, source: Path, tmp_path: Path) -> None:
    look = Look(image, source, tmp_path, OLD[::-1])
    assert "Fresh: no signal gives an alarm." in look.run("--alert", *NOW)
    assert look.read().status == "fresh"


def test_failure_is_a_failure(stale: Look) -> None:
    for flags in (
        "--env DATABASE_URL=sqlite:////nowhere/predictions.db",
        "--env EVERGREEN_ALERT_URLS=json://127.0.0.1:9/",
    ):
        with pytest.raises(AssertionError, match=": 1\n"):
            stale.run("--alert", *NOW, run_flags=flags)
    assert stale.read().status == "stale"  # who could not be told can read it


def test_page_shows_looks_as_they_come_and_changes_nothing(image: str, stale: Look) -> None:
    with run_page(image, stale.state, PORT + 1) as page:
        assert wait_for(page, "/").headers["Content-Type"].startswith("text/html")
        stale.run("--alert", *NOW)
        (project,) = wait_for(page, "/api/projects").json()  # which is an error until the first look
        (snapshot,) = page.get(f"/api/projects/{project['id']}/reports").json()
        assert snapshot["tags"] == ["stale"]
        assert page.delete(f"/api/projects/{project['id']}").is_error
        assert list((stale.state / "evidently" / project["id"]).rglob("*.json"))


def test_nothing_of_training_video_or_compiling_is_inside(stale: Look) -> None:
    engine, flags = find_engine()
    script = "import importlib.util as u; print([n for n in {!r}.split() if u.find_spec(n)])"
    unwanted = "torch transformers diffusers mlflow dvc datasets av cv2 pip setuptools huggingface_hub"
    command = [engine, *flags.get("ENGINE_FLAGS", "").split(), "run", "--rm", *flags.get("RUN_FLAGS", "").split()]
    run = [*command, "--entrypoint", "python3", stale.container.image, "-c", script.format(unwanted)]
    assert call(*run).strip() == "[]"

"""A real server in its own process tree, for tests to ask."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from evergreen.monitoring.log import LabeledPrediction, PredictionLog


def find_port() -> int:
    """A free port; another process may be faster, which a failed start shows."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class RunningService:
    """A server that was started, and how to wait for it."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    output: Path
    """File of what it writes."""

    def wait_until_ready(self, seconds: float = 60) -> None:
        """Wait until requests are taken."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {self.read_output()}")
            try:
                if self.client.get("/ready").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"not ready: {self.read_output()}")

    def wait_for_job(self, path: str, seconds: float = 60) -> Any:
        """Wait until a job has ended, and return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            job = self.client.get(path).raise_for_status().json()
            if job["status"] not in ("queued", "running"):
                return job
            time.sleep(0.1)
        raise RuntimeError(f"still {job}: {self.read_output()}")

    def read_output(self) -> str:
        """What it has written so far."""
        return self.output.read_text(errors="replace")


class RunningServer(RunningService):
    """`evergreen serve` with its state in a folder."""

    def __init__(self, folder: Path, bundle: Path, video: Path | None = None, **environment: Any) -> None:
        self.folder = folder
        self.bundle = bundle
        self.video = video or folder / "no-video"
        self.port = find_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "EVERGREEN_STATE_DIR": str(folder / "state"),
            "EVERGREEN_PORT": str(self.port),
            "EVERGREEN_WORKERS": "2",
            "EVERGREEN_DRAIN_SECONDS": "0.2",
            "EVERGREEN_JOB_PRIORITY": "normal",  # tests beside this one leave no processor idle
        } | {name: str(value) for name, value in environment.items()}
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.output = folder / "server.log"
        self.n_starts = 0

    def start(self, wait: bool = True) -> "RunningServer":
        """Start it and wait until it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("evergreen")), "serve", "--bundle", str(self.bundle)]
        command += ["--video", str(self.video), "--reports", str(self.folder / "reports")]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EVERGREEN_")}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=inherited | self.environment, cwd=self.folder, stdout=output, stderr=output
            )
        self.n_starts += 1
        if wait:
            self.wait_until_ready()
        return self

    def family(self) -> list[psutil.Process]:
        """Its processes."""
        try:
            main = psutil.Process(self.process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """Those that predict: started anew by LitServe, not forked."""
        workers = []
        for member in self.family()[1:]:
            with suppress(psutil.NoSuchProcess):  # or a zombie
                if "spawn_main" in " ".join(member.cmdline()):
                    workers.append(member)
        return workers

    def wait_for_worker(self, seconds: float = 30) -> psutil.Process:
        """One of its workers; where all were killed, the first that is started anew."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if workers := self.workers():
                return workers[0]
            time.sleep(0.05)
        raise RuntimeError(f"no worker: {self.read_output()}")

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Stop it and wait for all of its processes to end."""
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(seconds)
        end = time.monotonic() + seconds
        # Where nobody reaps orphans, they stay as zombies.
        while alive := [member for member in family if member.is_running() and member.status() != "zombie"]:
            if time.monotonic() > end:
                for left in alive:
                    left.kill()
                raise AssertionError(f"left running: {alive}")
            time.sleep(0.05)
        if number != signal.SIGKILL and self.n_starts == 1:  # a process whose main process was killed may complain
            assert "Traceback" not in self.read_output(), self.read_output()
        return code

    def kill(self) -> None:
        """End its main process at once; the rest has to notice."""
        self.stop(signal.SIGKILL)

    def classify(self, text: str = "a good flight", **more: Any) -> Any:
        """Ask for one text and return its prediction."""
        response = self.client.post("/v1/classify", json={"text": text, **more})
        response.raise_for_status()
        return response.json()["predictions"][0]

    def read_log(self) -> list[LabeledPrediction]:
        """All rows of its prediction log."""
        log = PredictionLog.open(f"sqlite:///{self.folder / 'state' / 'predictions.db'}")
        return list(log.stream())


@contextmanager
def run_server(folder: Path, bundle: Path, video: Path | None = None, **environment: Any) -> Iterator[RunningServer]:
    """A server for the length of a block."""
    server = RunningServer(folder, bundle, video, **environment).start()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()

"""Faults while a server answers, in any size: small ones in test_faults.py, full ones in benchmarks/soak.py."""

import os
import random
import re
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
from running import RunningServer

from evergreen.monitoring.log import LabeledPrediction

LABELS = ("negative", "neutral", "positive")
VICTIMS = ("main", "server", "worker")


@dataclass
class Receipts:
    """What the server has acknowledged, as its clients wrote it down."""

    predictions: dict[str, str] = field(default_factory=dict)
    """Prediction id by the client's own id of the text."""
    feedback: dict[str, str] = field(default_factory=dict)
    """Label by prediction id."""
    jobs: dict[str, int] = field(default_factory=dict)
    """Rows of each batch by its id."""
    n_failed: int = 0
    """Requests without an answer, or with another than 200."""
    statuses: Counter[int] = field(default_factory=Counter)
    moments: list[float] = field(default_factory=list)
    """When each answer came, in seconds of the monotonic clock."""


class Load:
    """Clients that ask without a pause for the length of a block, and never send anything twice.

    Args:
        url: of the server.
        n_clients: that ask at the same time.
        n_texts: of a request that asks for many.
        pause: seconds between an answer and the client's next request.
    """

    def __init__(self, url: str, n_clients: int = 4, n_texts: int = 8, pause: float = 0.0) -> None:
        self.receipts = Receipts()
        self._url = url
        self._n_texts = n_texts
        self._pause = pause
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(n_clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, number: int) -> None:
        rng = random.Random(number)  # noqa: S311 - no secret
        open_ids: list[str] = []  # predictions that no feedback was sent for
        with httpx.Client(base_url=self._url, timeout=40) as client:
            while not self._stopped.is_set():
                if open_ids and rng.random() < 0.4:
                    prediction_id = open_ids.pop(rng.randrange(len(open_ids)))
                    self._give_feedback(client, prediction_id, rng.choice(LABELS))
                else:
                    open_ids += self._classify(client, 1 if rng.random() < 0.7 else self._n_texts, rng)
                    del open_ids[:-1000]
                self._stopped.wait(self._pause)

    def _post(self, client: httpx.Client, path: str, body: Any) -> Any:
        try:
            response = client.post(path, json=body)
        except httpx.HTTPError:
            status = 0
        else:
            status = response.status_code
        with self._lock:
            self.receipts.statuses[status] += 1
            if status == 200:
                self.receipts.moments.append(time.monotonic())
                return response.json()
            self.receipts.n_failed += 1
        self._stopped.wait(0.02)  # as long as it takes to notice that nobody listens
        return None

    def _classify(self, client: httpx.Client, n_texts: int, rng: random.Random) -> list[str]:
        ids = [uuid.uuid4().hex for _ in range(n_texts)]
        texts = [f"word{rng.randrange(200)} the flight {mine}" for mine in ids]
        body = {"text": texts[0], "id": ids[0]} if n_texts == 1 else {"texts": texts, "ids": ids}
        answer = self._post(client, "/v1/classify", body)
        if answer is None:
            return []
        given = {prediction["caller_id"]: prediction["id"] for prediction in answer["predictions"]}
        with self._lock:
            self.receipts.predictions |= given
        return list(given.values())

    def _give_feedback(self, client: httpx.Client, prediction_id: str, label: str) -> None:
        answer = self._post(client, "/v1/feedback", {"prediction_id": prediction_id, "label": label})
        if answer is not None:
            with self._lock:
                self.receipts.feedback[prediction_id] = label


@dataclass(frozen=True)
class Audit:
    """What the log holds of what was acknowledged."""

    predictions: int
    feedback: int
    job_rows: int
    missing: int
    """Acknowledged predictions, labels and rows of jobs that the log lacks."""
    doubled: int
    """Texts, each sent once, that the log has more than once."""


def audit(rows: list[LabeledPrediction], receipts: Receipts) -> Audit:
    """Compare the log with what was acknowledged."""
    by_id = {row.prediction.id: row for row in rows}
    copies = Counter(row.prediction.caller_id or row.prediction.id for row in rows)
    missing = sum(
        prediction_id not in by_id or by_id[prediction_id].prediction.caller_id != mine
        for mine, prediction_id in receipts.predictions.items()
    )
    for prediction_id, label in receipts.feedback.items():
        row = by_id.get(prediction_id)
        missing += row is None or row.feedback is None or row.feedback.label != label
    job_rows = [f"{job}-{row}" for job, n_rows in receipts.jobs.items() for row in range(n_rows)]
    missing += sum(row not in by_id for row in job_rows)
    return Audit(
        predictions=len(receipts.predictions),
        feedback=len(receipts.feedback),
        job_rows=len(job_rows),
        missing=missing,
        doubled=len(rows) - len(copies),
    )


@dataclass(frozen=True)
class KillFigures:
    """What became of the requests around the kills."""

    kills: dict[str, int]
    audit: Audit
    n_failed: int
    silence: dict[str, list[float]]
    """Seconds without an answer after each kill, by what was killed; a restart by the test included."""


def kill_under_load(server: RunningServer, kills: int, n_clients: int = 4, seed: int = 0) -> KillFigures:
    """Kill a running server's processes at random while it answers; start it again when the server ended.

    Args:
        server: running; it is stopped in the end.
        kills: how often; each of the three kinds of process in turn, in random order.
        n_clients: that ask meanwhile.
        seed: of the order and the times.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    order = [VICTIMS[number % len(VICTIMS)] for number in range(kills)]
    rng.shuffle(order)
    silence: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
    with Load(server.url, n_clients) as load:
        receipts = load.receipts
        for victim in order:
            if len(receipts.jobs) * 10 <= sum(map(len, silence.values())):
                receipts.jobs[send_batch(server, 300)] = 300
            time.sleep(rng.uniform(0.1, 0.6))
            killed_at = time.monotonic()
            kill(server, victim)
            _wait_for_answer(receipts, time.monotonic())
            silence[victim].append(_measure_silence(receipts.moments, killed_at))
            wait_for_workers(server)
    for job_id in receipts.jobs:
        server.wait_for_job(f"/v1/batches/{job_id}", 300)  # the rows of one that failed will be missed
    server.stop()
    return KillFigures(dict(Counter(order)), audit(server.read_log(), receipts), receipts.n_failed, silence)


def kill(server: RunningServer, victim: str) -> None:
    """Kill one process; where the server can't live without it, see all of it end and start it again."""
    family = server.family()
    if victim == "worker":
        # A job's processes look alike, but are its own.
        workers = [process for process in server.workers() if process.ppid() == server.process.pid]
        random.choice(workers).kill()  # noqa: S311 - no secret
        return
    target = server.process.pid if victim == "main" else find_server_process(server).pid
    os.kill(target, signal.SIGKILL)
    server.process.wait(30)
    wait_until(lambda: not any(map(_is_alive, family)))
    server.start()


def find_server_process(server: RunningServer) -> psutil.Process:
    """The process that answers: the last that the main process forked."""
    main, *others = server.family()
    command = main.cmdline()
    return max((child for child in others if _read_command(child) == command), key=psutil.Process.create_time)


def _read_command(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):  # or a zombie
        return list(process.cmdline())
    return []


def wait_for_workers(server: RunningServer, count: int = 2) -> None:
    """Wait until lost workers are replaced."""
    wait_until(lambda: read_metric(server, "evergreen_workers") == count)


def read_metric(server: RunningServer, name: str) -> float:
    """A figure without labels from `/metrics`."""
    match = re.search(rf"^{name} (\S+)$", server.client.get("/metrics").text, re.MULTILINE)
    assert match, f"{name}: not in /metrics"
    return float(match[1])


def send_batch(server: RunningServer, n_rows: int) -> str:
    """Send a file of texts to classify, and return its job's id."""
    content = "text\n" + "".join(f"word{row % 200} the flight {row}\n" for row in range(n_rows))
    response = server.client.post("/v1/batches", files={"file": ("texts.csv", content.encode())})
    return str(response.raise_for_status().json()["id"])


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so within {seconds:g} s"
        time.sleep(0.02)


def post(server: RunningServer, text: str = "a good flight") -> httpx.Response:
    """Ask for one text, whatever the answer may be."""
    return server.client.post("/v1/classify", json={"text": text})


def _wait_for_answer(receipts: Receipts, since: float) -> None:
    wait_until(lambda: receipts.moments and receipts.moments[-1] > since)


def _measure_silence(moments: list[float], since: float) -> float:
    """The longest time between two answers after `since`."""
    after = [since, *(moment for moment in moments if moment > since)]
    return max(later - earlier for earlier, later in pairwise(after))


@contextmanager
def mount_small_disk(folder: Path, megabytes: int = 24) -> Iterator[Path]:
    """A file system of its own in a folder, for the length of a block; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True, capture_output=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(folder: Path) -> Path:
    """Write a file that leaves no room, and return it."""
    filler = folder / "filler"
    for size in (1 << 20, 4096):
        with suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(b"\0" * size):
                pass
    return filler


@dataclass(frozen=True)
class MixedFigures:
    """What a long mixed load did to a server."""

    audit: Audit
    n_failed: int
    statuses: dict[int, int]
    jobs: dict[str, int]
    memory_mb: list[float]
    """PSS of the server's processes, once a minute; jobs apart, since these come and go."""
    jobs_memory_mb: list[float]
    """PSS of the jobs that ran at that moment."""


def run_mixed_load(
    server: RunningServer, minutes: float, video: Path | None = None, n_clients: int = 4, sample_seconds: float = 60
) -> MixedFigures:
    """Ask a running server for everything that it does, and measure its memory.

    Args:
        server: running; it is stopped in the end.
        minutes: how long.
        video: a file to judge now and then, where the server has a model for it.
        n_clients: that send texts and feedback, about a hundred requests a second together.
        sample_seconds: between two looks at the memory; half-way between them a batch is sent.
    """
    memory: list[float] = []
    jobs_memory: list[float] = []
    video_jobs: list[str] = []
    end = time.monotonic() + 60 * minutes
    with Load(server.url, n_clients, pause=0.02) as load:
        while time.monotonic() < end:
            time.sleep(sample_seconds / 2)
            load.receipts.jobs[send_batch(server, 1000)] = 1000
            if video is not None and len(load.receipts.jobs) % 3 == 1:
                video_jobs.append(_send_video(server, video))
            time.sleep(sample_seconds / 2)
            serving, jobs = measure_memory(server)
            memory.append(serving)
            jobs_memory.append(jobs)
    paths = [f"/v1/batches/{job}" for job in load.receipts.jobs] + [f"/v1/videos/{job}" for job in video_jobs]
    outcomes = Counter(str(server.wait_for_job(path, 600)["status"]) for path in paths)
    server.stop()
    receipts = load.receipts
    figures = audit(server.read_log(), receipts)
    return MixedFigures(figures, receipts.n_failed, dict(receipts.statuses), dict(outcomes), memory, jobs_memory)


def _send_video(server: RunningServer, video: Path) -> str:
    response = server.client.post("/v1/videos", files={"file": (video.name, video.read_bytes())})
    return str(response.raise_for_status().json()["id"])


def measure_memory(server: RunningServer) -> tuple[float, float]:
    """PSS in MB of the server's processes, and of its jobs'."""
    sums = [0.0, 0.0]
    job_ids: set[int] = set()
    for process in server.family():  # parents come before their children
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            is_job = process.ppid() in job_ids or "evergreen.serving.job_process" in _read_command(process)
            if is_job:
                job_ids.add(process.pid)
            sums[is_job] += process.memory_full_info().pss / (1 << 20)
    return round(sums[0], 1), round(sums[1], 1)

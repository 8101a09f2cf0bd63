"""Jobs that continue after their request: each a folder on disk, to survive a restart; one of a kind at a time.

Of the servers that share the folder, as two do while one takes over from the other, one has the jobs.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Literal

from pydantic import BaseModel, ValidationError

from evergreen.files import claim, write_whole
from evergreen.logs import get_logger
from evergreen.monitoring.log import LoggedPrediction
from evergreen.serving.problems import RefusedError
from evergreen.serving.schemas import JobResponse, JobStatus

Kind = Literal["batch", "video"]
KINDS: tuple[Kind, ...] = ("batch", "video")
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "batch": (".jsonl", ".csv", ".parquet"),
    "video": (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"),
}
PATHS: dict[Kind, str] = {"batch": "/v1/batches", "video": "/v1/videos"}
JOB, PROGRESS, OUTCOME = "job.json", "progress.json", "outcome.json"
UPLOAD, ROWS, RESULTS = "upload", "log", "results"
_ROWS_AT_A_TIME = 16
"""Rows of a batch that are logged together: few, so that a live answer's row never waits long behind them."""
_PAUSE = 0.01
"""Seconds between them, for the same reason."""

logger = get_logger(__name__)


class Job(BaseModel):
    """What `job.json` holds."""

    id: str
    kind: Kind
    client: str
    file: str
    """Name as it was sent, for display only."""
    input: str
    """Name in the folder."""
    created_at: datetime
    status: JobStatus = "queued"
    detail: str | None = None
    summary: dict[str, Any] | None = None
    results: list[str] = []


class JobSpec(BaseModel):
    """What a job's process is told."""

    kind: Kind
    id: str
    client: str
    input: Path
    results: Path
    rows: Path
    """Folder for the rows of the prediction log."""
    bundle: Path
    max_memory_mb: int
    priority: Literal["idle", "normal"] = "idle"
    server: int
    """Process whose end ends the job's."""


class Outcome(BaseModel):
    """What a job's process says in the end."""

    problem: str | None = None
    summary: dict[str, Any] | None = None


LogRows = Callable[[list[LoggedPrediction]], Awaitable[None]]


class Jobs:
    """The jobs of a server.

    Args:
        folder: one folder for each job.
        bundles: folder of the bundle for each kind; a kind without one is refused.
        max_jobs: that may wait or run.
        retention: how long a finished job is kept.
        timeout: seconds after which a job is given up.
        max_memory_mb: that a job's processes may each take.
        priority: of these processes.
    """

    def __init__(
        self,
        folder: Path,
        bundles: dict[Kind, Path],
        *,
        max_jobs: int,
        retention: timedelta,
        timeout: float,
        max_memory_mb: int,
        priority: Literal["idle", "normal"],
    ) -> None:
        self._folder = folder
        self._bundles = bundles
        self._max_jobs = max_jobs
        self._retention = retention
        self._timeout = timeout
        self._max_memory_mb = max_memory_mb
        self._priority: Literal["idle", "normal"] = priority
        self._jobs: dict[str, Job] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._wake = {kind: asyncio.Event() for kind in KINDS}
        self._tasks: list[asyncio.Task[None]] = []
        self._claim: IO[str] | None = None

    async def start(self, log_rows: LogRows) -> None:
        """Take up the jobs of the last run and begin to work, once no other server has them.

        Args:
            log_rows: makes rows durable in the prediction log.
        """
        self._log_rows = log_rows
        if not self._take_up():
            logger.warning("another server has the jobs; they are taken up when it ends")
            self._tasks = [asyncio.create_task(self._wait_for_other())]

    async def _wait_for_other(self) -> None:
        while not self._take_up():
            await asyncio.sleep(0.2)

    def _take_up(self) -> bool:
        self._claim = claim(self._folder.with_name(f"{self._folder.name}.lock"))
        if self._claim is None:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        for folder in sorted(self._folder.iterdir()):
            job = _read_job(folder)
            if job is None:  # its upload was cut off
                shutil.rmtree(folder, ignore_errors=True)
                continue
            if job.status == "running":
                job.status = "queued"
            self._jobs[job.id] = job
        self._tasks += [asyncio.create_task(self._work(kind)) for kind in KINDS]
        self._tasks.append(asyncio.create_task(self._clean_up()))
        return True

    async def close(self) -> None:
        """Stop working; what runs is resumed by the next start."""
        for task in self._tasks:
            task.cancel()
        for process in list(self._processes.values()):
            _kill(process)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._claim is not None:
            self._claim.close()

    def count(self) -> Counter[tuple[str, str]]:
        """Count the jobs by kind and status."""
        return Counter((job.kind, job.status) for job in self._jobs.values())

    def check_room(self, kind: Kind) -> None:
        """Check that a job may be made.

        Raises:
            RefusedError: when there is no bundle for it, too many jobs wait, or another server has the jobs.
        """
        self._check_claim()
        if kind not in self._bundles:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"This server has no {kind} model.")
        if sum(job.status in ("queued", "running") for job in self._jobs.values()) >= self._max_jobs:
            detail = f"{self._max_jobs} jobs wait or run already. Come back later."
            raise RefusedError(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": "30"})

    async def create(self, kind: Kind, client: str, filename: str, content: AsyncIterator[bytes]) -> Job:
        """Store a file and queue the work on it.

        Raises:
            RefusedError: see `check_room`; also for an unknown format, an empty file, or when the disk is full.
        """
        name = _clean_name(filename)
        if PurePosixPath(name.lower()).suffix not in SUFFIXES[kind]:
            formats = ", ".join(SUFFIXES[kind])
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{name!r}: not a format that is read ({formats}).")
        job = Job(
            id=uuid.uuid4().hex,
            kind=kind,
            client=client,
            file=name,
            input=f"{UPLOAD}/{name}",
            created_at=datetime.now(UTC),
        )
        folder = self._folder / job.id
        try:
            (folder / UPLOAD).mkdir(parents=True)
            if not await _store(content, folder / job.input):
                raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{job.file}: empty. Send a file with content.")
            self.check_room(kind)  # others may have come while this one was sent
            self._save(job)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            logger.error("a job can't be stored", error=str(error))
            detail = "The server can't store the file. Come back later."
            raise RefusedError(HTTPStatus.INSUFFICIENT_STORAGE, detail, headers={"Retry-After": "60"}) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._jobs[job.id] = job
        self._wake[kind].set()
        return job

    def find(self, kind: Kind, client: str) -> list[Job]:
        """The jobs of a client, the newest first.

        Raises:
            RefusedError: 503 while another server has the jobs.
        """
        self._check_claim()
        mine = [job for job in self._jobs.values() if job.kind == kind and job.client == client]
        return sorted(mine, key=lambda job: job.created_at, reverse=True)

    def get(self, kind: Kind, client: str, job_id: str) -> Job:
        """Return a job.

        Raises:
            RefusedError: 404 when this client has none of that id, 503 while another server has the jobs.
        """
        self._check_claim()
        job = self._jobs.get(job_id)
        if job is None or job.kind != kind or job.client != client:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"No {kind} job has that id. It may have been removed.")
        return job

    def _check_claim(self) -> None:
        if self._claim is None:
            detail = "Another server has the jobs until it stops, as it does during an update. Come back soon."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": "2"})

    def get_result(self, job: Job, name: str) -> Path:
        """Return the path of a result.

        Raises:
            RefusedError: 404 for an unknown name, 409 while the job isn't done.
        """
        if job.status != "succeeded":
            raise RefusedError(HTTPStatus.CONFLICT, f"The job is {job.status}; it has results once it has succeeded.")
        if name not in job.results:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"No result has that name. There are: {', '.join(job.results)}.")
        return self._folder / job.id / RESULTS / name

    def cancel(self, job: Job) -> None:
        """Stop a job, or remove one that is done."""
        if job.status in ("queued", "running"):
            job.status = "canceled"
            self._save(job)
            if process := self._processes.get(job.id):
                _kill(process)
            self._clear(job)
        else:
            self._remove(job)

    def describe(self, job: Job) -> JobResponse:
        """Describe a job to its client."""
        progress = 1.0 if job.status == "succeeded" else _read_progress(self._folder / job.id / PROGRESS)
        return JobResponse(
            id=job.id,
            kind=job.kind,
            status=job.status,
            file=job.file,
            created_at=job.created_at,
            progress=progress,
            detail=job.detail,
            summary=job.summary,
            results=[f"{PATHS[job.kind]}/{job.id}/{name}" for name in job.results],
        )

    async def _work(self, kind: Kind) -> None:
        while True:
            waiting = [job for job in self._jobs.values() if job.kind == kind and job.status == "queued"]
            if not waiting:
                self._wake[kind].clear()
                await self._wake[kind].wait()
                continue
            job = min(waiting, key=lambda job: job.created_at)
            try:
                await self._run(job)
            except Exception as error:  # of one job, which must not keep the next ones waiting for ever
                self._give_up(job, error)

    def _give_up(self, job: Job, error: Exception) -> None:
        if job.status != "running":  # canceled, its files gone
            return
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        logger.error("a job can't be run", job=job.id, error=reason)
        with suppress(OSError):  # the disk may be full; the status is in memory by then
            self._finish(job, Outcome(problem=f"The server failed ({reason}). Send the file again."))

    async def _run(self, job: Job) -> None:
        folder = self._folder / job.id
        job.status = "running"
        self._save(job)
        bundle = folder / "bundle"
        if not bundle.exists():  # a copy, so that a restart resumes with the same, whatever is served by then
            partial = folder / "bundle.partial"
            shutil.rmtree(partial, ignore_errors=True)
            await asyncio.to_thread(shutil.copytree, self._bundles[job.kind].resolve(), partial)
            partial.rename(bundle)
        spec = JobSpec(
            kind=job.kind,
            id=job.id,
            client=job.client,
            input=folder / job.input,
            results=folder / RESULTS,
            rows=folder / ROWS,
            bundle=bundle,
            max_memory_mb=self._max_memory_mb,
            priority=self._priority,
            server=os.getpid(),
        )
        if job.status != "running":  # canceled while the bundle was copied
            return
        for name in (RESULTS, ROWS):
            (folder / name).mkdir(exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "evergreen.serving.job_process",
            spec.model_dump_json(),
            stdin=asyncio.subprocess.DEVNULL,
        )
        self._processes[job.id] = process
        if job.status != "running":
            _kill(process)
        deadline = time.monotonic() + self._timeout
        waiting = asyncio.create_task(process.wait())
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=0.2)
                await self._log(folder / ROWS)
                if time.monotonic() > deadline:
                    _kill(process)
                    await waiting
                    self._finish(job, Outcome(problem=f"Not done after {self._timeout:g} s. Send less at a time."))
                    return
            await self._log(folder / ROWS)
        finally:
            _kill(process)
            del self._processes[job.id]
        if job.status == "running":
            self._finish(job, _read_outcome(folder / OUTCOME, waiting.result()))
        else:
            self._clear(job)

    async def _log(self, folder: Path) -> None:
        """Move the rows that a job's process has left into the prediction log."""
        for file in sorted(folder.glob("*.jsonl")):
            with file.open("rb") as lines:
                while chunk := list(islice(lines, _ROWS_AT_A_TIME)):
                    await self._log_patiently([LoggedPrediction.from_json(line) for line in chunk])
                    await asyncio.sleep(_PAUSE)
            file.unlink()

    async def _log_patiently(self, rows: list[LoggedPrediction]) -> None:
        while True:
            try:
                await self._log_rows(rows)
            except RefusedError:  # the log is unavailable; the job waits for it
                await asyncio.sleep(1)
            else:
                return

    def _finish(self, job: Job, outcome: Outcome) -> None:
        folder = self._folder / job.id
        job.status = "failed" if outcome.problem else "succeeded"
        job.detail = outcome.problem
        job.summary = outcome.summary
        if job.status == "succeeded":
            job.results = sorted(file.name for file in (folder / RESULTS).iterdir() if file.is_file())
        self._save(job)
        self._clear(job)
        logger.info("a job ended", job=job.id, kind=job.kind, status=job.status)

    def _clear(self, job: Job) -> None:
        """Remove what a job that has ended needs no more."""
        unneeded = [UPLOAD, ROWS, "bundle", "bundle.partial"]
        if job.status != "succeeded":
            unneeded.append(RESULTS)
        for name in unneeded:
            shutil.rmtree(self._folder / job.id / name, ignore_errors=True)

    def _save(self, job: Job) -> None:
        write_whole(self._folder / job.id / JOB, job.model_dump_json().encode())

    def _remove(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        shutil.rmtree(self._folder / job.id, ignore_errors=True)

    async def _clean_up(self) -> None:
        while True:
            limit = datetime.now(UTC) - self._retention
            for job in list(self._jobs.values()):
                if job.status not in ("queued", "running") and job.created_at < limit:
                    self._remove(job)
            await asyncio.sleep(3600)


async def _store(content: AsyncIterator[bytes], path: Path) -> int:
    size = 0
    with path.open("wb") as file:
        async for part in content:
            size += len(part)
            await asyncio.to_thread(file.write, part)
        await asyncio.to_thread(os.fsync, file.fileno())
    return size


def _clean_name(filename: str) -> str:
    """The last part of a name that a client sent, without what could mislead or hurt."""
    name = PureWindowsPath(PurePosixPath(filename).name).name
    return re.sub(r"[^\w .()\[\]-]", "_", name)[-60:].lstrip(".- ") or "file"


def _read_job(folder: Path) -> Job | None:
    try:
        return Job.model_validate_json((folder / JOB).read_bytes())
    except (OSError, ValidationError):
        return None


def _read_progress(path: Path) -> float:
    with suppress(OSError, ValueError, TypeError):
        return min(1.0, max(0.0, float(json.loads(path.read_bytes()))))
    return 0.0


def _read_outcome(path: Path, code: int) -> Outcome:
    with suppress(OSError, ValidationError):
        return Outcome.model_validate_json(path.read_bytes())
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
    return Outcome(problem=f"The job's process ended with {how}; the file may need more memory than a job may take.")


def _kill(process: asyncio.subprocess.Process) -> None:
    """End a job's process and those that it started."""
    for end, target in ((os.killpg, process.pid), (os.kill, process.pid)):  # the second before it leads a group
        with suppress(ProcessLookupError, PermissionError):
            end(target, signal.SIGKILL)

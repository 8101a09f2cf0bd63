"""`evergreen serve`: LitServe's process tree around our application.

LitServe starts the workers, restarts those that die and runs the HTTP server in a process of its own. The requests
themselves take a shorter way than its queue: docs/decisions/0011 says what that saves.
"""

import asyncio
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from litserve import LitServer

from evergreen.errors import EvergreenError
from evergreen.logs import get_logger
from evergreen.monitoring.log import LogUnavailable, PredictionLog
from evergreen.monitoring.log_writer import LogWriter
from evergreen.processors import count_processors
from evergreen.serving.app import create_app
from evergreen.serving.dispatcher import Dispatcher
from evergreen.serving.http_protocol import TimedHttpProtocol
from evergreen.serving.jobs import Jobs, Kind
from evergreen.serving.log_group import LogGroup
from evergreen.serving.metrics import ServerMetrics, StateCollector
from evergreen.serving.models import Models
from evergreen.serving.security import ApiKeys, RateLimit, SecurityError
from evergreen.serving.service import Service
from evergreen.serving.verdict_metrics import VerdictCollector
from evergreen.serving.worker import TextAPI
from evergreen.settings import ServingSettings, Settings

logger = get_logger(__name__)

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


class ServerError(EvergreenError):
    """The server can't start, or has ended; the message says why."""


def serve(settings: Settings, serving: ServingSettings, text: Path, video: Path, reports: Path) -> None:
    """Serve until told to stop; open requests are answered first.

    Args:
        text: folder of the text bundle.
        video: folder of the video bundle; it may be missing.
        reports: folder of the monitor's reports.

    Raises:
        BundleError: when a bundle is damaged.
        SecurityError: when keys or limits are set wrongly, or everyone could ask from everywhere.
        LogError: when the prediction log can't be opened.
        ServerError: when the port is taken, or the server process died.
    """
    keys = ApiKeys.load(serving)
    if serving.host != "127.0.0.1" and not keys.hashes and not serving.allow_anonymous:
        raise SecurityError(
            f"EVERGREEN_HOST is {serving.host}, and no API key is set. Make one with: evergreen keys create NAME; or "
            "set EVERGREEN_ALLOW_ANONYMOUS=true where only those who may ask can reach the server."
        )
    state = settings.state_dir.resolve() / "serving"
    models = Models(text, video, state / "bundles")
    log = PredictionLog(settings.log_url, settings.log_text)
    try:
        log.migrate()
    except LogUnavailable:
        if settings.log_unavailable == "refuse":
            raise
        logger.warning("the prediction log can't be reached yet; rows are kept in files until it can")
    with tempfile.TemporaryDirectory(prefix="evergreen-") as sockets:
        service = _build_service(settings, serving, keys, models, log, state, Path(sockets), reports)
        address = Path(sockets) / "workers"
        lone_threads = min(serving.lone_threads, count_processors())
        _Server(TextAPI(address, models.current, lone_threads, settings.log_level), service).serve()


def _build_service(
    settings: Settings,
    serving: ServingSettings,
    keys: ApiKeys,
    models: Models,
    log: PredictionLog,
    state: Path,
    sockets: Path,
    reports: Path,
) -> Service:
    metrics = ServerMetrics()
    writer = LogWriter(log, state / "spool", settings.log_unavailable)
    bundles: dict[Kind, Path] = {"batch": models.current}
    if models.video_folder:
        bundles["video"] = models.video_folder.resolve()
    jobs = Jobs(
        state / "jobs",
        bundles,
        max_jobs=serving.max_jobs,
        retention=timedelta(days=serving.job_retention_days),
        timeout=serving.job_timeout,
        max_memory_mb=serving.max_job_memory_mb,
        priority=serving.job_priority,
    )
    dispatcher = Dispatcher(sockets / "workers", serving.batch_size, serving.max_queue, metrics.observe_batch)
    metrics.registry.register(StateCollector(dispatcher, writer, jobs))
    metrics.registry.register(VerdictCollector(reports))
    return Service(
        settings=serving,
        models=models,
        keys=keys,
        rate_limit=RateLimit(serving.rate_limit),
        metrics=metrics,
        dispatcher=dispatcher,
        log=log,
        writer=writer,
        log_group=LogGroup(writer),
        jobs=jobs,
        reports=reports,
        refuses_unlogged=settings.log_unavailable == "refuse",
    )


class _ManagerToEnd:
    """LitServe's manager process, which threads use until they have ended."""

    users = ("litserve-monitoring", "evergreen-watch", "evergreen-stop")
    """Names of these threads."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def shutdown(self) -> None:
        """Wait for the threads that use the manager, then end it."""
        for thread in threading.enumerate():
            if thread.name in self.users and thread is not threading.current_thread():
                thread.join(5)
        self._manager.shutdown()


class _Server(LitServer):
    """LitServe with our application in place of its own."""

    def __init__(self, api: TextAPI, service: Service) -> None:
        settings = service.settings
        workers = settings.workers or count_processors()
        super().__init__(
            api, accelerator="cpu", workers_per_device=workers, restart_workers=True, timeout=settings.request_timeout
        )
        self.monitor_internal = 0.5  # seconds after which a dead worker is noticed
        self.uvicorn_graceful_timeout = int(settings.request_timeout + settings.drain_seconds) + 1
        self._service = service
        self._api_process: multiprocessing.Process | None = None
        self._is_stopping = False
        self._holds_stop = False
        self.app = create_app(service, self._run_parts)

    def serve(self) -> None:
        """Serve until SIGTERM or Ctrl-C."""
        settings = self._service.settings
        os.register_at_fork(after_in_child=_set_signals_of_fork)
        gc.freeze()  # what the forks share is not touched by their collectors, so it stays shared
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._forward)
        try:
            with suppress(KeyboardInterrupt):
                self.run(
                    host=settings.host,
                    port=settings.port,
                    num_api_servers=1,
                    generate_client_file=False,
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    timeout_keep_alive=75,  # longer than the balancers before it
                    http=partial(TimedHttpProtocol, timeout=settings.body_timeout),
                    ws="none",
                )
        finally:
            _end_children()
        if not self._is_stopping:
            raise ServerError("the server process ended by itself; its log may say why. Start it again.")

    def _stop(self, _number: int, _frame: Any) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            if not self._holds_stop:
                raise KeyboardInterrupt  # which LitServe takes for the order to stop

    def _forward(self, number: int, _frame: Any) -> None:
        if self._api_process is not None and self._api_process.pid:
            os.kill(self._api_process.pid, number)

    def _start_server(self, *args: Any, **kwargs: Any) -> dict[int, Any]:
        self._holds_stop = True  # LitServe would forget the server process: it stops those that this returns
        workers: dict[int, Any] = super()._start_server(*args, **kwargs)
        self._api_process = workers[0]
        # LitServe watches its workers only; without the server process the rest is of no use.
        threading.Thread(target=self._watch, args=(workers[0],), name="evergreen-watch", daemon=True).start()
        return workers

    def _start_worker_monitoring(self, *args: Any, **kwargs: Any) -> None:
        super()._start_worker_monitoring(*args, **kwargs)
        self._holds_stop = False
        if self._is_stopping:
            raise KeyboardInterrupt

    def _perform_graceful_shutdown(self, manager: Any, *args: Any, **kwargs: Any) -> None:
        """Tell the thread that restarts workers to end: it would restart what is stopped, or miss the manager."""
        if self._shutdown_event is not None:
            # By a thread with a connection of its own: this one's still waits for the event.
            threading.Thread(target=self._shutdown_event.set, name="evergreen-stop", daemon=True).start()
        super()._perform_graceful_shutdown(_ManagerToEnd(manager), *args, **kwargs)

    def _watch(self, process: Any) -> None:
        wait([process.sentinel])  # not join, which would take its exit code from LitServe
        if self._shutdown_event is not None:
            self._shutdown_event.set()

    @asynccontextmanager
    async def _run_parts(self, _app: FastAPI) -> AsyncIterator[None]:
        """Start the parts in the server process, and stop them after its last answer."""
        service = self._service
        loop = asyncio.get_running_loop()
        reload_lock = asyncio.Lock()

        async def reload() -> None:
            async with reload_lock:
                await _reload(service)

        stop: Any = signal.getsignal(signal.SIGTERM)

        def drain() -> None:
            service.is_draining = True
            loop.call_later(service.settings.drain_seconds, stop, signal.SIGTERM, None)

        loop.add_signal_handler(signal.SIGTERM, drain)
        loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(reload()))
        parent = os.getppid()
        watch = asyncio.create_task(_end_with(parent, drain))
        service.writer.start()
        await service.dispatcher.start()
        await service.jobs.start(service.write_log)
        try:
            yield
        finally:
            watch.cancel()
            await service.jobs.close()
            service.dispatcher.close()
            await asyncio.to_thread(service.writer.close, 10.0)


def _end_children() -> None:
    """End what LitServe started and has not stopped, as when it is stopped while it starts: exit would wait for it."""
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(5)
        if child.is_alive():
            child.kill()


def _set_signals_of_fork() -> None:
    """Let a forked process end by a signal, without the main process's handlers, also when that process is killed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _end_with(parent: int, stop: Any) -> None:
    """Stop when the process that started this one is gone: nobody would restart workers any more."""
    while os.getppid() == parent:
        await asyncio.sleep(1)
    stop()


async def _reload(service: Service) -> None:
    """Take up the bundle that now lies in the folder; one that can't be used changes nothing."""
    try:
        bundle = await asyncio.to_thread(service.models.copy_new)
        await service.dispatcher.reload(bundle.folder)
    except (EvergreenError, OSError, TimeoutError) as error:
        service.metrics.reloads.labels("refused").inc()
        logger.error("the new bundle is refused, the old one stays", error=str(error))
        return
    await asyncio.to_thread(service.models.switch, bundle)
    service.metrics.reloads.labels("taken up").inc()
    logger.warning("a new bundle is served", version=bundle.manifest.version, run=bundle.manifest.run)

"""Writes to the prediction log from one thread: what waits is committed together, and acknowledged once durable."""

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evergreen.logs import get_logger
from evergreen.monitoring.log import Feedback, LoggedPrediction, LogUnavailable, PredictionLog
from evergreen.monitoring.log_database import LogError, describe_error
from evergreen.monitoring.log_spool import Rows, Spool

__all__ = ["LogUnavailable", "LogWriter", "WriterState"]

log = get_logger(__name__)

GROUP_ROWS = 1000
"""Rows committed together at most."""
MAX_PENDING_ROWS = 50_000
"""Rows that may wait; more are refused."""
STALL_SECONDS = 15.0
"""A commit that takes longer counts as an unavailable log: longer than any of the database's timeouts."""
PROBE_SECONDS = 1.0
"""Between two attempts to write to an unavailable log; at first less."""
RESCAN_SECONDS = 30.0
"""Between two looks for files that a process left which died."""


@dataclass(frozen=True, slots=True)
class WriterState:
    """What a writer does now.

    Attributes:
        available: whether the database takes rows.
        pending: rows that wait to be durable.
        spooled: rows in files, which wait for the database.
        last_error: why the log was unavailable last, without credentials; None before the first time.
        lag_seconds: how long the oldest pending row has waited.
    """

    available: bool
    pending: int
    spooled: int
    last_error: str | None
    lag_seconds: float


@dataclass(slots=True)
class _Item:
    predictions: Sequence[LoggedPrediction]
    feedback: Sequence[Feedback]
    submitted: float
    future: "Future[None]" = field(default_factory=Future)

    @property
    def rows(self) -> Rows:
        return self.predictions, self.feedback

    def __len__(self) -> int:
        return len(self.predictions) + len(self.feedback)


class LogWriter:
    """Takes rows from any thread; its own thread starts with the first, in the process that uses it.

    Args:
        log: where rows go.
        spool_dir: for rows that wait for the database; what is there from before is moved as well.
        unavailable: while the database can't be written, refuse rows or keep them in files.
    """

    def __init__(self, log: PredictionLog, spool_dir: Path, unavailable: Literal["refuse", "spool"]) -> None:
        self.log = log
        self.spool_dir = spool_dir
        self.unavailable = unavailable
        self._reset()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.log, self.spool_dir, self.unavailable)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[_Item] = deque()
        self._n_pending = 0
        self._oldest: float | None = None  # of the group that is being written
        self._thread: threading.Thread | None = None
        self._prober: threading.Thread | None = None
        self._closing = False
        self._available = True
        self._recovering = True  # until what was left in the spool is moved
        self._next_scan = 0.0
        self._last_error: str | None = None
        inherited, self._spool = getattr(self, "_spool", None), Spool(self.spool_dir)
        if inherited is not None:
            inherited.release()  # else the file stays locked as long as the fork lives

    def start(self) -> None:
        """Start the thread now, so that what a process left in the spool is moved without waiting for a row."""
        with self._get_condition():
            self._ensure_thread()

    def _get_condition(self) -> threading.Condition:
        if self._pid != os.getpid():  # a fork has neither the threads nor, for sure, free locks
            self._reset()
        return self._changed

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
            self._thread.start()

    def submit(self, predictions: Iterable[LoggedPrediction] = (), feedback: Iterable[Feedback] = ()) -> "Future[None]":
        """Write rows; the future completes once they are durable, and can't be canceled.

        Args:
            predictions: with the cleaned text, as for `PredictionLog.insert`.
            feedback: as for `PredictionLog.write`.

        Returns:
            A future that fails with LogUnavailable when the rows could be kept nowhere, or with LogError when the
            database refuses one of them.
        """
        item = _Item(list(predictions), list(feedback), time.monotonic())
        item.future.set_running_or_notify_cancel()
        with self._get_condition():
            if problem := self._find_refusal(item):
                item.future.set_exception(LogUnavailable(problem))
            else:
                self._ensure_thread()
                self._waiting.append(item)
                self._n_pending += len(item)
                self._changed.notify_all()
        return item.future

    def _find_refusal(self, item: _Item) -> str | None:
        if self._closing:
            return "prediction log: closed. Start the server again."
        if self._n_pending and self._n_pending + len(item) > MAX_PENDING_ROWS:
            return f"prediction log: {self._n_pending} rows wait already. Submit fewer at a time."
        if self._is_stalled():
            return f"prediction log: no answer for {STALL_SECONDS:.0f} s. Check the database."
        if not self._available and self.unavailable == "refuse":
            return self._last_error or "prediction log: unavailable. Check the database."
        return None

    def _is_stalled(self) -> bool:
        return self._measure_lag() > STALL_SECONDS

    def _measure_lag(self) -> float:
        oldest = self._oldest
        if oldest is None and self._waiting:
            oldest = self._waiting[0].submitted
        return 0.0 if oldest is None else time.monotonic() - oldest

    @property
    def state(self) -> WriterState:
        """What the writer does now, for readiness checks and metrics."""
        with self._get_condition():
            available = self._available and not self._is_stalled()
            return WriterState(available, self._n_pending, self._spool.rows, self._last_error, self._measure_lag())

    def close(self, timeout: float = 10.0) -> None:
        """Take no more rows, and write those that wait; what isn't written in time fails.

        Args:
            timeout: in seconds.
        """
        with self._get_condition():
            self._closing = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout)
            with self._changed:
                left, self._waiting = list(self._waiting), deque()
            self._fail(left, LogUnavailable("prediction log: closed before the row was written. Submit it again."))

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._closing and not self._has_spool_work():
                    # While all is well, only to look for files that a process left.
                    self._changed.wait(RESCAN_SECONDS)
                group = self._take_group()
                if not group and self._closing:
                    break
            if group:
                self._write_group(group)
            if self._has_spool_work():
                self._drain()
        self._spool.release()

    def _has_spool_work(self) -> bool:
        return self._available and (self._recovering or time.monotonic() >= self._next_scan)

    def _take_group(self) -> list[_Item]:
        """Take what waits, GROUP_ROWS rows at most unless one item alone has more."""
        group: list[_Item] = []
        n_rows = 0
        while self._waiting and (not group or n_rows + len(self._waiting[0]) <= GROUP_ROWS):
            item = self._waiting.popleft()
            group.append(item)
            n_rows += len(item)
        self._oldest = group[0].submitted if group else None
        return group

    def _write_group(self, group: list[_Item]) -> None:
        # While spooled rows are moved, later ones queue behind them.
        if not self._available or (self.unavailable == "spool" and self._spool.rows):
            self._keep(group)
            return
        try:
            self._commit(group)
        except LogUnavailable as error:
            self._note_unavailable(error)
            self._keep(group)
        except Exception as error:  # whatever it is, the callers hear of it and the thread goes on
            self._write_singly(group, error)
        else:
            self._succeed(group)

    def _commit(self, group: Sequence[_Item]) -> None:
        predictions = [row for item in group for row in item.predictions]
        feedback = [row for item in group for row in item.feedback]
        self.log.write(predictions, feedback)

    def _write_singly(self, group: list[_Item], error: Exception) -> None:
        """Save the rows of a group from the one that can't be written."""
        if len(group) == 1:
            self._fail(group, _as_log_error(error))
            return
        for item in group:
            self._write_group([item])

    def _keep(self, group: list[_Item]) -> None:
        """Spool rows, or refuse them."""
        if self.unavailable == "refuse":
            self._fail(group, LogUnavailable(self._last_error or "prediction log: unavailable. Check the database."))
            return
        try:
            policy = self.log.apply_policy
            self._spool.append([([policy(row) for row in item.predictions], item.feedback) for item in group])
        except OSError as error:
            problem = f"{self.spool_dir}: rows can't be kept there ({describe_error(error)}). Make room or correct it."
            log.error("prediction log can't be spooled", problem=problem)
            self._fail(group, LogUnavailable(f"{self._last_error} {problem}"))
        except Exception as error:  # a value that is no JSON
            if len(group) == 1:
                self._fail(group, _as_log_error(error))
                return
            for item in group:
                self._keep([item])
        else:
            self._succeed(group)

    def _succeed(self, group: list[_Item]) -> None:
        self._forget(group)
        for item in group:
            item.future.set_result(None)

    def _fail(self, group: list[_Item], error: LogError) -> None:
        self._forget(group)
        for item in group:
            item.future.set_exception(error)

    def _forget(self, group: list[_Item]) -> None:
        with self._changed:
            self._n_pending -= sum(map(len, group))
            self._oldest = None

    def _note_unavailable(self, error: LogError) -> None:
        with self._changed:
            self._last_error = str(error)
            if not self._available:
                return
            self._available, self._recovering = False, True
            self._prober = threading.Thread(target=self._probe, name="prediction-log-probe", daemon=True)
        log.error("prediction log unavailable", problem=str(error), rows=self.unavailable)
        self._prober.start()

    def _probe(self) -> None:
        """Try until the log can be written; a thread of its own, since each attempt may wait for its timeout."""
        pause = PROBE_SECONDS / 10
        while not self._closing:
            time.sleep(pause)
            pause = min(2 * pause, PROBE_SECONDS)
            try:
                self.log.migrate()  # the database may be a new one, or never have been reached
                self.log.probe()
            except LogError as error:
                self._last_error = str(error)
            except Exception as error:  # the thread must live
                self._last_error = describe_error(error)
            else:
                break
        else:
            return
        log.warning("prediction log available again")
        with self._changed:
            self._available = True
            self._changed.notify_all()

    def _drain(self) -> None:
        """Move spooled rows; between two chunks serve those who wait."""
        self._next_scan = time.monotonic() + RESCAN_SECONDS
        # The last few rows are moved without a break: under steady traffic there would be new ones for ever.
        serves = not 0 < self._spool.rows <= GROUP_ROWS
        try:
            for _ in self._spool.drain(self._replay):
                if self._closing:
                    return  # the next process moves the rest
                with self._changed:
                    group = self._take_group() if serves else []
                if group:
                    self._write_group(group)
        except LogUnavailable as error:
            self._note_unavailable(error)
        except Exception as error:  # an unreadable folder, say; look again later
            log.error("spool can't be moved", problem=describe_error(error))
            self._recovering = False
        else:
            # Rows that came meanwhile are in a new file: then once more.
            self._recovering = self._spool.rows > 0

    def _replay(self, rows: Rows) -> None:
        """Move rows into the database: those that are there already stay as they are."""
        predictions, feedback = rows
        try:
            self.log.write(predictions, feedback, replayed=True)
        except LogUnavailable:
            raise
        except LogError as error:
            if len(predictions) + len(feedback) == 1:
                self._spool.reject(rows, str(error))
                return
            for row in predictions:
                self._replay(([row], []))
            for label in feedback:
                self._replay(([], [label]))


def _as_log_error(error: Exception) -> LogError:
    return error if isinstance(error, LogError) else LogError(f"prediction log: {describe_error(error)}")

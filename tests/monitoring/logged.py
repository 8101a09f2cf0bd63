"""Rows for the tests of the prediction log, and the process that they kill."""

import multiprocessing
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from evergreen.monitoring.log import LoggedPrediction, PredictionLog
from evergreen.monitoring.log_writer import LogWriter

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def make_row(age_days: float = 0, **fields: Any) -> LoggedPrediction:
    values: dict[str, Any] = {
        "id": uuid.uuid4().hex,
        "kind": "text",
        "source": "live",
        "label": "negative",
        "probabilities": {"negative": 0.75, "positive": 0.25},
        "model": "text 1.2.3 abc",
        "observed_at": NOW - timedelta(days=age_days),
        "text": "late again",
    }
    return LoggedPrediction(**values | fields)


def open_and_write(url: str, ids: list[str]) -> None:
    log = PredictionLog.open(url)
    log.insert([make_row(id=name) for name in ids])


def open_at_once(url: str) -> None:
    """Open a new log from four processes, each of which writes a row of its own and one that all write."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=open_and_write, args=(url, [f"{number}", "same"])) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def submit_for_ever(url: str, spool: str, unavailable: Any) -> None:
    """Submit from several places at once; print each id once it is acknowledged."""
    writer = LogWriter(PredictionLog(url), Path(spool), unavailable)
    while True:
        rows = [make_row() for _ in range(7)]
        futures = [writer.submit([row]) for row in rows]
        for row, future in zip(rows, futures, strict=True):
            future.result(30)
            print(row.id, flush=True)


if __name__ == "__main__":
    submit_for_ever(*sys.argv[1:])

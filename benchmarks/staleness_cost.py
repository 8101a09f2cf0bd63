"""What a look of the monitor costs: time and memory, by texts in the windows and rows in the log.

Run it after `dvc repro`, with nothing else running: python benchmarks/staleness_cost.py [--rows N …]
"""

import argparse
import resource
import time
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from record import save_result

from evergreen.monitoring.log import LoggedPrediction, PredictionLog
from evergreen.monitoring.monitor import Monitor
from evergreen.monitoring.report import write_report
from evergreen.params import Params

DATA, BUNDLE = Path("data/text"), Path("models/text")
RESULT = Path("benchmarks/results/staleness_cost.json")
UNTIL = datetime(2026, 5, 1, tzinfo=UTC)


def fill_log(log: PredictionLog, monitor: Monitor, texts: list[str], n_rows: int, n_current: int) -> None:
    """Write predictions over four weeks, the last so many of them in the current window."""
    predictions = monitor.classifier.predict(texts)
    rng = np.random.default_rng(0)
    old = UNTIL - timedelta(days=28), timedelta(days=21)
    new = UNTIL - timedelta(days=7), timedelta(days=7)
    for first in range(0, n_rows, 5000):
        batch = []
        for i in range(first, min(first + 5000, n_rows)):
            prediction = predictions[i % len(texts)]
            start, width = new if i >= n_rows - n_current else old
            batch.append(
                LoggedPrediction(
                    f"{i:032x}",
                    "text",
                    "live",
                    prediction.label,
                    prediction.probabilities,
                    monitor.classifier.manifest.identity,
                    start + width * float(rng.random()),
                    text=texts[i % len(texts)],
                )
            )
        log.insert(batch)


def measure_look(params: Params, n_texts: int, n_rows: int) -> dict[str, Any]:
    """Time a look with as many texts in either window, and so many rows in the log, and its report."""
    pool = pd.concat([pd.read_parquet(DATA / f"{name}.parquet") for name in ("test", "train", "stream")])
    with TemporaryDirectory() as name:
        folder = Path(name)
        test = pool[:n_texts].assign(id=[str(i) for i in range(min(n_texts, len(pool)))])
        test.to_parquet(folder / "test.parquet")
        started = time.perf_counter()
        monitor = Monitor.load(params, BUNDLE, folder / "test.parquet")
        loaded = time.perf_counter() - started
        log = PredictionLog.open(f"sqlite:///{folder / 'log.db'}")
        fill_log(log, monitor, pool["text"].tolist()[-n_texts:], n_rows, n_texts)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        verdict, windows = monitor.look(monitor.read_log(log, UNTIL), UNTIL)
        looked = time.perf_counter() - started
        started = time.perf_counter()
        write_report(verdict, windows, folder / "report")
        return {
            "texts_in_each_window": n_texts,
            "rows_in_the_log": n_rows,
            "status": verdict.status,
            "load_seconds": round(loaded, 1),
            "look_seconds": round(looked, 1),
            "report_seconds": round(time.perf_counter() - started, 1),
            "peak_memory_mb_before_the_look": round(before / 1024),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 10_000_000], help="of the log")
    parser.add_argument("--texts", type=int, default=10_000, help="in each window")
    args = parser.parse_args()
    params = Params.load()
    looks = []
    for n_rows in args.rows:
        with get_context("spawn").Pool(1) as pool:  # of its own, for its own peak of memory
            looks.append(pool.apply(measure_look, (params, args.texts, n_rows)))
        print(looks[-1])
    save_result(RESULT, ["onnxruntime", "numpy", "scipy", "evidently"], looks=looks)


if __name__ == "__main__":
    main()

"""The process of one job, at the lowest priority, so that live answers do not wait for it.

python -m evergreen.serving.job_process SPEC, with a `JobSpec` as JSON
"""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evergreen.errors import EvergreenError
from evergreen.files import write_whole
from evergreen.logs import configure, get_logger, locate, redact
from evergreen.monitoring.log import LoggedPrediction
from evergreen.serving.batch import BatchProgress, run_batch
from evergreen.serving.jobs import OUTCOME, PROGRESS, JobSpec, Outcome
from evergreen.text.bundle import Bundle
from evergreen.text.runtime import Prediction
from evergreen.video.clips import Clip, Frame
from evergreen.video.detection import detect
from evergreen.video.detector import Detector, ScoredFrame

CHUNK_ROWS = 1024
"""Fewer than on the command line, so that progress is seen."""
MAX_UNLOGGED = 4
"""Chunks whose rows the server has not logged yet; a job that is further ahead waits."""


def main() -> None:
    """Do the work and leave its outcome beside the job."""
    # A group of its own, to be ended with what it starts; not a session, since the kernel gives each of those an equal
    # share of the processors, whatever the priority in it.
    os.setpgrp()
    spec = JobSpec.model_validate_json(sys.argv[1])
    configure("warning")
    if spec.priority == "idle":
        _yield_to_live_answers()
    _end_with(spec.server)
    limit = spec.max_memory_mb << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    folder = spec.results.parent
    try:
        summary = _run_batch(spec) if spec.kind == "batch" else _run_video(spec)
        outcome = Outcome(summary=summary)
    except Exception as error:
        outcome = Outcome(problem=_explain(error, spec))
    write_whole(folder / OUTCOME, outcome.model_dump_json().encode())


def _yield_to_live_answers() -> None:
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):  # runs only while nothing else wants the processor
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _end_with(server: int) -> None:
    def watch() -> None:
        while os.getppid() == server:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _explain(error: Exception, spec: JobSpec) -> str:
    """Say to the client why a job failed."""
    if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
        return f"The file needs more than {spec.max_memory_mb} MB of memory. Send a smaller one."
    if isinstance(error, EvergreenError):
        return _hide_paths(redact(str(error)), spec)
    # A bug. Only where it is: the message and the traceback may hold texts of the client.
    get_logger(__name__).error("a job failed", job=spec.id, error=type(error).__name__, frames=locate(error))
    return (
        f"The server could not process the file ({type(error).__name__}). Check it, or report this with the job's id."
    )


def _hide_paths(message: str, spec: JobSpec) -> str:
    """The client knows the file by another name, and needs to know no folder of the server."""
    return message.replace(str(spec.input), "the file").replace(str(spec.results.parent) + os.sep, "")


class _Progress:
    """Writes how much is done, a few times a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = 0.0

    def __call__(self, fraction: float) -> None:
        if time.monotonic() - self._written > 0.3:
            self._written = time.monotonic()
            partial = self._path.with_suffix(".partial-progress")
            partial.write_text(f"{fraction:.4f}", encoding="utf-8")
            partial.replace(self._path)


def _run_batch(spec: JobSpec) -> dict[str, Any]:
    progress = _Progress(spec.results.parent / PROGRESS)
    model = Bundle.load(spec.bundle).manifest.identity

    def report(done: BatchProgress) -> None:
        progress(done.done / max(done.total, 1))

    def leave_rows(rows: Sequence[int], texts: Sequence[str], predictions: Sequence[Prediction]) -> None:
        now = datetime.now(UTC)
        lines = [
            LoggedPrediction(
                id=f"{spec.id}-{row}",
                kind="text",
                source="batch",
                label=prediction.label,
                probabilities={label: round(value, 6) for label, value in prediction.probabilities.items()},
                model=model,
                text=text,
                client=spec.client,
                observed_at=now,
            ).to_json()
            for row, text, prediction in zip(rows, texts, predictions, strict=True)
        ]
        while sum(1 for _ in spec.rows.glob("*.jsonl")) >= MAX_UNLOGGED:
            time.sleep(0.05)  # rows of equal texts come faster than the log may take them beside live answers
        if lines:
            write_whole(spec.rows / f"{rows[0]:012d}.jsonl", b"".join(lines))

    target = spec.results / f"predictions{spec.input.suffix.lower()}"
    result = run_batch(
        str(spec.input),
        str(target),
        spec.bundle,
        processes=1,
        chunk_rows=CHUNK_ROWS,
        on_progress=report,
        on_chunk=leave_rows,
    )
    summary = result.model_dump(exclude={"target", "rejects"})
    return summary | {"prediction_ids": f"{spec.id}-ROW", "model": model}


class _WatchedDetector(Detector):
    """Says how far it has come."""

    progress: _Progress
    frame_count = 0

    def open(self, source: str | Path, preview: bool = False) -> Clip:
        clip = super().open(source, preview)
        clip.name = Path(source).name  # as it was sent: the client reads it in the result, and it goes to the log
        self.frame_count = clip.frame_count
        return clip

    def score(self, frames: Iterable[Frame]) -> Iterator[ScoredFrame]:
        for number, scored in enumerate(super().score(frames)):
            self.progress(number / max(self.frame_count, number + 1))
            yield scored


def _run_video(spec: JobSpec) -> dict[str, Any]:
    detector = _WatchedDetector.load(spec.bundle, num_threads=1)
    detector.progress = _Progress(spec.results.parent / PROGRESS)
    detection = detect(detector, spec.input, spec.results)
    row = LoggedPrediction(
        id=spec.id,
        kind="video",
        source="video",
        label=str(detection.answer),
        probabilities={"0": round(1 - detection.score, 6), "1": round(detection.score, 6)},
        model=detection.model,
        text=None,
        client=spec.client,
        observed_at=datetime.now(UTC),
    )
    write_whole(spec.rows / "000000.jsonl", row.to_json())
    return {
        "prediction_id": spec.id,
        "answer": detection.answer,
        "score": detection.score,
        "threshold": detection.threshold,
        "model": detection.model,
        "n_frames": detection.n_frames,
        "ranges": [part.model_dump() for part in detection.ranges],
    }


if __name__ == "__main__":
    main()

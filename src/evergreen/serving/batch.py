"""Predict all rows of a file: in constant memory, on all processors, resumed where it was stopped.

Chunks of rows are predicted by several processes and kept as part files in a folder beside the result, each written
whole or not at all and in the input's order. Once all are there they are joined. What is killed at any moment and
started again therefore repeats the chunks under way and nothing else.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from os import fsync
from pathlib import Path
from typing import Literal

from evergreen import __version__
from evergreen.bundle import MANIFEST, hash_files
from evergreen.files import rename
from evergreen.metrics import Metrics
from evergreen.processors import count_processors
from evergreen.serving.batch_files import Source, get_format, join_parts, plan_layout
from evergreen.serving.batch_parts import (
    BatchError,
    BatchUsageError,
    Parts,
    PredictedChunk,
    find_folder,
    lock,
    open_folder,
    remove_folder,
)
from evergreen.serving.batch_rows import Layout
from evergreen.serving.batch_workers import Task, predict_chunks, read_pending
from evergreen.sources import explain_unavailable, open_filesystem, upload
from evergreen.text.runtime import Classifier, Prediction

CHUNK_ROWS = 4096


class BatchInterruptedError(BatchError):
    """A batch was stopped; the same command resumes it."""

    exit_code = 130


class BatchResult(Metrics):
    """What a batch did.

    Attributes:
        target: the result's address.
        rejects: address of the report of rejected rows; None when all were predicted.
        rows: of the input.
        predicted: rows of the result.
        rejected: rows of the report.
        duplicates_fraction: share of the predicted rows whose answer was already computed for another of their chunk.
        resumed_rows: rows that an earlier, stopped run had done.
        seconds: that this run took.
        texts_per_second: that this run predicted, duplicates included.
    """

    target: str
    rejects: str | None
    rows: int
    predicted: int
    rejected: int
    duplicates_fraction: float
    resumed_rows: int
    seconds: float
    texts_per_second: float


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is.

    Attributes:
        done: of `total`, in `unit`.
        unit: B, bytes of the input, or rows.
        rows: that are done.
    """

    done: int
    total: int
    unit: Literal["B", "rows"]
    rows: int


OnProgress = Callable[[BatchProgress], None]
OnChunk = Callable[[Sequence[int], Sequence[str], Sequence[Prediction]], None]


def run_batch(
    source: str,
    target: str,
    bundle: Path,
    *,
    processes: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    restart: bool = False,
    on_progress: OnProgress | None = None,
    on_chunk: OnChunk | None = None,
) -> BatchResult:
    """Predict each row of a JSONL, CSV or Parquet file; a run that was stopped is resumed.

    Args:
        source: a path or an address as s3://…; rows have a string `text`.
        target: where the result goes, in the format that its name ends in; a row without a usable text is reported
            in a file of the same name with `.rejects.jsonl` after it.
        bundle: folder of the bundle.
        processes: that predict; None: one for each processor.
        chunk_rows: rows that are kept, or lost when killed, together.
        engine: processes of this machine, or Ray.
        ray_address: of a cluster; None starts Ray on this machine.
        restart: remove what an earlier run left, also of another job.
        on_progress: called when the run starts and after each chunk.
        on_chunk: called in this process, in order, before a chunk is kept, with the numbers of its rows, their
            cleaned texts and their predictions, without the rejected rows. After a crash in between, it is called
            with the same chunk again.

    Raises:
        BatchError: when the run can't continue; the parts stay.
        SourceError: when the input is of no use as a whole.
        BundleError: when the bundle is.
    """
    start = time.monotonic()
    opened, layout = _check(source, target, bundle, processes, chunk_rows)
    folder = find_folder(target)
    with lock(folder, target):
        open_folder(folder, _describe_job(opened, bundle, chunk_rows), target, restart)
        parts = Parts(folder)
        resumed = parts.rows
        tracker = _Tracker(opened, on_progress)
        tracker.report(parts)
        task = Task(bundle, layout, on_chunk is not None)
        try:
            with _start_engine(engine, opened, chunk_rows, parts, task, processes, ray_address) as chunks:
                for chunk in chunks:
                    if on_chunk is not None:
                        on_chunk(chunk.numbers, chunk.texts, chunk.predictions)
                    parts.add(chunk)
                    tracker.report(parts)
            opened.check_unchanged()
            rejects = _publish(parts, layout, target)
        except KeyboardInterrupt as error:
            raise BatchInterruptedError(
                f"{target}: stopped after {parts.rows:,} rows, which are kept in {folder}. "
                "Run the same command again to resume."
            ) from error
        remove_folder(folder)
    seconds = time.monotonic() - start
    return BatchResult(
        target=target,
        rejects=rejects,
        rows=parts.rows,
        predicted=parts.predicted,
        rejected=parts.rows - parts.predicted,
        duplicates_fraction=1 - parts.computed / parts.predicted if parts.predicted else 0.0,
        resumed_rows=resumed,
        seconds=seconds,
        texts_per_second=(parts.predicted - parts.resumed_predicted) / seconds,
    )


def _describe_job(source: Source, bundle: Path, chunk_rows: int) -> dict[str, str]:
    """What parts depend on: a run resumes those of the same job only."""
    return {
        "source": source.address,
        "input": f"{source.size} {source.version}",
        "bundle": hash_files(bundle / MANIFEST),
        "chunk_rows": str(chunk_rows),
        "version": __version__,
    }


class _Tracker:
    def __init__(self, source: Source, on_progress: OnProgress | None) -> None:
        self._total = source.size
        self._unit: Literal["B", "rows"] = "rows" if source.format == "parquet" else "B"
        self._on_progress = on_progress

    def report(self, parts: Parts) -> None:
        if self._on_progress is not None:
            self._on_progress(BatchProgress(parts.position, self._total, self._unit, parts.rows))


def _check(source: str, target: str, bundle: Path, processes: int | None, chunk_rows: int) -> tuple[Source, Layout]:
    """Find all that would make the work useless before it begins."""
    if chunk_rows < 1 or (processes is not None and processes < 1):
        raise BatchUsageError("the number of processes and the rows of a chunk are at least 1")
    target_format = get_format(target)
    opened = Source.open(source)
    if "://" not in target:
        path = Path(target).resolve()
        if str(path) == opened.address:
            raise BatchUsageError(f"{target}: the input and the result are one file. Name another for the result.")
        if not path.parent.is_dir():
            raise BatchUsageError(f"{target}: no folder {path.parent}. Make it, or correct the path.")
        if path.is_dir():
            raise BatchUsageError(f"{target}: a folder. Name a file in it.")
    elif target == opened.address:
        raise BatchUsageError(f"{target}: the input and the result are one object. Name another for the result.")
    labels = Classifier.load(bundle, num_threads=1).labels
    return opened, plan_layout(opened, target_format, labels)


# The result


def _publish(parts: Parts, layout: Layout, target: str) -> str | None:
    """Join the parts and put the result in its place, after the report of rejected rows."""
    rejects = f"{target}.rejects.jsonl"
    folder = parts.folder
    report, result = folder / "rejects.joined", folder / "result.joined"
    with report.open("wb") as stream:
        for block in parts.read_rejects():
            stream.write(block)
    join_parts(parts.read_outputs(), result, layout)
    rejected = parts.rows > parts.predicted
    if "://" in target:
        _replace_object(report if rejected else None, rejects)
        _replace_object(result, target)
    else:
        if rejected:
            _place(report, Path(rejects))
        else:
            Path(rejects).unlink(missing_ok=True)  # of an earlier run
        _place(result, Path(target).resolve())
    return rejects if rejected else None


def _place(file: Path, target: Path) -> None:
    with file.open("rb") as stream:
        fsync(stream.fileno())
    rename(file, target)


def _replace_object(file: Path | None, target: str) -> None:
    if file is not None:
        upload(file, target)
        return
    try:
        filesystem = open_filesystem(target)
        if filesystem.exists(target):
            filesystem.rm_file(target)
    except Exception as error:
        raise explain_unavailable(target, error) from error


@contextmanager
def _start_engine(
    engine: str,
    source: Source,
    chunk_rows: int,
    parts: Parts,
    task: Task,
    processes: int | None,
    ray_address: str | None,
) -> Iterator[Iterator[PredictedChunk]]:
    running: AbstractContextManager[Iterator[PredictedChunk]]
    if engine == "ray":
        from evergreen.serving.batch_ray import start_ray  # noqa: PLC0415 - for those who scale

        running = start_ray(source, chunk_rows, parts.count, parts.rows, task, processes, ray_address)
    elif engine == "local":
        chunks = read_pending(source, chunk_rows, parts.count, parts.rows)
        # Closed here: a pool that is left to the garbage collector may be shut down as the interpreter ends.
        running = closing(predict_chunks(chunks, task, processes or count_processors(), parts.folder))
    else:
        raise BatchUsageError(f"{engine}: not an engine. Write local or ray.")
    with running as predicted:
        yield predicted

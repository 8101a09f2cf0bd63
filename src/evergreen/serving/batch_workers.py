"""Processes that predict the chunks of a batch, and what each of them does."""

import os
import pickle
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from signal import SIG_IGN, SIGINT, signal

from evergreen.logs import get_logger
from evergreen.serving.batch_files import Source, parse_chunk, read_chunks, serialize_rows
from evergreen.serving.batch_parts import BatchError, PartHeader, PredictedChunk
from evergreen.serving.batch_rows import Chunk, Layout
from evergreen.text.runtime import Classifier


@dataclass(frozen=True)
class Task:
    """What a process needs to know to predict chunks.

    Attributes:
        bundle: folder of the bundle.
        layout: of the result.
        keep_texts: whether the caller wants each text and prediction.
    """

    bundle: Path
    layout: Layout
    keep_texts: bool


class Predictor:
    """Predicts chunks in a process of its own; equal texts of a chunk are computed once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._classifier = Classifier.load(task.bundle, num_threads=1)

    def __call__(self, chunk: Chunk) -> PredictedChunk:
        """Parse a chunk, predict it, and write it as it stands in the result."""
        rows = parse_chunk(chunk, self._task.layout)
        classifier = self._classifier
        # Texts that are equal once cleaned are one to the model.
        cleaned = [classifier.clean(text) for text in rows.texts]
        positions: dict[str, int] = {}
        distinct: list[str] = []
        for text, clean in zip(rows.texts, cleaned, strict=True):
            if clean not in positions:
                positions[clean] = len(distinct)
                distinct.append(text)
        answers = classifier.predict(distinct) if distinct else []
        predictions = [answers[positions[clean]] for clean in cleaned]
        output = serialize_rows(rows, predictions, self._task.layout)
        rejects = "".join(rows.rejects).encode()
        header = PartHeader(
            chunk.first_row,
            chunk.rows,
            len(rows.numbers),
            len(distinct),
            chunk.position,
            len(rejects),
            len(output),
        )
        kept = (rows.numbers, cleaned, predictions) if self._task.keep_texts else ([], [], [])
        return PredictedChunk(chunk.number, header, rejects, output, *kept)


def read_pending(source: Source, chunk_rows: int, first: int, first_row: int) -> Iterator[Chunk]:
    """Stream the chunks of an input from number `first` on, which must begin with row `first_row`."""
    for chunk in read_chunks(source, chunk_rows):
        if chunk.number == first and chunk.first_row != first_row:
            raise BatchError(
                f"{source.address}: read otherwise than before, at row {chunk.first_row}. Start anew with --restart."
            )
        if chunk.number >= first:
            yield chunk


def predict_chunks(chunks: Iterator[Chunk], task: Task, processes: int, folder: Path) -> Generator[PredictedChunk]:
    """Predict chunks by a pool of processes, in order; a chunk whose process dies is tried once more.

    Args:
        chunks: of the input.
        task: what a process needs.
        processes: of the pool.
        folder: where they leave what they predicted until it is taken from there.
    """
    waiting: deque[Chunk] = deque()
    futures: dict[int, Future[Path]] = {}
    failed = -1
    while True:
        with _Pool(task, processes, folder) as pool:
            futures = {number: future for number, future in futures.items() if _is_done(future)}
            try:
                while True:
                    # Held before they are submitted, which fails where a process has just died.
                    waiting.extend(islice(chunks, 2 * processes - len(waiting)))
                    if not waiting:
                        return
                    for chunk in waiting:
                        if chunk.number not in futures:
                            futures[chunk.number] = pool.submit(chunk)
                    predicted = _take(futures[waiting[0].number].result())
                    del futures[waiting.popleft().number]
                    yield predicted
            except BrokenProcessPool as error:
                chunk = waiting[0]
                if failed == chunk.number:
                    raise BatchError(
                        f"rows {chunk.first_row} to {chunk.first_row + chunk.rows - 1}: the process that predicts them "
                        "was killed twice, which is most often for want of memory. All before is kept; give the "
                        "machine more memory, or take fewer --processes, and run the same command again."
                    ) from error
                failed = chunk.number
                get_logger(__name__).warning("a process was killed; its chunks are tried again", chunk=chunk.number)


def _is_done(future: Future[Path]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _take(file: Path) -> PredictedChunk:
    predicted: PredictedChunk = pickle.loads(file.read_bytes())  # noqa: S301 - made by our own process
    file.unlink()
    return predicted


class _Pool:
    """Processes that predict, which end at once when this one stops them, or dies in any way.

    Only names of files and errors, both short, come through the executor's pipe: of what is longer than an atomic write
    (PIPE_BUF), a process that ends could leave half there, and the executor would wait for the rest for ever.
    """

    def __init__(self, task: Task, processes: int, folder: Path) -> None:
        context = get_context("spawn")
        # Only this process holds the writing end: it closes when this process does.
        self._receiver, self._sender = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            processes, context, initializer=_start_worker, initargs=(task, folder, self._receiver)
        )

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._receiver.close()

    def submit(self, chunk: Chunk) -> Future[Path]:
        return self._executor.submit(_predict_in_worker, chunk)


class _Worker:
    """What a process keeps from chunk to chunk."""

    task: Task
    folder: Path
    predictor: Predictor | None = None


def _start_worker(task: Task, folder: Path, receiver: Connection) -> None:
    signal(SIGINT, SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    _Worker.task = task
    _Worker.folder = folder

    def end_with_parent() -> None:
        with suppress(EOFError, OSError):
            receiver.recv_bytes()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _predict_in_worker(chunk: Chunk) -> Path:
    if _Worker.predictor is None:  # not as the process starts, where an error would reach nobody
        _Worker.predictor = Predictor(_Worker.task)
    file = _Worker.folder / f"{chunk.number:08d}.predicted"
    file.write_bytes(pickle.dumps(_Worker.predictor(chunk)))
    return file

"""Hands waiting texts to idle workers, a batch of what is waiting, and gives lost ones to another worker."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from evergreen.bundle import BundleError
from evergreen.logs import get_logger
from evergreen.serving.wire import Decoder, Message, encode

MAX_BATCHES = 2
"""That a worker has at a time: while the server takes up one answer, the worker is at the next batch."""
MAX_ATTEMPTS = 3
"""Workers that a text may be lost with before its request fails."""

logger = get_logger(__name__)


class OverloadedError(Exception):
    """More texts wait than may."""


class PredictionError(Exception):
    """A request's texts could not be predicted."""


@dataclass(frozen=True)
class Answer:
    """What a worker says of one text."""

    model: str
    labels: list[str]
    probabilities: list[float]
    """Of each label."""
    cleaned: str


@dataclass
class _Request:
    future: asyncio.Future[list[Answer]]
    answers: list[Answer | None]
    remaining: int


@dataclass(eq=False)
class _Item:
    text: str
    request: _Request
    index: int
    attempts: int = 0
    waiting_since: float = field(default_factory=time.monotonic)


class Dispatcher:
    """The server's end of the workers' sockets.

    Args:
        address: Unix socket that workers connect to.
        batch_size: texts that a worker gets at a time, at most.
        max_queue: texts that may wait.
        on_batch: called with the size of each batch and the seconds it took.
    """

    def __init__(
        self, address: Path, batch_size: int, max_queue: int, on_batch: Callable[[int, float], None] | None = None
    ) -> None:
        self._address = address
        self._batch_size = batch_size
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._waiting: deque[_Item] = deque()
        self.workers: list[_Worker] = []
        self.worker_losses = 0
        self._is_closing = False

    async def start(self) -> None:
        """Listen for workers."""
        loop = asyncio.get_running_loop()
        self._address.unlink(missing_ok=True)
        self._server = await loop.create_unix_server(lambda: _Worker(self), str(self._address))
        self._address.chmod(0o600)

    def close(self) -> None:
        """Stop listening and let the workers end."""
        self._is_closing = True
        self._server.close()
        for worker in self.workers:
            worker.close()

    @property
    def n_waiting(self) -> int:
        """Texts that no worker has yet."""
        return len(self._waiting)

    @property
    def wait_seconds(self) -> float:
        """How long the oldest of them has waited."""
        return time.monotonic() - self._waiting[0].waiting_since if self._waiting else 0.0

    @property
    def models(self) -> set[str]:
        """What the workers have loaded; more than one only while a new bundle is taken up."""
        return {worker.model for worker in self.workers}

    async def predict(self, texts: Sequence[str], timeout: float) -> list[Answer]:
        """Predict texts, in their order.

        Raises:
            OverloadedError: when too many texts wait already.
            PredictionError: when workers died over them, or failed.
            TimeoutError: when there is no answer in `timeout` seconds.
        """
        if self._waiting and len(self._waiting) + len(texts) > self._max_queue:
            raise OverloadedError
        request = _Request(asyncio.get_running_loop().create_future(), [None] * len(texts), len(texts))
        self._waiting.extend(_Item(text, request, index) for index, text in enumerate(texts))
        self._dispatch()
        return await asyncio.wait_for(request.future, timeout)

    async def reload(self, bundle: Path, timeout: float = 60.0) -> None:
        """Let each worker take up a bundle, one after the other, so that the rest goes on answering.

        Raises:
            BundleError: when the first one can't load it; all keep what they have.
        """
        for worker in list(self.workers):
            reply = await asyncio.wait_for(worker.ask_reload(bundle), timeout)
            if problem := reply.get("problem"):
                raise BundleError(str(problem))

    def _dispatch(self) -> None:
        lone = next((worker for worker in self.workers if worker.takes_lone), None)
        if len(self._waiting) == 1 and lone and all(worker.is_idle for worker in self.workers):
            lone.send(self._take(1), is_lone=True)
        while self._waiting and (free := [worker for worker in self.workers if worker.is_free]):
            # Shared out evenly: two workers with four texts each are done before one with eight.
            share = -(-len(self._waiting) // len(free))
            min(free, key=lambda worker: worker.n_texts).send(self._take(min(share, self._batch_size)))

    def _take(self, size: int) -> list[_Item]:
        """Take the oldest waiting text and those nearest to it in length, so that little of a batch is padding."""
        batch: list[_Item] = []
        while self._waiting and not batch:
            oldest = self._waiting.popleft()
            if not oldest.request.future.done():  # else its request was given up
                batch.append(oldest)
        if size <= 1 or not self._waiting or not batch:
            return batch
        length = len(batch[0].text)
        nearest = sorted(self._waiting, key=lambda item: abs(len(item.text) - length))[: size - 1]
        taken = set(map(id, nearest))
        self._waiting = deque(item for item in self._waiting if id(item) not in taken)
        return batch + nearest

    def _complete(self, batch: list[_Item], message: Message, seconds: float) -> None:
        if self._on_batch:
            self._on_batch(len(batch), seconds)
        if "problem" in message:
            self._fail(batch, str(message["problem"]))
            return
        model, labels = message["model"], message["labels"]
        for item, probabilities, cleaned in zip(batch, message["probabilities"], message["cleaned"], strict=True):
            request = item.request
            request.answers[item.index] = Answer(model, labels, probabilities, cleaned)
            request.remaining -= 1
            if not request.remaining and not request.future.done():
                request.future.set_result([answer for answer in request.answers if answer is not None])

    def _requeue(self, batch: list[_Item]) -> None:
        self.worker_losses += 1
        for item in reversed(batch):
            item.attempts += 1
            if item.attempts < MAX_ATTEMPTS:
                self._waiting.appendleft(item)
            else:
                self._fail([item], "the workers that had it died")
        self._dispatch()

    @staticmethod
    def _fail(batch: list[_Item], reason: str) -> None:
        for item in batch:
            if not item.request.future.done():
                item.request.future.set_exception(PredictionError(reason))


class _Worker(asyncio.Protocol):
    """One worker's connection. A worker that dies closes it, so that its texts are not waited for."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._decoder = Decoder()
        self._batches: deque[tuple[list[_Item], float]] = deque()
        self._reload: tuple[Path, asyncio.Future[Message]] | None = None
        self._is_reloading = False
        self.model = ""
        self.pid = 0
        self.takes_lone = False

    @property
    def n_texts(self) -> int:
        return sum(len(batch) for batch, _ in self._batches)

    @property
    def is_free(self) -> bool:
        return len(self._batches) < MAX_BATCHES and self._reload is None

    @property
    def is_idle(self) -> bool:
        return not self._batches and not self._is_reloading

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            self._receive(message)

    def _receive(self, message: Message) -> None:
        self.model = message.get("model", self.model)
        if not self.pid:
            self.pid = message["pid"]
            self.takes_lone = message["takes_lone"]
            self._dispatcher.workers.append(self)
        elif self._is_reloading:
            self._is_reloading = False
            if self._reload and not self._reload[1].done():
                self._reload[1].set_result(message)
            self._reload = None
        else:
            batch, since = self._batches.popleft()
            self._dispatcher._complete(batch, message, time.monotonic() - since)
            if self._reload and not self._batches:
                self._start_reload(self._reload[0])
        self._dispatcher._dispatch()

    def send(self, batch: list[_Item], is_lone: bool = False) -> None:
        if batch:
            self._batches.append((batch, time.monotonic()))
            self._transport.write(encode({"texts": [item.text for item in batch], "is_lone": is_lone}))

    def ask_reload(self, bundle: Path) -> asyncio.Future[Message]:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._reload = (bundle, future)
        if self.is_idle:
            self._start_reload(bundle)
        return future

    def _start_reload(self, bundle: Path) -> None:
        self._is_reloading = True
        self._transport.write(encode({"reload": str(bundle)}))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self in self._dispatcher.workers:
            self._dispatcher.workers.remove(self)
        if self._reload and not self._reload[1].done():
            self._reload[1].set_result({})  # the one that takes its place loads the new bundle
        batch = [item for items, _ in self._batches for item in items]
        self._batches.clear()
        if not self._dispatcher._is_closing:
            logger.warning("a worker has gone", pid=self.pid, n_texts=len(batch))
            self._dispatcher._requeue(batch)

    def close(self) -> None:
        self._transport.close()

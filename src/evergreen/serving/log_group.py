"""Rows of requests that end together, given to the log's thread as one: each hand-over costs more than a row."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

from evergreen.monitoring.log import Feedback, LogError, LoggedPrediction, LogUnavailable
from evergreen.monitoring.log_writer import LogWriter

_Item = tuple[Sequence[LoggedPrediction], Sequence[Feedback], "asyncio.Future[None]"]


class LogGroup:
    """Gathers what is written in one turn of the event loop.

    Args:
        writer: makes rows durable.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self._items: list[_Item] = []

    async def write(self, predictions: Sequence[LoggedPrediction], feedback: Sequence[Feedback] = ()) -> None:
        """Return once the rows are durable.

        Raises:
            LogUnavailable: when they can't be.
            LogError: when the database refuses one of them.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._items.append((predictions, feedback, future))
        if len(self._items) == 1:
            loop.call_soon(self._flush, loop)
        await future

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        items, self._items = self._items, []
        self._submit(items, loop)

    def _submit(self, items: list[_Item], loop: asyncio.AbstractEventLoop) -> None:
        predictions = [row for rows, _, _ in items for row in rows]
        feedback = [row for _, rows, _ in items for row in rows]
        written = self._writer.submit(predictions, feedback)
        written.add_done_callback(lambda done: loop.call_soon_threadsafe(self._finish, items, done, loop))

    def _finish(self, items: list[_Item], written: "Future[None]", loop: asyncio.AbstractEventLoop) -> None:
        error = written.exception()
        if isinstance(error, LogError) and not isinstance(error, LogUnavailable) and len(items) > 1:
            for item in items:  # one row's fault must not be the others'
                self._submit([item], loop)
            return
        for *_, future in items:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

"""HTTP as uvicorn speaks it, with limits on the time and the size of requests' heads, which it has none for."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 1 << 16


class TimedHttpProtocol(HttpToolsProtocol):
    """Close a connection whose next request does not begin and name all of its headers in time.

    Otherwise connections of clients that send a byte now and then pile up until no others are accepted.

    Args:
        args: as uvicorn gives them.
        timeout: seconds for a request's head, and for what is left of a body that was answered before its end.
        kwargs: as uvicorn gives them.
    """

    def __init__(self, *args: Any, timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._is_in_head = False
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time of the first head."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Start the time of the next head; uvicorn's own limit, between two requests, ends with the first byte."""
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The headers are larger than {MAX_HEAD_BYTES} bytes.")
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._start_timer()

    def on_message_begin(self) -> None:
        """Count what the head takes."""
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Let the routes care for the rest."""
        self._is_in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self._timeout, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

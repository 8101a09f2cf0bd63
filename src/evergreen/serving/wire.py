"""Messages between the server and its workers: JSON with its length before it, over a Unix socket."""

import json
import struct
from collections.abc import Iterator
from socket import socket
from typing import Any

_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    """Write a message as it goes over the socket."""
    body = json.dumps(message).encode()
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take what was received and yield each message that it completes."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            message = json.loads(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield message


def receive_all(connection: socket) -> Iterator[Message]:
    """Yield the messages of a blocking socket until the other side closes it."""
    decoder = Decoder()
    while data := connection.recv(1 << 16):
        yield from decoder.feed(data)

"""Frames between the main process and a front, over a socket pair.

A frame is two little-endian 32-bit lengths, its kind, a number that says what it is about, a JSON
header and a payload of raw bytes. Frames that are sent in one turn of the event loop leave
together.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, cast

from pydantic_core import from_json, to_json

_HEAD = struct.Struct("<IIiq")
# Larger payloads are written by themselves, without a copy.
_APART = 2**16


class Kind(IntEnum):
    """What a frame says; below 100 a front says it, and from 100 on the main process."""

    ASK = 1  # certify a picture; the number is the front's own
    DECODE = 2  # decode a large picture
    ADMIT = 3  # whether a picture of the size that was told is to be decoded
    LOAD = 4  # load models
    UNLOAD = 5
    SCRAPE = 6  # gather the metrics of the whole service
    CANCEL = 7  # nobody waits for that number any more
    KNOWN = 8  # what the main process announced under that number is known
    SERVING = 9  # the front listens
    SNAPSHOT = 10  # the front's metrics
    ALIVE = 11

    SETTINGS = 100
    MODELS = 101  # which models are served, from now on
    STATE = 102  # how workers run them, and what is wrong
    ANSWER = 103  # the outcome of that number
    ERROR = 104
    LOOK = 105
    SIZE = 106  # a large picture has this size
    COLLECT = 107  # the metrics are wanted
    STOP = 108  # answer what is in progress, and end
    CHECK = 109  # say that you are alive


Received = Callable[[Kind, int, Any, bytes], None]


class Wire(asyncio.Protocol):
    """One end.

    Args:
        received: called with the kind, the number, the header and the payload of each frame.
        lost: called when the other end is closed.
    """

    def __init__(self, received: Received, lost: Callable[[], None]) -> None:
        self._received, self._lost = received, lost
        # The beginning of a frame, and the bytes that are needed to go on.
        self._buffer, self._least = bytearray(), 0
        self._waiting: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    async def connect(self, connection: socket.socket) -> None:
        """Begin to speak over a connected socket, which is this end's from now on."""
        await self._loop.create_connection(lambda: self, sock=connection)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Receive frames."""
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._least:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        start, end, self._least = 0, len(data), _HEAD.size
        while end - start >= _HEAD.size:
            header, payload, kind, number = _HEAD.unpack_from(data, start)
            first = start + _HEAD.size
            middle = first + header
            if end < middle + payload:
                self._least = middle + payload - start
                break
            told = from_json(data[first:middle]) if header else None
            start = middle + payload
            self._received(Kind(kind), number, told, data[middle:start])
        self._buffer += data[start:]

    def send(self, kind: Kind, number: int = 0, header: Any = None, payload: bytes = b"") -> None:
        """Send a frame, which is lost if the other end is closed."""
        if self._transport is None:
            return
        told = b"" if header is None else to_json(header)
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting += (_HEAD.pack(len(told), len(payload), kind, number), told)
        if len(payload) < _APART:
            self._waiting.append(payload)
        else:
            self.flush()
            if self._transport is not None:
                self._transport.write(payload)

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting and self._transport is not None:
            self._transport.write(b"".join(waiting))

    def close(self) -> None:
        """Close this end, without what was not sent yet."""
        if self._transport is not None:
            self._transport.abort()

"""Reads and logs in the front process what a worker writes to standard output and error.

So a worker never waits for the reader of the service's log, and does not fail if there is none.
"""

import asyncio
import os
from typing import Self

from service import logs

# A longer line is passed on in pieces.
LONGEST_LINE = 16 * 2**10
# The time after a worker's end for its last output. Processes that it started may keep the pipe
# open.
LAST_SECONDS = 0.5


class Output(asyncio.Protocol):
    """The pipe from one worker.

    Args:
        worker: its name, for the log.

    Attributes:
        last_line: the last line that is not empty.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._rest = b""
        self._end = asyncio.Event()
        self.last_line = ""

    @classmethod
    async def open(cls, worker: str) -> tuple[Self, int]:
        """Make the pipe; return this end, and the descriptor of the worker's end."""
        reading, writing = os.pipe()
        pipe = os.fdopen(reading, "rb", buffering=0)
        loop = asyncio.get_running_loop()
        try:
            _, output = await loop.connect_read_pipe(lambda: cls(worker), pipe)
        except BaseException:
            pipe.close()
            os.close(writing)
            raise
        return output, writing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Log the complete lines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._pass_on(line)
        while len(self._rest) > LONGEST_LINE:
            self._pass_on(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]

    def connection_lost(self, error: Exception | None) -> None:
        """Log the last, incomplete line."""
        if self._rest:
            self._pass_on(self._rest)
            self._rest = b""
        self._end.set()

    async def close(self) -> None:
        """Read the last output of a worker that has ended."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._end.wait()
        except TimeoutError:
            self.abandon()

    def abandon(self) -> None:
        """Read no further."""
        self._transport.close()

    def _pass_on(self, line: bytes) -> None:
        text = line.decode(errors="backslashreplace").rstrip("\r")
        if text:
            self.last_line = text.strip() or self.last_line
            logs.pass_on(self._worker, text)

"""What a worker writes to standard output and error, read by the front process and logged.

So a worker never waits for whoever reads the service's log, nor fails when nobody does.
"""

import asyncio
import os
from typing import Self

from service import logs

# A longer line is passed on in pieces.
LONGEST_LINE = 16 * 2**10
# After a worker's end: for its last words. Whatever it started may hold the pipe open for longer.
LAST_SECONDS = 0.5


class Output(asyncio.Protocol):
    """The pipe from one worker.

    Args:
        worker: its name, for the log.

    Attributes:
        last_line: the last that is not empty.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._rest = b""
        self._end = asyncio.Event()
        self.last_line = ""

    @classmethod
    async def open(cls, worker: str) -> tuple[Self, int]:
        """Make the pipe; return this end of it, and the descriptor of the worker's."""
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
        """Pass on the lines that are complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._pass_on(line)
        while len(self._rest) > LONGEST_LINE:
            self._pass_on(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]

    def connection_lost(self, error: Exception | None) -> None:
        """Pass on what came last."""
        if self._rest:
            self._pass_on(self._rest)
            self._rest = b""
        self._end.set()

    async def close(self) -> None:
        """Take the last words of a worker that has ended."""
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

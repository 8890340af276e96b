"""A worker process: its start, its output, its end."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Self

from service.engine.output import Output
from service.engine.status import SharedStatus
from service.system.programs import environment, python

# Nothing can be done about a process that the kernel does not end, perhaps because of a device.
_ENDING_SECONDS = 10.0
# How long the end of the service waits for such a process.
_LAST_SECONDS = 1.0


class Process:
    """A worker process, and what it writes to standard output and error."""

    def __init__(self, process: asyncio.subprocess.Process, output: Output) -> None:
        self._process, self._output = process, output

    @classmethod
    async def start(
        cls,
        name: str,
        connection: socket.socket,
        status: SharedStatus,
        additional: Mapping[str, str],
    ) -> Self:
        """Start a worker.

        Args:
            name: its name.
            additional: environment variables in addition to the usual ones.
            connection: its end of the socket pair.
            status: where it shows what it is doing.

        Raises:
            OSError: the system cannot start it; nothing is left open.
        """
        output, written = await Output.open(name)
        try:
            with os.fdopen(written, "wb") as end:
                process = await asyncio.create_subprocess_exec(
                    *python("service.engine.worker", "--name", name),
                    *("--fd", str(connection.fileno()), "--status", str(status.descriptor)),
                    pass_fds=(connection.fileno(), status.descriptor),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=end,
                    stderr=end,
                    env={**environment(), **additional},
                )
        except BaseException:
            output.abandon()
            raise
        return cls(process, output)

    async def __aenter__(self) -> Self:
        """Return itself; the process is ended in any case."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Kill it if it still runs, and stop reading."""
        try:
            if self._process.returncode is None:
                self.kill()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_SECONDS):
                        await self._process.wait()
        finally:
            self._output.abandon()

    @property
    def last_line(self) -> str:
        """The last line that it wrote; empty if it wrote none."""
        return self._output.last_line

    def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self, patience: float) -> int | None:
        """Wait for its end, and kill it after ``patience`` seconds.

        Returns:
            Its exit status, below 0 the signal that ended it; None if it cannot be ended.
        """
        for seconds in (patience, _ENDING_SECONDS):
            try:
                # wait_for may swallow a cancellation before Python 3.12.
                async with asyncio.timeout(seconds):
                    code = await self._process.wait()
            except TimeoutError:
                self.kill()
            else:
                await self._output.close()
                return code
        return None

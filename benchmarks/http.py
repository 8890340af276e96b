"""A lean HTTP client for load: its own cost reduces what it measures."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Later there will be no answer.
PATIENCE_SECONDS = 1800.0
# The pause before a client with a broken connection asks again.
PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Reply:
    """One request: the answer's status and body, and seconds from its planned start.

    Status 0 is a request without an answer; the body names the reason.
    """

    status: int
    body: bytes
    seconds: float


class Connection:
    """One keep-alive connection that POSTs bodies to one path; it connects again when closed."""

    def __init__(self, host: str, port: int, path: str, media_type: str) -> None:
        self._address = host, port
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: {media_type}\r\n"
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes, planned: float | None = None) -> Reply:
        """Send ``body`` and await the answer; time counts from ``planned`` or from now."""
        start = time.perf_counter() if planned is None else planned
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                status, content = await self._post(body)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            status, content = 0, type(error).__name__.encode()
        return Reply(status, content, time.perf_counter() - start)

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._streams is None or self._streams[0].at_eof():  # closed by the server meanwhile
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(self._head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        at = lower.index(b"content-length:") + len(b"content-length:")
        length = int(lower[at : lower.index(b"\r\n", at)])
        content = await reader.readexactly(length)
        return int(head.split(b" ", 2)[1]), content

    def close(self) -> None:
        """Close the connection."""
        if self._streams:
            self._streams[1].close()
        self._streams = None


def lasting(seconds: float) -> Callable[[], bool]:
    """Return a function that is true for ``seconds`` from now on."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() < end


async def closed_loop(
    make: Callable[[], Connection],
    bodies: Sequence[bytes],
    clients: int,
    more: Callable[[], bool],
) -> tuple[list[Reply], float]:
    """Let each of ``clients`` ask repeatedly while ``more``; return replies and time taken."""
    replies: list[Reply] = []
    start = time.perf_counter()

    async def client(number: int) -> None:
        connection = make()
        index = number
        while more():
            replies.append(await connection.post(bodies[index % len(bodies)]))
            index += clients
            if not replies[-1].status:
                await asyncio.sleep(PAUSE_SECONDS)
        connection.close()

    await asyncio.gather(*map(client, range(clients)))
    return replies, time.perf_counter() - start


async def open_loop(
    make: Callable[[], Connection],
    bodies: Sequence[bytes],
    rate: float,
    seconds: float,
    seed: int | None = None,
) -> list[Reply]:
    """Send ``rate`` per second, whatever the answers do; latency includes waiting.

    They are sent at even times, or with a ``seed`` at random ones, as a Poisson process.
    """
    idle: list[Connection] = []
    count = max(1, int(rate * seconds))
    gaps = np.ones(count) if seed is None else np.random.default_rng(seed).exponential(size=count)
    planned_at = time.perf_counter() + 0.05 + np.cumsum(gaps) / rate

    async def one(number: int) -> Reply:
        planned = float(planned_at[number])
        await asyncio.sleep(max(0.0, planned - time.perf_counter()))
        connection = idle.pop() if idle else make()
        reply = await connection.post(bodies[number % len(bodies)], planned)
        idle.append(connection)
        return reply

    replies = await asyncio.gather(*map(one, range(count)))
    for connection in idle:
        connection.close()
    return replies

"""Clients that keep asking whatever happens to the service, and record how each request ended."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

# No answer takes longer; a request that does is lost.
PATIENCE = 700.0
PNG = {"Content-Type": "image/png"}


@dataclass
class Log:
    """How requests ended: ``answered`` by status, ``lost`` by reason, and when answers of 200 came.

    A refused connection is not a lost request, because nobody accepted it. ``seconds`` holds the
    time of each answer, whatever its status.
    """

    answered: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    times: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many were sent."""
        return self.answered.total() + self.lost.total()

    @property
    def failed(self) -> int:
        """How many were lost, or got anything other than the answer that was asked for."""
        return self.requests - self.answered[200]


def head(target: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a POST without the body's length and without the head's end."""
    lines = [f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **headers}.items()]
    return f"POST {target} HTTP/1.1\r\n{''.join(lines)}".encode()


class Client:
    """One keep-alive connection that POSTs; it connects again after it was closed.

    Args:
        address: of the service.
        target: path and query.
        log: where it notes how its requests end.
        headers: beside those of every request.
    """

    def __init__(
        self, address: str, target: str, log: Log, headers: Mapping[str, str] = PNG
    ) -> None:
        parts = urlsplit(address)
        self._host, self._port, self._log = str(parts.hostname), int(parts.port or 80), log
        self._head = head(target, headers)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, picture: bytes) -> int | None:
        """Ask once; return the status, or None if there was no answer."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self._ask(picture)
        except ConnectionRefusedError:
            self._log.refused += 1
            return None
        except (OSError, EOFError, TimeoutError) as error:
            self._log.lost[type(error).__name__] += 1
            self.close()
            return None
        self._log.answered[status] += 1
        self._log.seconds.append(time.monotonic() - begun)
        if status == 200:
            self._log.times.append(time.monotonic())
        return status

    async def _ask(self, picture: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(self._head + b"Content-Length: %d\r\n\r\n" % len(picture) + picture)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        at = head.index(b"content-length:") + len(b"content-length:")
        await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        """Close the connection."""
        if self._streams:
            self._streams[1].close()
        self._streams = None


@asynccontextmanager
async def closed_loop(
    address: str,
    query: str,
    pictures: Sequence[bytes],
    clients: int,
    headers: Mapping[str, str] = PNG,
) -> AsyncIterator[Log]:
    """Have ``clients`` send one request after another until the block ends; then await the last.

    A client whose connection is refused ends, because the service is gone.
    """
    log, stop = Log(), asyncio.Event()

    async def one(number: int) -> None:
        client = Client(address, f"/predict?{query}", log, headers)
        while not stop.is_set():
            refused = log.refused
            if await client.ask(pictures[number % len(pictures)]) is None:
                if log.refused > refused:
                    break
                await asyncio.sleep(0.05)
            number += clients
        client.close()

    tasks = [asyncio.create_task(one(number)) for number in range(clients)]
    try:
        yield log
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def open_loop(
    address: str,
    query: str,
    pictures: Sequence[bytes],
    rate: float,
    seconds: float,
    log: Log,
    headers: Mapping[str, str] = PNG,
) -> None:
    """Ask ``rate`` times a second at random times, come what may; return when all have ended.

    Connections are kept and reused, as balancers do.
    """
    idle = list[Client]()
    gaps = np.random.default_rng(0).exponential(1 / rate, max(1, int(rate * seconds)))
    start = time.monotonic()

    async def one(number: int) -> None:
        client = idle.pop() if idle else Client(address, f"/predict?{query}", log, headers)
        if await client.ask(pictures[number % len(pictures)]) is not None:
            idle.append(client)

    tasks = []
    for number, due in enumerate(np.cumsum(gaps)):
        wait = start + due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)
    for client in idle:
        client.close()

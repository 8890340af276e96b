"""Work on bodies that would hold the event loop up, done in threads that callers share fairly."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.decoding.queue import FairQueue
from service.engine.queue import SHARED
from service.http.guards.auth import owner, refuse_debt

T = TypeVar("T")

# What is done with so few bytes takes less than changing threads does.
SMALL = 2**16


class Bodies:
    """Threads, and who waits for them: whoever has had the least work goes first.

    Args:
        threads: how many.
        most: bodies that may wait.
    """

    def __init__(self, threads: int, most: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "bodies")
        self._queue = FairQueue(threads, most, SHARED)

    def close(self) -> None:
        """End the threads, after what they are at."""
        self._pool.shutdown()

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """Return what ``work`` returns; if its input is large, it is called in a thread.

        Args:
            size: bytes of input.
            work: to be called.

        Raises:
            FullError: too many wait already.
            Problem: ``rate-limited``: the caller has come into debt while this waited.
        """
        if size <= SMALL:
            return work()
        mine = owner()
        async with self._queue.turn(mine):
            refuse_debt()
            self._queue.count(mine, size)
            called = asyncio.get_running_loop().run_in_executor(self._pool, work)
            try:
                return await asyncio.shield(called)
            finally:
                if not called.done():  # who has left has the thread as long as it is at it
                    await asyncio.wait([called])

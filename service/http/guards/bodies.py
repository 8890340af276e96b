"""Work on bodies that would hold up the event loop, done in threads that callers share fairly."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from service.decoding.queue import FairQueue
from service.http.guards.auth import owner, refuse_debt

T = TypeVar("T")

# Work on this few bytes takes less time than changing threads.
SMALL = 2**16


class Bodies:
    """Threads, and the callers that wait for them: the one with the least work so far comes first.

    Args:
        threads: the number of threads.
        most: the number of bodies that may wait.
    """

    def __init__(self, threads: int, most: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "bodies")
        self._queue = FairQueue(threads, most)

    def close(self) -> None:
        """End the threads after their present work."""
        self._pool.shutdown()

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """Return the result of ``work``, which is called in a thread if its input is large.

        Args:
            size: bytes of input.
            work: to be called.

        Raises:
            FullError: too many already wait.
            Problem: ``rate-limited``: the caller has gone into debt while this waited.
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
                if not called.done():  # even if the client left, the thread works on
                    await asyncio.wait([called])

"""Decides whose picture is decoded next. Plain logic: no process, no picture, no clock."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from service.engine.queue import SHARED


class FullError(Exception):
    """The queue is full."""


class FairQueue:
    """Gives turns to owners of work: the one with the least work so far comes first.

    Args:
        places: the number of turns at once.
        most: the number that may wait.

    The owner ``SHARED`` stands for many, and so may have all places and the whole queue. Any other
    leaves one place free, if there are several, and has at most a quarter of the queue, because
    work in progress is not interrupted for another's.
    """

    def __init__(self, places: int, most: int) -> None:
        self._places, self._most = places, most
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._running: Counter[Hashable] = Counter()
        # The work done for owners that wait or have a turn, above the least of all.
        self._done: dict[Hashable, float] = {}

    @property
    def waiting(self) -> int:
        """The number that wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        """The number that have a turn."""
        return self._running.total()

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return self.waiting >= self._most

    @asynccontextmanager
    async def turn(self, owner: Hashable) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the block runs.

        Raises:
            FullError: too many already wait, in all or of this owner.
        """
        mine = self._waiting.get(owner, ())
        if self.full or (owner != SHARED and len(mine) >= max(1, self._most // 4)):
            raise FullError
        self._done.setdefault(owner, min(self._done.values(), default=0.0))
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(granted)
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._end(owner)
            else:
                self._leave(owner, granted)
            raise
        try:
            yield
        finally:
            self._end(owner)

    def count(self, owner: Hashable, work: float) -> None:
        """Add work done for an owner that has a turn."""
        self._done[owner] += work

    def _grant(self) -> None:
        """Give the free places to those that wait."""
        while self.running < self._places:
            able = [owner for owner in self._waiting if self._running[owner] < self._limit(owner)]
            if not able:
                return
            owner = min(able, key=lambda one: self._done[one])
            granted = self._waiting[owner].popleft()
            self._forget(owner)
            if granted.cancelled():  # it was cancelled while it waited, and does not know yet
                self._clear(owner)
                continue
            self._running[owner] += 1
            granted.set_result(None)

    def _limit(self, owner: Hashable) -> int:
        return self._places if owner == SHARED else max(1, self._places - 1)

    def _leave(self, owner: Hashable, granted: asyncio.Future[None]) -> None:
        mine = self._waiting.get(owner, ())
        if granted in mine:
            self._waiting[owner].remove(granted)
            self._forget(owner)
            self._clear(owner)

    def _end(self, owner: Hashable) -> None:
        self._running[owner] -= 1
        self._running += Counter()  # without those at zero
        self._clear(owner)
        self._grant()

    def _forget(self, owner: Hashable) -> None:
        if not self._waiting[owner]:
            del self._waiting[owner]

    def _clear(self, owner: Hashable) -> None:
        if owner not in self._waiting and not self._running[owner]:
            del self._done[owner]

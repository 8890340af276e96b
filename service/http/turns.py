"""Requests begin a few at a time, so that the event loop soon reaches everything else that waits.

The loop runs everything that is ready before it looks for new input. If a thousand requests arrived
at once and all began, a probe behind them would wait until each had done its first step.
"""

import asyncio
from collections import deque

# Requests that begin in one turn of the event loop. The first step of each takes a millisecond or
# two.
IN_A_TURN = 2


class Turns:
    """The requests that may begin in this turn of the event loop, and those that wait, in order."""

    def __init__(self) -> None:
        self._begun = 0
        self._waiting = deque[asyncio.Future[None]]()

    async def begin(self) -> None:
        """Return when the caller may begin."""
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._next, loop)
        if self._begun < IN_A_TURN:
            self._begun += 1
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the next requests begin."""
        self._begun = 0
        while self._waiting and self._begun < IN_A_TURN:
            first = self._waiting.popleft()
            if not first.done():  # otherwise it has been cancelled
                first.set_result(None)
                self._begun += 1
        if self._begun:
            loop.call_soon(self._next, loop)

"""Work for clients that may hang up before it is done."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

T = TypeVar("T")

# No standard status says that the client has left; nobody reads this one.
CLIENT_LEFT = 499


async def unless_client_leaves(request: Request, work: Awaitable[T]) -> T | None:
    """Await ``work``, but cancel it and return None as soon as the client hangs up."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_leaves(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        # An error's traceback refers to this frame: with the task, which has the error, it would be
        # a circle, and keep the whole request until garbage is collected.
        del task, leaving, work


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

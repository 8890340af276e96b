"""Work that would hold the event loop up, done in a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")

# What is done with so few bytes takes less than changing threads does.
SMALL = 2**16


async def apart(pool: Executor, size: int, work: Callable[[], T]) -> T:
    """Return what ``work`` returns; if its input is large, it is called in a thread of ``pool``.

    Args:
        pool: where.
        size: bytes of input.
        work: to be called.
    """
    if size <= SMALL:
        return work()
    return await asyncio.get_running_loop().run_in_executor(pool, work)

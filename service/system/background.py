"""Supervises background tasks, which must continue for as long as the service runs.

A task that ends with an exception tells nobody. Then its work is no longer done: workers are not
replaced, connections not closed, garbage not collected; but the service looks alive. So all such
tasks are started by :func:`keep`, and tasks that run only once by :func:`once`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)

# The pauses before a failed task is started again, by the number of failures in a row.
PAUSES = (0.1, 0.5, 1.0, 2.0)
# A failure after this long does not count as one in a row.
STEADY_SECONDS = 30.0


def keep(
    name: str, work: Callable[[], Awaitable[None]], on_broken: Callable[[str], None]
) -> asyncio.Task[None]:
    """Run work until it returns; if it fails, log the failure and start it again.

    Args:
        name: of the work.
        work: starts it; it must continue from whatever state it left.
        on_broken: called with a sentence when it fails again and again.

    Returns:
        The task; cancelling it ends the work.
    """
    return asyncio.create_task(_keep(name, work, on_broken), name=name)


def once(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run work for which nobody waits; if it fails, log the failure."""

    async def done() -> None:
        await succeeds(name, work)

    return asyncio.create_task(done(), name=name)


async def succeeds(name: str, work: Awaitable[None]) -> str:
    """Await work; return how it failed, which is logged; empty if it did not fail.

    Raises:
        asyncio.CancelledError: this task is cancelled. If only something that the work awaits was
            cancelled, nobody meant to end it, and it has failed.
    """
    try:
        await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        log.exception("work failed", work=name)
        return "what it waited for was cancelled"
    except Exception as error:
        log.exception("work failed", work=name)
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ""


async def _keep(
    name: str, work: Callable[[], Awaitable[None]], on_broken: Callable[[str], None]
) -> None:
    failures = 0
    while True:
        begun = time.monotonic()
        reason = await succeeds(name, work())
        if not reason:
            return
        failures = 1 if time.monotonic() - begun > STEADY_SECONDS else failures + 1
        if failures > len(PAUSES):
            on_broken(f"{name} failed {failures} times in a row: {reason}")
            return
        await asyncio.sleep(PAUSES[failures - 1])

"""Garbage is collected by the clock, and never stops the event loop for long."""

import asyncio
import gc
import time
import weakref
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from service.http.server import LEAST_PAUSE, MANY_REQUESTS, NEW_GARBAGE_SECONDS, _collect_garbage


class Knot:
    """An object that refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def collecting(test: Coroutine[Any, Any, bool], requests: range = range(0)) -> bool:
    """Return what ``test`` returns, collecting garbage meanwhile."""

    async def run() -> bool:
        task = asyncio.create_task(_collect_garbage(lambda: requests))
        await asyncio.sleep(0)
        assert not gc.isenabled()
        try:
            return await test
        finally:
            task.cancel()

    return asyncio.run(run())


async def freed(grown_old: bool, patience: float) -> bool:
    """Drop a knot, and return whether it was freed in time."""
    held = Knot()
    knot = weakref.ref(held)
    if grown_old:
        await asyncio.sleep(5 * NEW_GARBAGE_SECONDS)
    del held
    end = time.monotonic() + patience
    while knot() and time.monotonic() < end:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    return knot() is None


async def among_many(test: Coroutine[Any, Any, bool]) -> bool:
    """Await ``test`` while there are so many objects that a full collection takes long."""
    much = [[None] for _ in range(500_000)]
    await asyncio.sleep(2 * LEAST_PAUSE)
    try:
        return await test
    finally:
        del much


@pytest.mark.slow
def test_new_garbage_is_freed_however_much_there_is() -> None:
    assert collecting(among_many(freed(grown_old=False, patience=3)))


def test_old_garbage_is_freed() -> None:
    assert collecting(freed(grown_old=True, patience=30))


@pytest.mark.slow
def test_old_garbage_waits_while_many_requests_are_open() -> None:
    waiting = freed(grown_old=True, patience=3 * LEAST_PAUSE)
    assert not collecting(waiting, requests=range(MANY_REQUESTS + 1))


@pytest.mark.slow
def test_old_garbage_waits_while_a_full_collection_takes_long() -> None:
    assert not collecting(among_many(freed(grown_old=True, patience=10 * NEW_GARBAGE_SECONDS)))

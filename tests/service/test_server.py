"""Garbage is found by the clock, however many requests are being answered."""

import asyncio
import gc
import time
import weakref
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from service.server import NEW_GARBAGE_SECONDS, _collect_garbage

MANY = range(100_000)


class Knot:
    """Refers to itself, so that only the collector can free it."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def collecting(requests: range, test: Coroutine[Any, Any, bool]) -> bool:
    """Return what ``test`` returns, while garbage is collected."""

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
    """Drop a knot, and say whether it was freed in time."""
    held = Knot()
    knot = weakref.ref(held)
    if grown_old:
        await asyncio.sleep(5 * NEW_GARBAGE_SECONDS)
    del held
    end = time.monotonic() + patience
    while knot() and time.monotonic() < end:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    return knot() is None


def test_new_garbage_is_freed_under_any_load() -> None:
    assert collecting(MANY, freed(grown_old=False, patience=30))


def test_old_garbage_is_freed_between_requests() -> None:
    assert collecting(range(0), freed(grown_old=True, patience=30))


def test_old_garbage_waits_while_many_requests_are_answered() -> None:
    assert not collecting(MANY, freed(grown_old=True, patience=10 * NEW_GARBAGE_SECONDS))

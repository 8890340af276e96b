"""Work in the background, and what happens when it fails."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import structlog

from service.system import background
from service.system.background import PAUSES, keep, once


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSES", (0.0,) * len(PAUSES))


class Work:
    """Work that ends in a series of ways, and then goes on for ever."""

    def __init__(self, *ends: Callable[[], Awaitable[None]]) -> None:
        self.ends, self.begun = list(ends), 0
        self.goes_on = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        if self.ends:
            await self.ends.pop(0)()
        else:
            self.goes_on.set()
            await asyncio.Event().wait()


async def fail() -> None:
    raise KeyError("odd")


async def await_what_is_given_up() -> None:
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


async def be_done() -> None:
    pass


def unbroken(reason: str) -> None:
    raise AssertionError(reason)


def test_work_that_fails_is_logged_and_restarted() -> None:
    async def test() -> None:
        work = Work(fail, await_what_is_given_up, fail)
        with structlog.testing.capture_logs() as logs:
            task = keep("the work", work, unbroken)
            await asyncio.wait_for(work.goes_on.wait(), 60)
        assert work.begun == 4
        assert [(one["event"], one["work"], one["exc_info"]) for one in logs] == [
            ("work failed", "the work", True)
        ] * 3
        task.cancel()
        await asyncio.wait([task], timeout=60)
        assert task.cancelled(), "work that is told to end must end"

    asyncio.run(test())


@pytest.mark.parametrize("end", [fail, await_what_is_given_up])
def test_work_that_fails_again_and_again_is_reported(end: Callable[[], Awaitable[None]]) -> None:
    async def test() -> None:
        reasons: list[str] = []
        work = Work(*[end] * 100)
        await asyncio.wait_for(keep("the work", work, reasons.append), 60)
        assert work.begun == len(PAUSES) + 1
        [reason] = reasons
        assert reason.startswith("the work failed 5 times in a row: ")

    asyncio.run(test())


def test_finished_work_is_not_restarted() -> None:
    async def test() -> None:
        work = Work(be_done)
        await asyncio.wait_for(keep("the work", work, unbroken), 60)
        assert work.begun == 1

    asyncio.run(test())


def test_work_that_nobody_awaits_does_not_fail_unnoticed() -> None:
    async def test() -> None:
        with structlog.testing.capture_logs() as logs:
            await asyncio.wait_for(once("the work", fail()), 60)
        assert [one["work"] for one in logs] == ["the work"]

    asyncio.run(test())

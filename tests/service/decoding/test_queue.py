"""Turns of decoding: how much one client asks for delays nobody else."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.decoding.queue import FairQueue, FullError
from service.engine.queue import SHARED


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


class Crowd:
    """Clients that wait for turns, and the order in which they get them."""

    def __init__(self, places: int = 1, most: int = 1000) -> None:
        self.queue = FairQueue(places, most)
        self.order: list[object] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.go = asyncio.Event()  # nobody ends a turn before this

    async def ask(self, owner: object, work: float, times: int = 1) -> None:
        async def one() -> None:
            async with self.queue.turn(owner):
                self.order.append(owner)
                await self.go.wait()
                self.queue.count(owner, work)

        self.tasks += [asyncio.create_task(one()) for _ in range(times)]
        await asyncio.sleep(0)

    async def end(self) -> list[object]:
        self.go.set()
        await asyncio.gather(*self.tasks)
        assert (self.queue.waiting, self.queue.running) == (0, 0)
        assert not self.queue._done, "nothing is kept of clients that have left"
        return self.order


def test_a_client_that_asks_little_waits_for_one_turn_at_most() -> None:
    async def test() -> None:
        crowd = Crowd()
        await crowd.ask("greedy", 100, times=200)
        await crowd.ask("modest", 1)
        order = await crowd.end()
        assert order.index("modest") <= 2

    run(test)


def test_turns_depend_on_work_and_not_on_the_number_of_requests() -> None:
    async def test() -> None:
        crowd = Crowd()
        await crowd.ask("large", 10, times=50)
        await crowd.ask("small", 1, times=50)
        first = (await crowd.end())[:44]
        assert first.count("small") >= 8 * first.count("large")

    run(test)


def test_a_key_leaves_a_place_free_and_clients_without_keys_do_not() -> None:
    async def test() -> None:
        crowd, hold = Crowd(places=3), asyncio.Event()

        async def stay(owner: object) -> None:
            async with crowd.queue.turn(owner):
                await hold.wait()

        tasks = [asyncio.create_task(stay("key")) for _ in range(5)]
        await asyncio.sleep(0)
        assert (crowd.queue.running, crowd.queue.waiting) == (2, 3)
        await crowd.ask("other", 1)
        assert crowd.order == ["other"]
        hold.set()
        await asyncio.gather(*tasks)
        hold.clear()
        tasks = [asyncio.create_task(stay(SHARED)) for _ in range(5)]
        await asyncio.sleep(0)
        assert crowd.queue.running == 3
        hold.set()
        await asyncio.gather(*tasks, crowd.end())

    run(test)


def test_the_queue_is_bounded_and_for_a_key_by_a_quarter_of_it() -> None:
    async def test() -> None:
        crowd = Crowd(most=8)
        await crowd.ask("key", 1, times=3)  # one has a turn
        assert crowd.queue.waiting == 2
        with pytest.raises(FullError):
            async with crowd.queue.turn("key"):
                pass
        await crowd.ask(SHARED, 1, times=6)
        assert crowd.queue.full
        with pytest.raises(FullError):
            async with crowd.queue.turn("other"):
                pass
        await crowd.end()

    run(test)


def test_a_client_that_leaves_while_waiting_is_forgotten() -> None:
    async def test() -> None:
        crowd = Crowd()
        await crowd.ask("first", 1)
        await crowd.ask("second", 1, times=3)
        for task in crowd.tasks[1:3]:
            task.cancel()
        crowd.go.set()
        await asyncio.gather(*crowd.tasks, return_exceptions=True)
        assert crowd.order == ["first", "second"]
        assert (crowd.queue.waiting, crowd.queue.running) == (0, 0)
        assert not crowd.queue._done

    run(test)

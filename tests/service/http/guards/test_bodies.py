"""Threads for large bodies: a key gets at most one of two, and waits no longer than its share."""

import asyncio
import threading

import pytest

from service.decoding.queue import FullError
from service.http.guards import auth
from service.http.guards.auth import Caller
from service.http.guards.bodies import SMALL, Bodies
from service.http.guards.keys import Allowance
from service.http.problems import Problem

LARGE = SMALL + 1


def test_a_key_with_many_bodies_leaves_another_a_thread() -> None:
    bodies, go = Bodies(2, 100), threading.Event()
    begun, both = list[str](), threading.Barrier(3)

    def work(name: str) -> None:
        if not go.is_set():
            begun.append(name)
            both.wait(60)
            go.wait(60)

    async def ask(name: str, caller: Caller) -> None:
        auth._caller.set(caller)
        await bodies.run(LARGE, lambda: work(name))

    async def test() -> None:
        greedy, modest = Caller(Allowance(None)), Caller(Allowance(None))
        tasks = [asyncio.create_task(ask("greedy", greedy)) for _ in range(20)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(ask("modest", modest)))
        await asyncio.to_thread(both.wait, 60)
        assert sorted(begun) == ["greedy", "modest"]
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(test())
    bodies.close()


def test_a_key_in_debt_while_its_body_waits_is_refused() -> None:
    bodies = Bodies(2, 100)
    allowance = Allowance(1.0)
    done = []

    def work() -> None:
        done.append(allowance.take(100.0))

    async def ask() -> None:
        auth._caller.set(Caller(allowance))
        await bodies.run(LARGE, work)

    async def test() -> list[BaseException | None]:
        return await asyncio.gather(*(ask() for _ in range(10)), return_exceptions=True)

    found = asyncio.run(test())
    bodies.close()
    assert len(done) == 1
    assert [one.name for one in found if isinstance(one, Problem)] == ["rate-limited"] * 9


def test_the_queue_is_bounded_and_a_key_has_a_quarter_of_it() -> None:
    bodies, go = Bodies(1, 4), threading.Event()

    async def ask() -> None:
        await bodies.run(LARGE, lambda: go.wait(60))

    async def test() -> None:
        auth._caller.set(Caller(Allowance(None)))
        tasks = [asyncio.create_task(ask()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await ask()
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(test())
    bodies.close()


def test_a_client_that_leaves_keeps_its_thread_until_the_work_is_done() -> None:
    bodies, begun, go = Bodies(1, 4), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(60)

    async def test() -> None:
        task = asyncio.create_task(bodies.run(LARGE, work))
        assert await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        await asyncio.sleep(0.05)
        assert bodies._queue.running == 1
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bodies._queue.running == 0

    asyncio.run(test())
    bodies.close()

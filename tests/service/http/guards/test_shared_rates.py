"""Keys' rates through a real Redis."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.http.guards.keys import BURST_SECONDS, Allowance, Key
from service.http.guards.shared_rates import SharedAllowance, SharedRates

pytestmark = pytest.mark.slow

HANG_SECONDS = 300
RATE = 1000.0
# A rate so low that nothing comes back within a test.
SLOW = 1e-6


def key(rate: float | None, digit: str = "0") -> Key:
    return Key(
        name="shop",
        sha256=digit * 64,
        scopes=frozenset({"predict"}),
        rate=rate,
        created=datetime.now(UTC),
    )


class Server:
    """A Redis server; it forgets everything when it is stopped."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._folder = folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: tests/debian-packages.txt names its package"
        command = [program, "--port", str(self.port), "--save", "", "--dir", str(self._folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + HANG_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end, "Redis does not start"
                time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


@asynccontextmanager
async def services(url: str, count: int = 2) -> AsyncIterator[list[SharedRates]]:
    found = [SharedRates(url) for _ in range(count)]
    tasks = [asyncio.create_task(one.keep()) for one in found]
    try:
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def level(allowance: Allowance) -> float:
    allowance.wait()
    return allowance._level


def test_what_one_service_gives_another_does_not_give_again(redis: Server) -> None:
    most = SLOW * BURST_SECONDS

    async def share() -> None:
        async with services(redis.url, 3) as rates:
            one, two, three = (each.allowance(key(SLOW)) for each in rates)
            other = rates[0].allowance(key(SLOW, "1"))
            one.take(300)
            two.take(100)
            assert one.wait() > 0  # at once, whatever Redis says
            assert three.wait() == 0
            expected = pytest.approx(most - 400)
            await until(lambda: all(level(each) == expected for each in (one, two, three)))
            two.take(-60)  # a refund
            expected = pytest.approx(most - 340)
            await until(lambda: all(level(each) == expected for each in (one, two, three)))
            assert level(other) == pytest.approx(most)

    asyncio.run(share())


def test_together_services_give_a_key_its_rate(redis: Server) -> None:
    async def share() -> float:
        async with services(redis.url) as rates:
            allowances = [each.allowance(key(RATE)) for each in rates]
            given, began = 0.0, time.monotonic()
            while time.monotonic() - began < 3.0:
                for each in allowances:
                    if each.wait() == 0:
                        each.take(50)
                        given += 50
                await asyncio.sleep(0.005)
            await until(lambda: all(each._untold == each._telling == 0 for each in allowances))
            # What is left or owed belongs to it: over time it evens out.
            left = min(map(level, allowances))
            return given + left - RATE * (time.monotonic() - began)

    burst = asyncio.run(share())
    # Redis was told a little later than draws were taken, never earlier.
    assert burst == pytest.approx(RATE * BURST_SECONDS, abs=0.2 * RATE)


def test_sharing_ends_at_any_moment(redis: Server) -> None:
    """Of 300 that ended so, 28 went on: the client of Redis had swallowed the cancellation."""

    async def end() -> set[asyncio.Task[None]]:
        tasks = set()
        for moment in range(80):
            rates = SharedRates(redis.url)
            kept = rates.allowance(key(RATE))
            task = asyncio.create_task(rates.keep())
            await asyncio.sleep(moment * 1e-4)
            assert kept.rate == RATE
            task.cancel()
            tasks.add(task)
        _, unended = await asyncio.wait(tasks, timeout=HANG_SECONDS)
        return unended

    assert asyncio.run(end()) == set()


def test_a_key_without_a_rate_asks_nothing_of_redis() -> None:
    rates = SharedRates("redis://127.0.0.1:1/0")
    assert rates.allowance(key(None)).rate is None
    assert list(rates._allowances) == []


def test_without_redis_each_service_counts_by_itself(redis: Server) -> None:
    async def share() -> None:
        async with services(redis.url) as rates:
            one, two = (each.allowance(key(SLOW)) for each in rates)
            await until(lambda: all(each.connected is True for each in rates))
            redis.stop()
            await until(lambda: all(each.connected is False for each in rates))
            one.take(300)
            assert one.wait() > 0
            assert two.wait() == 0
            redis.start()
            await until(lambda: all(each.connected is True for each in rates))
            # What was taken meanwhile is told only up to what may be drawn at once.
            await until(lambda: all(abs(level(each)) < 1e-3 for each in (one, two)))
            two.take(100)
            await until(lambda: level(one) < -99)

    asyncio.run(share())


def test_a_redis_that_hangs_delays_nobody(redis: Server) -> None:
    async def share() -> None:
        async with services(redis.url, 1) as [rates]:
            allowance = rates.allowance(key(SLOW))
            await until(lambda: rates.connected is True)
            os.kill(redis.process.pid, signal.SIGSTOP)
            try:
                await until(lambda: rates.connected is False)
                assert allowance.wait() == 0
            finally:
                os.kill(redis.process.pid, signal.SIGCONT)
            await until(lambda: rates.connected is True)

    asyncio.run(share())


def test_another_rate_begins_anew() -> None:
    assert SharedAllowance(key(1.0)).name != SharedAllowance(key(2.0)).name
    assert SharedAllowance(key(1.0), 7).number == 7

"""Workers that die at the worst moments: no other picture is lost, and nothing stays open."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop

from models.bundle import ZOO
from models.certification.question import Question
from service.catalogue import Catalogue
from service.decoding.reduction import Reduced
from service.engine.engine import Engine
from service.engine.queue import Job
from service.http.metrics import Metrics
from tests.chaos.processes import workers
from tests.e2e.conftest import PLAIN, START_SECONDS, Service

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png"}
DEATHS = 5


def job() -> Job:
    picture = Reduced(28, 28, "L", 8, [], False, bytes(784))
    return Job(0, picture, Question(0.95, 100, None, "l2"), 10, time.monotonic() + 600)


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def with_engine(
    test: Callable[[Engine], Awaitable[None]], folder: Path = ZOO / "mnist-cnn", **settings: Any
) -> None:
    """Run a test on an engine with real workers, on the event loop that services use."""
    broken: list[str] = []
    given: dict[str, Any] = {
        "devices": ["cpu"],
        "precision": "float32",
        "provider": "pytorch",
        "int8": True,
        "pass_size": 128,
        "compiled": False,
        "queue": 100,
        "shrink": False,
        "stall_seconds": 10,
        "load_seconds": 300,
        "check_seconds": 60,
        "observer": Metrics(),
        "on_broken": broken.append,
    }

    async def run() -> None:
        engine = Engine(Catalogue([folder]), **(given | settings))
        engine.start()
        try:
            await until(lambda: all(worker.ready for worker in engine._workers))
            await test(engine)
        finally:
            await engine.close()
        assert broken == []

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def kill_unseen() -> None:
    """Kill the workers, and keep the event loop from noticing until they are gone."""
    found = workers(os.getpid())
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    for pid in found:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_pictures_sent_to_a_worker_that_has_just_died_are_answered_by_the_next() -> None:
    async def test(engine: Engine) -> None:
        kill_unseen()
        asking = [asyncio.create_task(engine.predict(job())) for _ in range(20)]
        answers = await asyncio.gather(*asking)
        assert {answer.conclusion.draws for answer in answers} == {100}

    with_engine(test)


def test_pictures_sent_on_a_closed_connection_are_answered_by_the_next() -> None:
    async def test(engine: Engine) -> None:
        [worker] = engine._workers
        for _ in range(2):
            assert worker.writer
            worker.writer.transport.abort()
            asking = [asyncio.create_task(engine.predict(job())) for _ in range(3)]
            # One client leaves, which the worker is told, too.
            await asyncio.sleep(0)
            asking.pop().cancel()
            answers = await asyncio.gather(*asking)
            assert {answer.conclusion.draws for answer in answers} == {100}
        assert engine.queued == engine.in_flight == 0

    with_engine(test)


@pytest.fixture
def pair() -> Iterator[Service]:
    running = Service(environment={**PLAIN, "PIXELDP_DEVICES": "cpu,cpu"}).wait_ready()
    try:
        yield running
    finally:
        assert running.stop() == 0


def descriptors(service: Service) -> Counter[str]:
    """Count what the front process has open, by kind."""
    kinds: Counter[str] = Counter()
    for one in Path(f"/proc/{service.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            kinds[os.readlink(one).partition(":")[0]] += 1
    return kinds


def wait_whole(service: Service) -> None:
    """Wait until both workers are ready."""
    end = time.monotonic() + START_SECONDS
    with httpx.Client(base_url=service.address) as client:
        while True:
            lines = client.get("/metrics").text.splitlines()
            up = [line for line in lines if line.startswith("pixeldp_worker_up{")]
            if len(up) == 2 and all(line.endswith(" 1.0") for line in up):
                return
            assert time.monotonic() < end, service.log
            time.sleep(0.1)


def wait_same(service: Service, before: Counter[str]) -> None:
    """Wait until no more files are open than before."""
    end = time.monotonic() + START_SECONDS
    while more := descriptors(service) - before:
        assert time.monotonic() < end, more
        time.sleep(0.1)


def test_when_all_workers_die_at_once_nothing_stays_open(pair: Service, seven: bytes) -> None:
    """Ready or starting, again and again."""
    wait_whole(pair)
    before = descriptors(pair)
    for death in range(DEATHS):
        url = f"{pair.address}/predict?target=0.5&timeout_ms=600000"
        assert httpx.post(url, content=seven, headers=PNG).json()["robust"] is True
        for _ in range(1 + 10 * (death % 2)):  # every second time, those that are starting, too
            for pid in workers(pair.process.pid):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        wait_whole(pair)
        wait_same(pair, before)
    died = sum("worker died" in line for line in pair.lines)
    assert died >= 2 * DEATHS

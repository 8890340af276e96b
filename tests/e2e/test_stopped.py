"""Processes that are stopped by SIGSTOP: they neither answer nor end by themselves.

Here nobody gives them up, because the watchdog's patience is longer than the tests. Times in a test
are the deadline that it tests, plus an allowance for a busy machine.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from models.verification import verify
from tests.chaos.processes import workers
from tests.e2e.conftest import PLAIN, START_SECONDS, Service
from tests.e2e.test_survival import wait_whole

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png"}
ENVIRONMENT = {**PLAIN, "PIXELDP_DEVICES": "cpu,cpu", "PIXELDP_STALL_SECONDS": "600"}
# Without the front's own deadline, an answer would come two seconds after it at the earliest.
LATE_SECONDS = 1.5


@pytest.fixture
def running() -> Iterator[Service]:
    service = Service(environment=ENVIRONMENT).wait_ready()
    try:
        wait_whole(service)
        yield service
    finally:
        assert service.stop() == 0
        assert "worker died" not in service.log


class Asked(threading.Thread):
    """A request on its way."""

    def __init__(self, service: Service, picture: bytes, **options: Any) -> None:
        super().__init__()
        self._url, self._picture, self._options = (
            f"{service.address}/predict",
            picture,
            options,
        )
        self.seconds = 0.0
        self.start()

    def run(self) -> None:
        begun = time.monotonic()
        self._answer = httpx.post(
            self._url, content=self._picture, params=self._options, headers=PNG
        )
        self.seconds = time.monotonic() - begun

    @property
    def answer(self) -> httpx.Response:
        self.join()
        return self._answer


def gauge(service: Service, name: str) -> float:
    lines = httpx.get(f"{service.address}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def wait_gauge(service: Service, name: str, value: float) -> None:
    end = time.monotonic() + START_SECONDS
    while gauge(service, name) != value:
        assert time.monotonic() < end, service.log
        time.sleep(0.02)


def wait_status(service: Service, status: int) -> str:
    """Wait until ``/health/ready`` has this status; return its body."""
    end = time.monotonic() + START_SECONDS
    while (answer := httpx.get(f"{service.address}/health/ready")).status_code != status:
        assert time.monotonic() < end, service.log
        time.sleep(0.02)
    return answer.text


def test_deadlines_are_kept_when_all_workers_are_stopped(running: Service, seven: bytes) -> None:
    before = [Asked(running, seven, timeout_ms=3000, max_draws=100_000) for _ in range(4)]
    wait_gauge(running, "pixeldp_pictures_in_flight", 4)
    for pid in workers(running.process.pid):
        os.kill(pid, signal.SIGSTOP)
    after = [Asked(running, seven, timeout_ms=1000) for _ in range(4)]
    assert "no sign of life" in wait_status(running, 503)
    late = [Asked(running, seven, timeout_ms=1000) for _ in range(4)]
    for one in before:
        assert one.answer.status_code in (200, 504)
        assert one.seconds < 3 + LATE_SECONDS
        if one.answer.status_code == 200:
            assert one.answer.json()["stopped"] == "deadline"
    for one in after + late:
        assert one.answer.status_code == 504
        assert 1 <= one.seconds < 1 + LATE_SECONDS
    assert httpx.get(f"{running.address}/health/live").status_code == 200
    for pid in workers(running.process.pid):
        os.kill(pid, signal.SIGCONT)
    wait_status(running, 200)
    assert Asked(running, seven, target=0.5).answer.json()["robust"] is True


def test_while_one_is_stopped_the_other_has_its_pictures(running: Service, seven: bytes) -> None:
    """Each answer comes from one run, although the earlier run is continued afterwards."""
    asked = {"max_draws": 3000, "timeout_ms": 600_000, "evidence": True}
    first = [Asked(running, seven, **asked) for _ in range(8)]
    wait_gauge(running, "pixeldp_pictures_in_flight", 8)
    victim = workers(running.process.pid)[0]
    os.kill(victim, signal.SIGSTOP)
    answers = [one.answer.json() for one in first]
    restarts = Counter(answer["evidence"]["restarts"] for answer in answers)
    assert set(restarts) <= {0, 1}
    assert restarts[1] > 0, "those that the stopped worker had"
    quick = [Asked(running, seven, timeout_ms=20_000).answer.status_code for _ in range(8)]
    assert quick == [200] * 8
    assert wait_status(running, 200)
    second = [Asked(running, seven, **asked) for _ in range(8)]
    wait_gauge(running, "pixeldp_pictures_in_flight", 8)
    os.kill(victim, signal.SIGCONT)
    answers += [one.answer.json() for one in second]
    wait_whole(running)
    answers += [Asked(running, seven, **asked).answer.json() for _ in range(4)]
    assert [verify(answer) for answer in answers] == [[]] * 20
    assert {answer["draws"] for answer in answers} == {3000}
    assert "worker responds again" in running.log

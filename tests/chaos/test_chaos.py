"""The short form of the experiments; ``make chaos`` runs the long one."""

from collections.abc import Iterator

import pytest

from tests.chaos import experiments
from tests.chaos.processes import title, workers
from tests.e2e.conftest import PLAIN, Service

# One worker that starts quickly and is soon found to be stopped.
ENVIRONMENT = {
    **PLAIN,
    "PIXELDP_STALL_SECONDS": "3",
}


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    service = Service(environment=ENVIRONMENT).wait_ready()
    yield service
    service.stop()


def test_when_all_workers_are_killed_requests_wait(running: Service, seven: bytes) -> None:
    counts = experiments.kill_all_workers(running, [seven], clients=4)
    assert counts["lost"] == 0, counts
    assert counts["asked while none ran"] == {200: 1}
    assert experiments.metric(running, "pixeldp_worker_restarts_total") == 1
    assert experiments.metric(running, "pixeldp_pictures_requeued_total") > 0


def test_a_stopped_worker_is_replaced(running: Service, seven: bytes) -> None:
    counts = experiments.stop_worker(running, [seven], clients=4)
    assert counts["lost"] == 0, counts
    assert "no sign of life" in running.log
    assert [title(pid) for pid in workers(running.process.pid)] == ["pixeldp-worker0"]


def test_a_pause_of_the_whole_machine_replaces_nobody(running: Service, seven: bytes) -> None:
    counts = experiments.pause_all(running, [seven], seconds=4.5, clients=4)
    assert counts["lost"] == 0, counts
    assert counts["replaced"] == 0


def test_a_stop_under_load_delivers_what_is_in_flight(running: Service, seven: bytes) -> None:
    counts = experiments.drain(running, [seven], clients=4)
    assert counts["lost"] == 0, counts
    assert counts["requests"] >= 4
    assert counts["ready after the signal"] == 503
    assert counts["exit code"] == 0
    assert counts["processes left"] == []


def test_when_the_front_is_killed_nothing_is_left() -> None:
    service = Service(environment=ENVIRONMENT)
    try:
        while not any("pixeldp-worker" in title(pid) for pid in workers(service.process.pid)):
            assert service.process.poll() is None
        counts = experiments.kill_front(service)  # while it starts, which is the hardest moment
    finally:
        service.stop()
    assert {"pixeldp-front", "pixeldp-worker0"} <= set(counts["processes"])
    assert counts["processes left"] == []


def test_when_a_front_is_killed_only_its_own_requests_are_lost(seven: bytes) -> None:
    service = Service(environment={**ENVIRONMENT, "PIXELDP_FRONTS": "2"}).wait_ready()
    try:
        counts = experiments.kill_fronts(service, [seven], kills=3, clients=4)
    finally:
        code = service.stop()
    assert set(counts["statuses"]) == {200}, counts
    assert counts["lost"] <= 3 * 4, counts
    assert counts["left behind"] == 0, counts
    assert code == 0

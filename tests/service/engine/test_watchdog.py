"""Which workers are given up, by a clock that the tests set."""

from collections.abc import Callable

import pytest

from service.engine.status import SharedStatus
from service.engine.watchdog import SLOW, STARTING, Watchdog

PATIENCE = 10.0
LOAD_SECONDS = 600.0


class Case:
    """A watchdog, a status and the time."""

    def __init__(self) -> None:
        self.now, self.status = 0.0, SharedStatus.create()
        self.watch = Watchdog(PATIENCE, LOAD_SECONDS, lambda: self.now)

    def last(
        self,
        seconds: float,
        worker: Callable[[SharedStatus], None],
        loaded: bool = True,
        pass_seconds: float | None = 0.01,
        waits: bool = False,
    ) -> str | None:
        """Let time pass while the worker does something between looks; return the first verdict."""
        end = self.now + seconds
        while self.now < end:
            self.now += self.watch.tick
            worker(self.status)
            verdict = self.watch.look(self.status, loaded, pass_seconds, waits)
            if verdict:
                return verdict
        return None


@pytest.fixture
def case() -> Case:
    return Case()


def nothing(status: SharedStatus) -> None:
    pass


def beating(status: SharedStatus) -> None:
    status.beat()


def working(status: SharedStatus) -> None:
    status.beat()
    status.begin([1])
    status.end()


def test_a_worker_that_works_is_left_alone(case: Case) -> None:
    assert case.last(10 * PATIENCE, working) is None


def test_an_idle_worker_is_left_alone_as_long_as_it_lives(case: Case) -> None:
    assert case.last(10 * PATIENCE, beating, pass_seconds=None) is None
    assert "no sign of life" in str(case.last(2 * PATIENCE, nothing, pass_seconds=None))


def test_a_stopped_worker_is_given_up_after_the_patience(case: Case) -> None:
    assert case.last(PATIENCE, nothing) is None
    assert "no sign of life" in str(case.last(2 * case.watch.tick, nothing))


def test_a_worker_that_lives_but_makes_no_pass_is_given_up(case: Case) -> None:
    assert case.last(PATIENCE, beating) is None
    assert "no pass" in str(case.last(2 * case.watch.tick, beating))


def test_slow_passes_get_the_time_that_they_take(case: Case) -> None:
    assert case.last(SLOW * 2.0, beating, pass_seconds=2.0) is None
    assert "no pass" in str(case.last(3 * case.watch.tick, beating, pass_seconds=2.0))


def test_the_wait_for_a_pass_begins_when_there_is_work(case: Case) -> None:
    assert case.last(5 * PATIENCE, beating, pass_seconds=None) is None
    assert case.last(PATIENCE, beating) is None


def test_a_loading_worker_has_more_time(case: Case) -> None:
    assert case.last(10 * PATIENCE, nothing, loaded=False, pass_seconds=None) is None
    rest = (STARTING - 10) * PATIENCE + 2
    assert case.last(rest, nothing, loaded=False, pass_seconds=None) is not None


def test_a_loading_worker_is_given_up_when_it_takes_too_long(case: Case) -> None:
    assert case.last(LOAD_SECONDS, beating, loaded=False, pass_seconds=None) is None
    verdict = case.last(2 * case.watch.tick, beating, loaded=False, pass_seconds=None)
    assert "PIXELDP_LOAD_SECONDS" in str(verdict)


def test_how_long_loading_took_is_forgotten_afterwards(case: Case) -> None:
    assert case.last(0.9 * LOAD_SECONDS, beating, loaded=False, pass_seconds=None) is None
    assert case.last(2 * LOAD_SECONDS, working) is None


def test_a_pause_of_the_whole_machine_gives_up_no_worker(case: Case) -> None:
    assert case.last(PATIENCE / 2, working) is None
    case.now += 3600.0
    assert case.watch.look(case.status, True, 0.01) is None
    # Workers may take a moment longer to wake up than the front process.
    assert case.last(PATIENCE / 2, nothing) is None
    assert case.last(PATIENCE, working) is None


def test_silence_and_standstill_are_reported_before_they_last_too_long(case: Case) -> None:
    assert case.last(2.0, working) is None
    assert case.watch.silent == case.watch.stuck == 0.0
    assert case.last(2.0, nothing) is None
    assert case.watch.silent == case.watch.stuck == 2.0
    assert case.last(1.0, beating) is None
    assert (case.watch.silent, case.watch.stuck) == (0.0, 3.0)
    assert case.last(1.0, beating, pass_seconds=None) is None
    assert case.watch.stuck == 0.0


def test_waiting_for_another_worker_does_not_count_as_loading(case: Case) -> None:
    assert case.last(0.9 * LOAD_SECONDS, beating, False, None) is None
    assert case.last(2 * LOAD_SECONDS, beating, False, None, waits=True) is None
    verdict = case.last(LOAD_SECONDS, beating, False, None)
    assert verdict is not None
    assert "not loaded" in verdict

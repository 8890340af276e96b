import itertools
import math

import numpy as np
import pytest

from models.capacity import MOST_BUSY, Decisions, Machine, cost_per_million, predict, size

DECISIONS = Decisions(mean=100, median=80, high=400)
MACHINE = Machine(draws_per_second=10_000, pass_size=32, front_seconds=0.002)


def test_the_least_of_all_limits_is_the_capacity() -> None:
    assert MACHINE.capacity(1, 1, 100) == 100
    assert MACHINE.capacity(4, 1, 100) == 400
    assert MACHINE.capacity(8, 1, 100) == 500  # one front
    assert MACHINE.capacity(8, 2, 100) == 800
    shared = Machine(10_000, 32, 0.002, cores=2)
    assert shared.capacity(2, 1, 100) == pytest.approx(2 / 0.012)
    assert shared.capacity(1, 1, 100) == 100
    slower = Machine(10_000, 32, 0.002, cores=2, answer_seconds=0.01)
    assert slower.capacity(2, 1, 100) == pytest.approx(2 / 0.022)
    assert slower.capacity(1, 1, 100) == pytest.approx(1 / 0.02)


def test_what_is_done_once_for_a_picture_adds_to_its_draws() -> None:
    once = Machine(10_000, 32, 0.002, answer_seconds=0.005)
    assert once.work(100) == pytest.approx(0.015)
    more = predict(DECISIONS, once, 1e-6, 1).median - predict(DECISIONS, MACHINE, 1e-6, 1).median
    assert more == pytest.approx(0.005, rel=1e-3)


def test_waiting_agrees_with_a_simulated_server() -> None:
    """One worker, exponential times in the order of arrival: a queue simulated by hand."""
    rng, rate, count = np.random.default_rng(1), 60.0, 200_000
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    works = rng.exponential(DECISIONS.mean / MACHINE.draws_per_second, count)
    free, waits = 0.0, []
    for arrived, work in zip(arrivals, works, strict=True):
        waits.append(max(free - arrived, 0.0))
        free = max(free, arrived) + work
    idle = predict(DECISIONS, MACHINE, 0.0, 1)
    found = predict(DECISIONS, MACHINE, rate, 1)
    waiting = (found.high - idle.high) / -math.log(0.01)
    assert waiting == pytest.approx(np.mean(waits), rel=0.05)


def test_more_load_takes_longer_and_more_workers_less() -> None:
    times = [predict(DECISIONS, MACHINE, rate, 2).high for rate in (0, 50, 100, 150, 190)]
    assert times == sorted(times)
    assert predict(DECISIONS, MACHINE, 200, 2).high == math.inf
    fewer, more = (predict(DECISIONS, MACHINE, 150, workers).high for workers in (2, 3))
    assert more < fewer


@pytest.mark.parametrize(
    ("rate", "high"), [*itertools.product((1, 10, 1000, 100_000), (0.05, 0.2))]
)
def test_a_sizing_is_the_least_that_holds(rate: float, high: float) -> None:
    found = size(DECISIONS, MACHINE, rate, high)
    assert found.high <= high
    assert found.busy <= MOST_BUSY + 1e-9
    assert rate * MACHINE.front_seconds / found.fronts <= MOST_BUSY
    if found.workers > 1:
        fewer = predict(DECISIONS, MACHINE, rate, found.workers - 1, found.fronts)
        assert fewer.high > high or rate * 0.01 / fewer.workers > MOST_BUSY


def test_what_no_number_of_workers_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one picture alone takes 43\.6 ms"):
        size(DECISIONS, MACHINE, 10, 0.04)


def test_the_cost() -> None:
    assert cost_per_million(workers=2, rate=1000, hourly=3.6) == pytest.approx(2.0)

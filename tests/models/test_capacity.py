import heapq
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from models.capacity import MOST_BUSY, Decisions, Machine, cost_per_million, predict, size

DECISIONS = Decisions(mean=100, median=80, high=400)
# 12 ms alone, and at most 100 a second.
MACHINE = Machine.computed(DECISIONS, 10_000, pass_size=32, front_seconds=0.002)
# As small passes are: several pictures together are answered faster than one after another.
SHARING = Machine(((1, 50), (2, 80), (8, 120)), median=0.02, high=0.06, front_seconds=0.001)


def test_the_least_of_all_limits_is_the_capacity() -> None:
    assert MACHINE.capacity(1, 1) == pytest.approx(100)
    assert MACHINE.capacity(4, 1) == pytest.approx(400)
    assert MACHINE.capacity(8, 1) == 500  # one front
    assert MACHINE.capacity(8, 2) == pytest.approx(800)
    shared = Machine(MACHINE.speeds, 0.01, 0.04, 0.002, cores=2, shared_seconds=0.0125)
    assert shared.capacity(2, 1) == pytest.approx(160)
    assert shared.capacity(1, 1) == pytest.approx(100)


def test_what_is_computed_of_a_device() -> None:
    assert MACHINE.median == pytest.approx(0.002 + 0.008)
    assert MACHINE.high == pytest.approx(0.002 + 0.04)
    once = Machine.computed(DECISIONS, 10_000, 32, 0.002, answer_seconds=0.01)
    assert once.capacity(1, 1) == pytest.approx(50)
    assert once.median == pytest.approx(0.02)
    # A picture alone waits for whole passes; many fill them together.
    coarse = Machine.computed(DECISIONS, 10_000, 200, 0.002)
    assert coarse.median == pytest.approx(0.022)
    assert coarse.capacity(1, 1) == pytest.approx(100)


@pytest.mark.parametrize(
    ("speeds", "front"),
    [
        (((1, 0),), 1),
        (((1, math.nan),), 1),
        (((2, 50),), 1),
        (((1, 5), (1, 6)), 1),
        ((), 1),
        (((1, 50),), -1),
    ],
)
def test_what_cannot_be_is_refused(speeds: tuple[tuple[float, float], ...], front: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        Machine(speeds, 0.01, 0.02, front)


def sojourns(
    works: NDArray[np.float64], rate: float, speed: Callable[[int], float]
) -> NDArray[np.float64]:
    """Simulate a server that divides its time equally; return the time of each picture.

    Args:
        works: [n], the seconds of each alone.
        rate: of arrivals.
        speed: by the number of pictures, how much of such work is done per second in all.
    """
    random = np.random.default_rng(2)
    arrivals = np.cumsum(random.exponential(1 / rate, len(works)))
    # Each gets as much as the others: ``had`` counts it, and one leaves when it has had its work.
    inside: list[tuple[float, int]] = []
    had, now, coming, times = 0.0, 0.0, 0, np.zeros(len(works))
    while coming < len(works) or inside:
        each = speed(len(inside)) / len(inside) if inside else 0.0
        leaves = now + (inside[0][0] - had) / each if inside else math.inf
        if coming < len(works) and arrivals[coming] < leaves:
            had += (arrivals[coming] - now) * each
            now = arrivals[coming]
            heapq.heappush(inside, (had + works[coming], coming))
            coming += 1
        else:
            had, picture = heapq.heappop(inside)
            now = leaves
            times[picture] = now - arrivals[picture]
    return times


@pytest.mark.parametrize(("workers", "rate"), [(1, 30.0), (1, 84.0), (3, 250.0)])
def test_times_grow_as_in_a_simulated_server(workers: int, rate: float) -> None:
    """Two lengths in all, and both grow by the same factor."""
    random = np.random.default_rng(1)
    works = random.choice([0.5, 3.0], 200_000, p=[0.8, 0.2]) / 50
    works /= works.mean() * 50
    places, speeds = zip((0, 0), *SHARING.speeds, strict=True)

    def speed(pictures: int) -> float:
        return workers * float(np.interp(pictures / workers, places, speeds)) / 50

    times = sojourns(works, rate, speed)
    expected = SHARING.stretch(rate, workers, fronts=10)
    for length in np.unique(works):
        own = works == length
        assert np.mean(times[own]) / length == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_times_are_those_of_a_queue_with_several_servers(workers: int) -> None:
    """Erlang's C formula: the mean time does not depend on the order, with exponential lengths."""
    machine = Machine(((1, 10.0),), 0.1, 0.4, front_seconds=1e-6)
    rate = 8.0 * workers
    offered = rate / 10
    before = sum(offered**k / math.factorial(k) for k in range(workers))
    full = offered**workers / math.factorial(workers) / (1 - offered / workers)
    waits = full / (before + full) / (workers * 10 - rate)
    assert machine.stretch(rate, workers, 1) == pytest.approx(1 + 10 * waits, rel=1e-9)


def test_a_slower_moment_among_many_pictures_changes_little() -> None:
    """Even a rate between the last speed and the highest one is borne."""
    uneven = Machine(((1, 50), (2, 80), (8, 120), (32, 110)), 0.02, 0.06, 0.001)
    for rate in (30.0, 100.0, 115.0):
        assert uneven.stretch(rate, 1, 10) == pytest.approx(SHARING.stretch(rate, 1, 10))


def test_more_load_takes_longer_and_more_workers_less() -> None:
    times = [predict(MACHINE, rate, 2).high for rate in (0, 50, 100, 150, 190)]
    assert times == sorted(times)
    assert times[0] == MACHINE.high
    assert predict(MACHINE, 200, 2).high == math.inf
    fewer, more = (predict(MACHINE, 150, workers).high for workers in (2, 3))
    assert more < fewer


@pytest.mark.parametrize(
    ("rate", "high"), [*itertools.product((1, 10, 1000, 100_000), (0.05, 0.2))]
)
def test_a_sizing_holds(rate: float, high: float) -> None:
    found = size(MACHINE, rate, high)
    assert found.high <= high
    assert found.busy <= MOST_BUSY + 1e-9
    assert rate * MACHINE.front_seconds / found.fronts <= MOST_BUSY
    if found.workers > 1:
        fewer = predict(MACHINE, rate, found.workers - 1, found.fronts)
        assert fewer.high > high or rate * 0.01 / fewer.workers > MOST_BUSY


def test_fronts_are_added_where_they_are_what_takes_time() -> None:
    fast = Machine(((1, 1000.0),), 0.001, 0.002, front_seconds=0.004)
    found = size(fast, 199, 0.0021)
    assert found.high <= 0.0021
    assert found.fronts > 1


def test_what_no_number_of_workers_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one picture alone takes 42 ms"):
        size(MACHINE, 10, 0.04)


def test_the_cost() -> None:
    assert cost_per_million(workers=2, rate=1000, hourly=3.6) == pytest.approx(2.0)

"""How many workers and fronts a load takes, and how long its answers take.

A service is taken as one server that divides its time among the pictures that it has. Its speed
depends on their number k: X(k) answers per second, which k clients measure who ask again as soon as
they are answered (the flow-equivalent server of Chandy, Herzog and Woo 1975). Of pictures that come
at random times, λ per second, there are then k at once with a probability in proportion to
∏ λ/X(j) over j = 1 … k, and each takes longer than alone, in proportion and on average, by

    E[k] · X(1) / λ

(Cohen 1979, generalised processor sharing). So quantiles of times are taken as those of one picture
alone, multiplied by this. W workers, of which the least busy gets the next picture, have
X_W(k) = W · X(k/W). F fronts that need c seconds of a processor for an answer limit that to F/c,
and C processors that all share, of which an answer takes p seconds, to C/p. Networks, TLS and
proxies come on top.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

# Fronts and workers are planned to be at most this busy: beyond it waiting grows without bound.
MOST_BUSY = 0.8
# For more of them than this no plan is made.
MOST_WORKERS = 1_000_000
# States less likely than the likeliest by this factor, as a logarithm, do not count.
_NEGLIGIBLE = 40.0


@dataclass(frozen=True)
class Decisions:
    """How many draws a decision takes: the mean, the median and the 99th percentile."""

    mean: float
    median: float
    high: float


@dataclass(frozen=True)
class Machine:
    """A service with one worker and one front; times in seconds.

    Attributes:
        speeds: pictures at once, from 1 up, and answers per second with so many.
        median: of the time of an answer to one client alone.
        high: its 99th percentile.
        front_seconds: processor time of the front for an answer.
        cores: that fronts and workers share; None if workers have devices of their own.
        shared_seconds: processor time on them for an answer, of all processes together.

    Raises:
        ValueError: one of these cannot be.
    """

    speeds: tuple[tuple[float, float], ...]
    median: float
    high: float
    front_seconds: float
    cores: int | None = None
    shared_seconds: float = 0.0

    def __post_init__(self) -> None:
        places = [place for place, _ in self.speeds]
        numbers = [*places, *(speed for _, speed in self.speeds)]
        numbers += [self.median, self.high, self.front_seconds]
        if not all(0 < number < math.inf for number in numbers):
            raise ValueError("numbers of pictures, speeds and times must be above 0 and finite")
        if places[:1] != [1.0] or places != sorted(set(places)):
            raise ValueError("speeds must be for 1 picture at once, and then for more and more")

    @classmethod
    def computed(
        cls,
        decisions: Decisions,
        draws_per_second: float,
        pass_size: int,
        front_seconds: float,
        answer_seconds: float = 0.0,
    ) -> Self:
        """Return what is expected of a device of which only its draws per second are known.

        A picture alone takes at least one pass. Many at once share passes without loss.

        Args:
            decisions: what a decision takes.
            draws_per_second: of one worker.
            pass_size: draws in a pass.
            front_seconds: processor time of the front for an answer.
            answer_seconds: of a worker for a picture, beside its draws.
        """

        def alone(draws: float) -> float:
            return front_seconds + answer_seconds + max(draws, pass_size) / draws_per_second

        first = 1 / alone(decisions.mean)
        most = 1 / (answer_seconds + decisions.mean / draws_per_second)
        speeds = ((1.0, first), (most / first, most))
        return cls(speeds, alone(decisions.median), alone(decisions.high), front_seconds)

    @property
    def most(self) -> float:
        """The most answers per second of one worker."""
        return max(speed for _, speed in self.speeds)

    def capacity(self, workers: int, fronts: int) -> float:
        """Return the most answers per second."""
        limits = [workers * self.most, fronts / self.front_seconds]
        if self.cores is not None:
            limits.append(self.cores / self.shared_seconds)
        return min(limits)

    def stretch(self, rate: float, workers: int, fronts: int) -> float:
        """Return how much longer than alone answers take on average; infinite beyond capacity."""
        capacity = self.capacity(workers, fronts)
        if rate >= capacity:
            return math.inf
        if rate <= 0:
            return 1.0
        places, speeds = zip((0.0, 0.0), *self.speeds, strict=True)
        # If fewer pictures were answered faster, that was a quicker moment: X does not fall. Beyond
        # the last place it does not grow either, and probabilities fall by λ/X each.
        count = int(workers * places[-1] + _NEGLIGIBLE / -math.log(rate / capacity)) + 2
        pictures = np.arange(1, count)
        rising = np.maximum.accumulate(speeds)
        found = workers * np.interp(pictures / workers, places, rising)
        weights = np.append(0.0, np.cumsum(np.log(rate / np.minimum(found, capacity))))
        chances = np.exp(weights - weights.max())
        mean = float(chances[1:] @ pictures / chances.sum())
        return mean * min(float(found[0]), capacity) / rate


@dataclass(frozen=True)
class Sizing:
    """A number of workers and fronts, and what they give; times in seconds."""

    workers: int
    fronts: int
    capacity: float
    busy: float
    median: float
    high: float


def predict(machine: Machine, rate: float, workers: int, fronts: int = 1) -> Sizing:
    """Return the times of answers at ``rate`` pictures per second; infinite beyond the capacity."""
    capacity = machine.capacity(workers, fronts)
    longer = machine.stretch(rate, workers, fronts)
    median, high = longer * machine.median, longer * machine.high
    return Sizing(workers, fronts, capacity, rate / capacity, median, high)


def size(machine: Machine, rate: float, high: float) -> Sizing:
    """Return the fewest workers and fronts that bear a load in time.

    Args:
        machine: its cores must not be limited.
        rate: pictures per second.
        high: the wanted 99th percentile, in seconds.

    Raises:
        ValueError: no number of workers is enough, and what a picture takes alone; or it is far
            beyond what anybody has.
    """
    if machine.high > high:
        raise ValueError(
            f"one picture alone takes {1000 * machine.high:.3g} ms at the 99th percentile, above "
            f"the wanted {1000 * high:g} ms, however many workers there are: take a faster device, "
            "fewer draws or a smaller pass"
        )
    front_load, load = rate * machine.front_seconds / MOST_BUSY, rate / machine.most / MOST_BUSY
    if max(front_load, load) > MOST_WORKERS:
        raise ValueError(
            f"{rate:g} pictures per second take more than {MOST_WORKERS:,} workers or fronts; "
            "expected a lower rate, or a faster device"
        )
    fronts, workers = max(1, math.ceil(front_load)), max(1, math.ceil(load))
    found = predict(machine, rate, workers, fronts)
    while found.high > high:
        more = predict(machine, rate, found.workers + 1, found.fronts)
        front = predict(machine, rate, found.workers, found.fronts + 1)
        found = front if front.high < more.high else more
    return found


def cost_per_million(workers: int, rate: float, hourly: float) -> float:
    """Return the cost of a million answers at ``rate``, if a worker costs ``hourly``."""
    return workers * hourly / 3600 / rate * 1e6

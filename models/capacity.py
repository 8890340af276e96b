"""How many workers and fronts a load takes, and how long its answers take.

The model is small on purpose: what it needs can be measured in minutes, and ``benchmarks.capacity``
compares it with the service. A worker shares its draws among the pictures that it has, so it is
taken as a server that divides its time among them. With W workers, of which the least busy gets the
next picture, and a utilisation ρ, a picture waits on average

    Wq = S · ρ^(√(2(W+1)) − 1) / (W · (1 − ρ))

where S is the time of a mean decision alone on a worker (Sakasegawa 1977; exact for one worker with
exponential times). The waiting time is taken as exponential, and pictures as coming at random
times. A decision takes a worker a + n/D: its n draws, and a for what is done once for each picture.
So, with the time s_q of a decision that takes the q-quantile of draws, and c, the processor time
that a front needs,

    t_q = c + r + s_q − ln(1 − q) · Wq

r is half a pass, for which a picture waits before its own first one. Networks, TLS and proxies come
on top.
"""

import math
from dataclasses import dataclass, replace

# Fronts and workers are planned to be at most this busy: beyond it waiting grows without bound.
MOST_BUSY = 0.8
MEDIAN, HIGH = 0.5, 0.99


@dataclass(frozen=True)
class Decisions:
    """How many draws a decision takes: the mean, the median and the 99th percentile."""

    mean: float
    median: float
    high: float


@dataclass(frozen=True)
class Machine:
    """What was measured of a service.

    Attributes:
        draws_per_second: of one worker.
        pass_size: draws in a pass.
        front_seconds: processor time of the front for an answer.
        cores: that fronts and workers share; None if workers have devices of their own.
        answer_seconds: of a worker for a picture, beside its draws.
    """

    draws_per_second: float
    pass_size: int
    front_seconds: float
    cores: int | None = None
    answer_seconds: float = 0.0

    def work(self, draws: float) -> float:
        """Return the seconds that a worker needs for a decision of so many draws."""
        return self.answer_seconds + draws / self.draws_per_second

    def capacity(self, workers: int, fronts: int, mean: float) -> float:
        """Return the most answers per second, for decisions of so many draws."""
        limits = [workers / self.work(mean), fronts / self.front_seconds]
        if self.cores is not None:
            limits.append(self.cores / (self.work(mean) + self.front_seconds))
        return min(limits)


@dataclass(frozen=True)
class Sizing:
    """A number of workers and fronts, and what they give; times in seconds."""

    workers: int
    fronts: int
    capacity: float
    busy: float
    median: float
    high: float


def predict(
    decisions: Decisions, machine: Machine, rate: float, workers: int, fronts: int = 1
) -> Sizing:
    """Return the times of answers at ``rate`` pictures per second; infinite beyond the capacity."""
    capacity = machine.capacity(workers, fronts, decisions.mean)
    busy = rate / capacity
    found = Sizing(workers, fronts, capacity, busy, math.inf, math.inf)
    if busy >= 1:
        return found
    one_pass = machine.pass_size / machine.draws_per_second
    alone = machine.work(decisions.mean)
    waiting: float = alone * busy ** (math.sqrt(2 * (workers + 1)) - 1) / (workers * (1 - busy))

    def time(share: float, draws: float) -> float:
        own = machine.work(max(draws, machine.pass_size))
        return machine.front_seconds + one_pass / 2 + own - math.log(1 - share) * waiting

    return replace(found, median=time(MEDIAN, decisions.median), high=time(HIGH, decisions.high))


def size(decisions: Decisions, machine: Machine, rate: float, high: float) -> Sizing:
    """Return the fewest workers and fronts that bear a load in time.

    Args:
        decisions: what a decision takes.
        machine: what was measured; its cores are not limited here.
        rate: pictures per second.
        high: the wanted 99th percentile, in seconds.

    Raises:
        ValueError: no number of workers is enough; says what a picture takes alone.
    """
    own = replace(machine, cores=None)
    fronts = max(1, math.ceil(rate * own.front_seconds / MOST_BUSY))
    workers = max(1, math.ceil(rate * own.work(decisions.mean) / MOST_BUSY))
    alone = predict(decisions, own, 0.0, 1, 1)
    if alone.high > high:
        raise ValueError(
            f"one picture alone takes {1000 * alone.high:.3g} ms at the 99th percentile, above the "
            f"wanted {1000 * high:g} ms, however many workers there are: take a faster device, "
            "fewer draws or a smaller pass"
        )
    while (found := predict(decisions, own, rate, workers, fronts)).high > high:
        workers += 1
    return found


def cost_per_million(workers: int, rate: float, hourly: float) -> float:
    """Return the cost of a million answers at ``rate``, if a worker costs ``hourly``."""
    return workers * hourly / 3600 / rate * 1e6

"""The passes in flight of a worker: submitted to the device, and not yet recorded."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from models.batcher import Pass
from models.device import Submitted
from service.engine.pass_runner import Made, PassRunner
from service.engine.status import SharedStatus


@dataclass(frozen=True)
class Flight:
    """A pass in flight.

    Attributes:
        runner: whose pass it is.
        planned: its slots.
        submitted: the pass on the device.
        began: when it was submitted.
    """

    runner: PassRunner
    planned: Pass
    submitted: Submitted
    began: float = field(default_factory=time.monotonic)


@dataclass
class Counts:
    """Passes, their slots, those that were filled, and the seconds of all and of the longest."""

    passes: int = 0
    slots: int = 0
    filled: int = 0
    busy_seconds: float = 0.0
    longest_seconds: float = 0.0


class Flights:
    """The passes in flight, in the order of planning, in which they are made.

    The shared status shows the pictures of all of them: any may be the cause if the worker dies.

    Args:
        status: shows the front process what this one does.
        wake: called in any thread when a pass is made.

    Attributes:
        counts: of the passes since they were last reported.
    """

    def __init__(self, status: SharedStatus, wake: Callable[[], None]) -> None:
        self._status, self._wake = status, wake
        self._flights: deque[Flight] = deque()
        self._collected = time.monotonic()
        self.counts = Counts()

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def first_is_made(self) -> bool:
        """Whether the first pass can be collected without waiting."""
        return bool(self._flights) and self._flights[0].submitted.handle.done

    def show(self, ids: Iterable[int] = (), *, turn: bool = False) -> None:
        """Show the pictures in flight, and ``ids`` beside them.

        Args:
            ids: pictures that are in progress otherwise.
            turn: whether a piece of work has been done.
        """
        flying = (ticket.id for flight in self._flights for ticket in flight.planned.tickets)
        note = self._status.end if turn else self._status.begin
        # Most pictures in one pass are in the next, too.
        note(list(dict.fromkeys([*flying, *ids])))

    def submit(self, runner: PassRunner, planned: Pass) -> None:
        """Submit a pass of a runner."""
        self.show(ticket.id for ticket in planned.tickets)
        self._flights.append(Flight(runner, planned, runner.submit(planned)))
        self._flights[-1].submitted.handle.when_done(self._wake)

    def collect(self) -> tuple[PassRunner, Pass, Made | None]:
        """Wait for the first pass; return it, and what was made of it (see ``PassRunner``)."""
        flight = self._flights[0]
        made = flight.runner.collect(flight.planned, flight.submitted)
        self._flights.popleft()
        self._count(flight)
        return flight.runner, flight.planned, made

    def discard(self, runners: Iterable[PassRunner]) -> None:
        """Wait for the passes of some runners, and drop their draws."""
        leaving = list(runners)
        for flight in [one for one in self._flights if one.runner in leaving]:
            with contextlib.suppress(Exception):
                flight.submitted.votes()
            self._flights.remove(flight)

    def _count(self, flight: Flight) -> None:
        counts, now = self.counts, time.monotonic()
        took, self._collected = now - max(flight.began, self._collected), now
        counts.passes += 1
        counts.slots += flight.runner.batcher.slots
        counts.filled += flight.planned.filled
        counts.busy_seconds += took
        counts.longest_seconds = max(counts.longest_seconds, took)

"""Distinguishes a wedged worker from one that is slow, starting, or on a paused machine."""

import time
from collections.abc import Callable

from service.engine.status import SharedStatus

# Reading PyTorch's libraries from a cold disk can block a whole process for longer than any pass.
STARTING = 12.0
# A pass may take this many times as long as calibrated before the worker is given up.
SLOW = 20.0


class Watchdog:
    """Watches one worker process through its shared status.

    Time counts only while the front itself is awake: after a pause of the whole machine, workers
    have their whole patience again.

    Args:
        patience: seconds without a sign of life, or without a pass while there is work.
        load_seconds: the time in which the worker must load its models.
        clock: in seconds, like :func:`time.monotonic`.

    Attributes:
        tick: the seconds between two looks at the status.
        silent: the seconds since the last sign of life.
        stuck: the seconds since it last did something, although it has work.
    """

    def __init__(
        self,
        patience: float,
        load_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tick = min(0.125, patience / 10)
        self._patience, self._load_seconds, self._clock = patience, load_seconds, clock
        self._looked = clock()
        self._beats = self._turns = -1
        self.silent = self.stuck = self._loading = 0.0

    def look(
        self,
        status: SharedStatus,
        loaded: bool,
        pass_seconds: float | None,
        waits: bool = False,
    ) -> str | None:
        """Look at the status.

        Args:
            status: the worker's.
            loaded: whether it has loaded its models.
            pass_seconds: how long its longest passes should take; None while it has no work.
            waits: whether it waits for another worker, so that loading takes no time of its own.

        Returns:
            Why the worker must be replaced; None if it need not be.
        """
        now = self._clock()
        awake = min(now - self._looked, 2 * self.tick)
        self._looked = now
        beats, turns = status.beats, status.turns
        self.silent = self.silent + awake if beats == self._beats else 0.0
        idle = pass_seconds is None or turns != self._turns
        self.stuck = 0.0 if idle else self.stuck + awake
        if loaded:
            self._loading = 0.0
        elif not waits:
            self._loading += awake
        self._beats, self._turns = beats, turns
        if self.silent > self._patience * (1.0 if loaded else STARTING):
            return f"no sign of life for {self.silent:.1f} s"
        if self._loading > self._load_seconds:
            reason = f"its models are not loaded after {self._loading:.1f} s"
            return f"{reason}; PIXELDP_LOAD_SECONDS allows more"
        if self.stuck > max(self._patience, SLOW * (pass_seconds or 0.0)):
            return f"no pass for {self.stuck:.1f} s"
        return None

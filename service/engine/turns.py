"""Whose pass comes next on a worker.

Models have their turns one after another. Within a model, a picture stays with the runner that took
it, in small passes or in large ones. If these took turns, a few pictures in small passes would wait
for a large one after each of theirs, and be answered last of all. So runners share their model's
turns in proportion to their pictures, by start-time fair queueing (Goyal, Vin and Cheng 1997): each
pass of s slots moves a runner with n pictures s / n further, and the one that is least far is next.
"""

from collections.abc import Iterable

from service.engine.pass_runner import PassRunner


class Turns:
    """The order in which runners are asked for a pass."""

    def __init__(self) -> None:
        self._last = -1
        # How far the runners with pictures are, in slots for each picture.
        self._far: dict[PassRunner, float] = {}

    def order(self, runners: Iterable[PassRunner]) -> list[PassRunner]:
        """Return the runners that have pictures; the first with something to draw is next."""
        busy = [one for one in runners if one.batcher]
        far = {one: self._far[one] for one in busy if one in self._far}
        # Whoever begins is as far as the least far: time without pictures earns nothing.
        least: dict[int, float] = {}
        for one, value in far.items():
            least[one.model] = min(value, least.get(one.model, value))
        self._far = {one: far.get(one, least.get(one.model, 0.0)) for one in busy}
        return sorted(busy, key=lambda one: (one.model <= self._last, one.model, self._far[one]))

    def took(self, runner: PassRunner) -> None:
        """Note that a runner of the last order has its pass."""
        self._last = runner.model
        self._far[runner] += runner.batcher.slots / len(runner.batcher)

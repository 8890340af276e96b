"""Progress of commands that take long: the present step, on standard error, every ten seconds."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from service.system.signals import handled

EVERY_SECONDS = 10.0


class Progress:
    """Prints the present step if it takes longer than some seconds; short work stays silent.

    Args:
        every: seconds between two lines.
    """

    def __init__(self, every: float = EVERY_SECONDS) -> None:
        self._every, self._doing = every, "starting"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __call__(self, doing: str) -> None:
        """Set the present step."""
        self._doing = doing

    def __enter__(self) -> Self:
        """Begin to print."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()

    def _tell(self) -> None:
        seconds = 0.0
        while not self._ended.wait(self._every):
            seconds += self._every
            print(f"pixeldp: {seconds:.0f} s: {self._doing} …", file=sys.stderr, flush=True)


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Let SIGTERM end the command like an interrupt, so that it leaves no files behind.

    Not with ``SystemExit``: a user's code may raise that, and so it is caught there.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled({signal.SIGTERM: end}):
        yield

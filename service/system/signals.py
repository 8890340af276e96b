"""Handles signals from the very start, before anything that takes time.

The system ignores SIGTERM for the first process of a container, unless the process has installed a
handler.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

TERMINATED = 128 + signal.SIGTERM


# The signals to stop so far. Python raises a handler's exception wherever it happens to be, and
# forgets it in places such as the end of an import; so a start looks here once it is done.
_asked: list[int] = []


def asked_to_stop() -> bool:
    """Whether a signal to stop has come during the start."""
    return bool(_asked)


def _end(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    sys.exit(TERMINATED)


def _stop(number: int, frame: FrameType | None) -> None:
    _asked.append(number)
    sys.exit(0)


def _pass_over(number: int, frame: FrameType | None) -> None:
    pass


def has_terminal() -> bool:
    """Say whether the process belongs to a terminal, whose end SIGHUP would announce."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextmanager
def handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handle signals like this, and afterwards as before."""
    former = {one: signal.signal(one, handler) for one, handler in handlers.items()}
    try:
        yield
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)


@contextmanager
def stops_at_once() -> Iterator[None]:
    """While a service starts, let a signal to stop end it with status 0, as later."""
    handlers: dict[signal.Signals, Handler] = {signal.SIGTERM: _stop}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        handlers[signal.SIGHUP] = _stop if has_terminal() else _pass_over
    with handled(handlers):
        yield


if os.getpid() == 1:
    signal.signal(signal.SIGTERM, _end)

"""A process that ends with the one that started it."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


class ParentGoneError(Exception):
    """The process that started this one has ended."""


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends, whatever it does.

    Raises:
        ParentGoneError: it has ended already.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            raise ParentGoneError

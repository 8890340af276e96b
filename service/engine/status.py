"""A worker's last state, in memory that outlives the worker.

A worker may be killed at any moment, and one that hangs sends nothing. So it does not send the
front process its state: it writes it into memory that both map, at the cost of a few stores per
pass.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

# More pictures than a worker ever has: two for each 32 slots of the largest pass.
_MOST = 2**13
_BEATS, _TURNS, _SHOWN, _FIRST = range(4)
# Each of two lists has its length and its ids.
_LIST = 1 + _MOST
_BYTES = 8 * (_FIRST + 2 * _LIST)


class SharedStatus:
    """The memory behind a file descriptor.

    - ``beats`` grows as long as the process lives and is not stopped, whatever it does.
    - ``turns`` grows with everything that the worker's loop does: pictures admitted, passes made.
    - ``running`` has the ids of the pictures in progress: in a pass that was submitted, or being
      encoded.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory: NDArray[np.int64] = np.frombuffer(mmap.mmap(descriptor, _BYTES), np.int64)

    @classmethod
    def create(cls) -> Self:
        """Return an empty status."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("pixeldp-status")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.truncate(descriptor, _BYTES)
        return cls(descriptor)

    def close(self) -> None:
        """Close the file descriptor; the mapped memory stays as long as something refers to it."""
        os.close(self.descriptor)

    @property
    def beats(self) -> int:
        """How often the process has shown that it lives."""
        return int(self._memory[_BEATS])

    @property
    def turns(self) -> int:
        """How much its loop has done."""
        return int(self._memory[_TURNS])

    @property
    def running(self) -> set[int]:
        """The pictures in progress."""
        shown = self._list(int(self._memory[_SHOWN]))
        return set(shown[1 : 1 + int(shown[0])].tolist())

    def beat(self) -> None:
        """Show that the process lives."""
        self._memory[_BEATS] += 1

    def begin(self, ids: Sequence[int]) -> None:
        """Note the pictures that are in progress from now on; as many as there is room for."""
        # Written beside the former pictures, and then shown: a death in between leaves those.
        other = 1 - int(self._memory[_SHOWN])
        written, ids = self._list(other), ids[:_MOST]
        written[1 : 1 + len(ids)] = ids
        written[0] = len(ids)
        self._memory[_SHOWN] = other

    def end(self, others: Sequence[int] = ()) -> None:
        """Note that work is done, and which pictures are still in progress."""
        self.begin(others)
        self._memory[_TURNS] += 1

    def _list(self, which: int) -> NDArray[np.int64]:
        return self._memory[_FIRST + which * _LIST :][:_LIST]

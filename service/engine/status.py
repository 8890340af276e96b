"""What a worker last wrote down, in memory that outlives it.

A worker may be killed at any moment, and one that hangs says nothing. So it does not tell the front
process what it is at: it writes it on a status, memory that both map, at the cost of a few stores a
pass.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

# More pictures than a worker ever has at a time: two for each 32 slots of the largest pass.
_MOST = 2**13
_BEATS, _TURNS, _COUNT, _FIRST = range(4)
_BYTES = 8 * (_FIRST + _MOST)


class SharedStatus:
    """The memory behind a file descriptor.

    - ``beats`` grows as long as the process lives and is not stopped, whatever it is doing.
    - ``turns`` grows with all that the worker's loop does: pictures taken in, passes made.
    - ``running`` are the ids of the pictures that it is at right now: in a pass, or being encoded.
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
        """Give the file descriptor back; what is mapped stays until nobody refers to it."""
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
        """The pictures that it is at."""
        count = int(self._memory[_COUNT])
        return set(self._memory[_FIRST : _FIRST + count].tolist())

    def beat(self) -> None:
        """Show that the process lives."""
        self._memory[_BEATS] += 1

    def begin(self, ids: Sequence[int]) -> None:
        """Note the pictures that are worked on from now on."""
        # The count last: a death in between finds the former pictures, or none.
        self._memory[_COUNT] = 0
        self._memory[_FIRST : _FIRST + len(ids)] = ids
        self._memory[_COUNT] = len(ids)

    def end(self) -> None:
        """Note that this work is done."""
        self._memory[_COUNT] = 0
        self._memory[_TURNS] += 1

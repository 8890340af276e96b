"""Writes log lines to standard error, which may block, fill up or disappear.

Logging must neither wait nor fail because of that: the event loop answers all clients, and a
supervisor that fails at a log line no longer supervises. So lines are queued, a separate thread
writes them, and lines that cannot be written are counted and dropped.
"""

import contextlib
import io
import os
import select
import threading
from collections.abc import Callable
from queue import SimpleQueue

# The most bytes that may wait, and the longest line that is kept until it is complete.
MOST_BYTES = 4 * 2**20
LONGEST_LINE = 64 * 2**10
# At the end of the process, the time for lines that still wait.
LAST_SECONDS = 1.0


class Outlet(io.TextIOBase):
    """A text stream that accepts lines at once, whatever happens to its descriptor.

    Args:
        descriptor: receives the lines; it stays open.
        on_recovery: called by the writing thread with the number of dropped lines, as soon as lines
            can be written again and none waits.

    Attributes:
        dropped: the number of lines that were not written completely.
    """

    def __init__(self, descriptor: int, on_recovery: Callable[[int], None]) -> None:
        self._descriptor, self._on_recovery = descriptor, on_recovery
        self.dropped = self._told = 0
        self._waiting = 0
        self._rest = ""
        self._torn = False
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        # A signal handler may log while the interrupted thread is logging.
        self._lock = threading.RLock()
        self._over = threading.Event()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Accept text; complete lines are written as soon as possible."""
        with self._lock:
            whole, newline, self._rest = (self._rest + text).rpartition("\n")
            if newline:
                self._put(whole + newline)
            if len(self._rest) > LONGEST_LINE:
                whole, self._rest = self._rest, ""
                self._put(whole)
        return len(text)

    def close(self) -> None:
        """Write the waiting lines, if that is possible soon."""
        with self._lock:
            if self._rest:
                self._put(self._rest + "\n")
                self._rest = ""
        self._queue.put(None)
        self._over.wait(LAST_SECONDS)

    def writable(self) -> bool:
        """Say that it accepts text."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Say whether the lines go to a terminal."""
        return os.isatty(self._descriptor)

    def _put(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        if self._waiting + len(data) > MOST_BYTES:
            self.dropped += _lines(data)
        else:
            self._waiting += len(data)
            self._queue.put(data)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._write(data)
            with self._lock:
                self._waiting -= len(data)
        self._over.set()

    def _write(self, data: bytes) -> None:
        left = memoryview(b"\n" + data if self._torn else data)
        try:
            while left:
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(self._descriptor, left) :]
                    continue
                # Another process that shares the descriptor has made it non-blocking.
                ready = select.poll()
                ready.register(self._descriptor, select.POLLOUT)
                ready.poll()
        except OSError:
            with self._lock:
                self.dropped += _lines(left)
            self._torn |= 0 < len(left) < len(data)
            return
        self._torn = False
        if self.dropped > self._told and self._queue.empty():
            count, self._told = self.dropped - self._told, self.dropped
            self._on_recovery(count)


def _lines(data: bytes | memoryview) -> int:
    return max(1, bytes(data).count(b"\n"))

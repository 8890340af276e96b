"""Numbers that the processes of one service share: what is held, who waits, what keys may draw.

They are in memory that the main process makes and all front processes map. Each number has one
writer: a front has an account of its own, others only read it, and a total is a sum over accounts.
Whoever takes something adds it to its account first and looks at the total afterwards, so two that
take the last place at once both see both. When a front dies, the main process clears its account:
everything that it held is free again.

Only what a key may still draw has several writers. They take a lock of the kernel, which releases
it when its holder dies.
"""

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from service.http.guards.keys import BURST_SECONDS, Allowance, Key, KeysError

# The most keys that one run of the service may see.
MOST_KEYS = 2**16
# The most accounts: of the main process and of the fronts.
MOST_ACCOUNTS = 65
_WORD = 8
# Words of a row.
_ROW = 8
_HEADER = 64


class Sign(IntEnum):
    """What the main process says to all fronts at once, by its place in the memory."""

    READY = 0  # workers answer pictures, and every front knows how
    OPENED = 1  # a worker has been ready
    DECODING = 2  # large pictures are decoded
    DRAINING = 3
    RETRY_SECONDS = 4
    KEYS = 5  # the number of rows in use; written under the lock


class Field(IntEnum):
    """A number of an account: in the row of a key, or in row 0 for all clients together."""

    # Pictures that wait: those that a front prepares or has sent to the main process, or those in
    # the queue of the main process; and, below 0, how many of a front's have arrived there, which
    # the main process writes.
    PLACES = 0
    ARRIVED = 1
    SMALL = 2
    LARGE = 3
    CONNECTIONS = 4


class Ledger:
    """The shared numbers.

    Args:
        descriptor: of the memory.
        accounts: the number of accounts; the first is the main process's.
    """

    def __init__(self, descriptor: int, accounts: int) -> None:
        self.descriptor, self.accounts = descriptor, accounts
        memory = mmap.mmap(descriptor, _words(accounts) * _WORD)
        self._numbers, self._floats = memoryview(memory).cast("q"), memoryview(memory).cast("d")
        self._bytes = memoryview(memory)
        self._rows: dict[bytes, int] = {}
        # Every request needs these several times.
        self._of_all = {field: self._places(field) for field in Field}
        self._waiting = (*self._of_all[Field.PLACES], *self._of_all[Field.ARRIVED])

    @classmethod
    def create(cls, accounts: int) -> "Ledger":
        """Make the memory; only the pages that are used take any."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("pixeldp-ledger")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.truncate(descriptor, _words(accounts) * _WORD)
        return cls(descriptor, accounts)

    def waiting(self, row: int = 0) -> int:
        """Return how many pictures wait, of all clients or of a key."""
        if row:
            return self.total(Field.PLACES, row) + self.total(Field.ARRIVED, row)
        return sum(map(self._numbers.__getitem__, self._waiting))

    def account(self, number: int) -> "Account":
        """Return an account."""
        return Account(self, self._numbers, _HEADER + (1 + number) * _ROW * MOST_KEYS)

    def say(self, sign: Sign, value: int) -> None:
        """Say something to all fronts; only the main process does."""
        self._numbers[sign] = value

    def said(self, sign: Sign) -> int:
        """Return what the main process says."""
        return self._numbers[sign]

    def total(self, field: Field, row: int = 0) -> int:
        """Return a sum over all accounts."""
        places = self._places(field, row) if row else self._of_all[field]
        return sum(map(self._numbers.__getitem__, places))

    def _places(self, field: Field, row: int = 0) -> range:
        """Return where a number is in each account."""
        first = _HEADER + _ROW * (MOST_KEYS + row) + field
        step = _ROW * MOST_KEYS
        return range(first, first + step * self.accounts, step)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Change what keys may draw while no other process does."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def allowance(self, key: Key) -> Allowance:
        """Return what a key may still draw over all fronts.

        Raises:
            KeysError: the service has seen too many keys.
        """
        return _SharedAllowance(self, self._row(bytes.fromhex(key.sha256)), key.rate)

    def _row(self, digest: bytes) -> int:
        """Return the row of a key; rows are never given to another."""
        with self.locked():
            for row in range(len(self._rows) + 1, self.said(Sign.KEYS) + 1):
                start = _WORD * (_HEADER + _ROW * row)
                self._rows[bytes(self._bytes[start : start + len(digest)])] = row
            row = self._rows.setdefault(digest, len(self._rows) + 1)
            if row >= MOST_KEYS:
                del self._rows[digest]
                raise KeysError(f"a service takes {MOST_KEYS - 1:,} keys until its next start")
            if row > self.said(Sign.KEYS):
                start = _WORD * (_HEADER + _ROW * row)
                self._bytes[start : start + len(digest)] = digest
                self._numbers[Sign.KEYS] = row
        return row

    def bucket(self, row: int) -> "memoryview[float]":
        """Return a key's rate, level, and when that was its level."""
        start = _HEADER + _ROW * row + 4
        return self._floats[start : start + 3]


class Account:
    """The numbers of one process.

    Args:
        ledger: all of them.
        numbers: the memory, in words.
        start: where the account is.
    """

    def __init__(self, ledger: Ledger, numbers: "memoryview[int]", start: int) -> None:
        self.ledger, self._numbers, self._start = ledger, numbers, start
        self._used: set[int] = set()

    def add(self, field: Field, size: int, row: int = 0) -> None:
        """Add to a number of all clients, and to that of a key."""
        self.count(field, size)
        if row:
            self.count(field, size, row)

    def count(self, field: Field, size: int, row: int = 0) -> None:
        """Add to one number."""
        self._numbers[self._start + _ROW * row + field] += size

    def of(self, field: Field, row: int = 0) -> int:
        """Return one of its numbers."""
        return self._numbers[self._start + _ROW * row + field]

    def clear(self) -> None:
        """Return everything that a process held which has ended."""
        rows = 1 + self.ledger.said(Sign.KEYS)
        for word in range(self._start, self._start + _ROW * rows):
            self._numbers[word] = 0


class _SharedAllowance(Allowance):
    """What a key may draw, over all front processes."""

    def __init__(self, ledger: Ledger, row: int, rate: float | None) -> None:
        self.number, self.rate = row, rate
        self._ledger, self._bucket = ledger, ledger.bucket(row)
        if rate is None:
            return
        self._most = rate * BURST_SECONDS
        with ledger.locked():
            if self._bucket[0] != rate:  # a key that is new, or has another rate
                self._bucket[0], self._bucket[1] = rate, self._most
                self._bucket[2] = time.monotonic()

    def wait(self, own: float = 0.0) -> float:
        """See ``Allowance.wait``."""
        if self.rate is None:
            return 0.0
        with self._ledger.locked():
            now = time.monotonic()
            since, self._bucket[2] = self._bucket[2], now
            level = min(self._most, self._bucket[1] + self.rate * (now - since))
            self._bucket[1] = level
        return max(0.0, -(level + own) / self.rate)

    def take(self, draws: float) -> None:
        """See ``Allowance.take``."""
        if self.rate is not None:
            with self._ledger.locked():
                self._bucket[1] = min(self._most, self._bucket[1] - draws)


def _words(accounts: int) -> int:
    return _HEADER + (1 + accounts) * _ROW * MOST_KEYS

"""The one account of the bytes that the front process holds for clients.

Two kinds of holders share it. **Requests** hold what is needed to answer them: the request itself,
its body while it is received and parsed, files that wait to be decoded, and pictures that wait for
a worker or that a worker has. They ask before they take, and are refused if there is no room.
**Connections** hold bytes that were received but not yet read by a request, and answers that the
client has not read. They cannot ask: the slowest are cut when together they hold more than their
share.

Each kind has a share of the whole, so that none can keep the others out: large requests a half,
small ones a quarter, connections a quarter. One large request always fits if it is the only one, so
the sum never exceeds the whole plus one request. A key has at most half of each share, whatever its
rate.
"""

from typing import Self
from weakref import WeakKeyDictionary

# What a request without a body holds: its task, its headers, and the data of its route.
REQUEST_BYTES = 2**15
# Requests up to this size are small: most pictures are, and get through while large ones wait.
SMALL = REQUEST_BYTES + 2**16


class NoRoomError(Exception):
    """There is no room for the bytes that a request wants to hold."""


class Budget:
    """The account of everything that is held.

    Args:
        most: the whole budget, in bytes.

    Attributes:
        small: bytes that requests of up to ``SMALL`` bytes hold.
        large: bytes that larger ones hold.
        connections: bytes that connections hold.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.small = self.large = self.connections = 0
        self._owners: WeakKeyDictionary[object, Budget] = WeakKeyDictionary()

    def of(self, owner: object) -> "Budget":
        """Return the budget of one key; its requests hold in both."""
        return self._owners.setdefault(owner, Budget(self.most // 2))

    @property
    def held(self) -> int:
        """The sum of all held bytes."""
        return self.small + self.large + self.connections

    @property
    def connections_share(self) -> int:
        """Bytes that connections may hold."""
        return self.most // 4

    @property
    def crowded(self) -> bool:
        """Whether connections hold more than their share."""
        return self.connections > self.connections_share

    @property
    def full(self) -> bool:
        """Whether there is no room for another request."""
        return self.small + REQUEST_BYTES > self._small_share

    def fits(self, holding: "Holding") -> bool:
        """Whether a request's bytes fit, which are already counted."""
        if holding.size > SMALL:
            return self.large <= max(self.most // 2, holding.size)
        return self.small <= self._small_share

    def count_connections(self, size: int) -> None:
        """Add bytes that connections hold, or subtract them if negative."""
        self.connections += size

    def add(self, holding: "Holding", sign: int) -> None:
        """Add a request's bytes (sign 1), or subtract them (sign -1)."""
        if holding.size > SMALL:
            self.large += sign * holding.size
        else:
            self.small += sign * holding.size

    @property
    def _small_share(self) -> int:
        return max(self.most // 4, SMALL)


class Holding:
    """The bytes that one request holds; as a context manager it releases them at its end."""

    def __init__(self, budget: Budget) -> None:
        self._budgets = [budget]
        self.size = 0

    def belong(self, owner: object) -> None:
        """Hold on the account of a key, too.

        Raises:
            NoRoomError: requests of that key already hold too much.
        """
        own = self._budgets[0].of(owner)
        own.add(self, 1)
        self._budgets.append(own)
        if not own.fits(self):
            raise NoRoomError("requests of this key already hold all that they may")

    def take(self, size: int) -> None:
        """Hold ``size`` more bytes.

        Raises:
            NoRoomError: there is no room for them; nothing has changed.
        """
        self.count(size)
        if size > 0 and not all(budget.fits(self) for budget in self._budgets):
            self.count(-size)
            raise NoRoomError(f"{self._budgets[0].held:,} bytes are already held")

    def count(self, size: int) -> None:
        """Hold ``size`` more bytes, or fewer if negative, without asking."""
        for budget in self._budgets:
            budget.add(self, -1)
        self.size += size
        for budget in self._budgets:
            budget.add(self, 1)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release everything."""
        self.count(-self.size)


class File:
    """A picture file as it was sent, held until it is decoded.

    Code that passes it on keeps no reference to the bytes, so that they are freed on release.

    Args:
        content: the bytes; their request already holds them.
        holding: that request's holding.
    """

    def __init__(self, content: bytes, holding: Holding) -> None:
        self._content: bytes | None = content
        self.holding, self.size = holding, len(content)

    @property
    def content(self) -> bytes:
        """The bytes; empty after they have been released."""
        return self._content or b""

    def hand_over(self) -> bytes:
        """Return the bytes, which somebody else keeps until this is released."""
        content, self._content = self.content, b""
        return content

    def release(self) -> None:
        """Drop the bytes, and hold them no longer."""
        if self._content is not None:
            self._content = None
            self.holding.count(-self.size)

"""The one account of the bytes that the front process holds for clients.

Two kinds of holders share it. **Requests** hold what they are worked on with: the request itself,
its body while that is received and taken apart, files that wait to be decoded, pictures that wait
for a worker or are with one. They ask before they take, and are refused if there is no room.
**Connections** hold what was read but not yet taken by a request, and answers that the client has
not taken. Nobody can be asked there: the slowest are cut when together they hold more than their
share.

Each kind has a share of the whole, so that none can keep the others out: large requests a half,
small ones a quarter, connections a quarter. One large request always fits when it is the only one;
so all that is held is never more than the whole and one request. And whoever has a key has no more
than half of each share, whatever the key allows.
"""

from typing import Self
from weakref import WeakKeyDictionary

# What a request takes that has no body yet: its task, its headers, what its route depends on.
REQUEST_BYTES = 2**15
# A request is small up to here: most pictures are, and come through however many large ones wait.
SMALL = REQUEST_BYTES + 2**16


class NoRoomError(Exception):
    """There is no room for what a request wants to hold."""


class Budget:
    """All that is held.

    Args:
        most: the whole, in bytes.

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
        """Return what the requests of one key may hold together; its requests hold in both."""
        return self._owners.setdefault(owner, Budget(self.most // 2))

    @property
    def held(self) -> int:
        """Bytes that are held together."""
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
        """Whether a request may hold what it holds, which is counted already."""
        if holding.size > SMALL:
            return self.large <= max(self.most // 2, holding.size)
        return self.small <= self._small_share

    def add(self, holding: "Holding", sign: int) -> None:
        """Count what a request holds: 1, or no longer: -1."""
        if holding.size > SMALL:
            self.large += sign * holding.size
        else:
            self.small += sign * holding.size

    @property
    def _small_share(self) -> int:
        return max(self.most // 4, SMALL)


class Holding:
    """What one request holds; as a context manager it gives everything back at its end."""

    def __init__(self, budget: Budget) -> None:
        self._budgets = [budget]
        self.size = 0

    def belong(self, owner: object) -> None:
        """Hold on account of a key, too.

        Raises:
            NoRoomError: requests of that key hold too much already.
        """
        own = self._budgets[0].of(owner)
        own.add(self, 1)
        self._budgets.append(own)
        if not own.fits(self):
            raise NoRoomError("requests of this key hold all that they may")

    def take(self, size: int) -> None:
        """Hold ``size`` bytes more.

        Raises:
            NoRoomError: there is no room for them. Nothing has changed.
        """
        self.count(size)
        if size > 0 and not all(budget.fits(self) for budget in self._budgets):
            self.count(-size)
            raise NoRoomError(f"{self._budgets[0].held:,} bytes are held already")

    def count(self, size: int) -> None:
        """Hold ``size`` bytes more, or less if negative, without asking."""
        for budget in self._budgets:
            budget.add(self, -1)
        self.size += size
        for budget in self._budgets:
            budget.add(self, 1)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give everything back."""
        self.count(-self.size)


class File:
    """A picture file as it was sent, held until it is decoded.

    Whoever passes it on keeps no reference to the bytes, so that they are free when it is taken.

    Args:
        content: the bytes; their request holds them already.
        holding: what that request holds.
    """

    def __init__(self, content: bytes, holding: Holding) -> None:
        self._content: bytes | None = content
        self.holding, self.size = holding, len(content)

    @property
    def content(self) -> bytes:
        """The bytes; empty when they have been released."""
        return self._content or b""

    def release(self) -> None:
        """Forget the bytes and hold them no longer."""
        if self._content is not None:
            self._content = None
            self.holding.count(-self.size)

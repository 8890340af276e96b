"""The memory budget of all clients over several front processes."""

from weakref import WeakKeyDictionary

from service.fronts.ledger import Account, Field
from service.http.guards.budget import SMALL, Budget, Holding
from service.http.guards.keys import Allowance


class SharedBudget(Budget):
    """A budget whose numbers are sums over all front processes.

    Args:
        most: the whole budget, in bytes.
        account: where this process counts what it holds.
        row: of the key whose budget it is; 0 for all clients.
    """

    def __init__(self, most: int, account: Account, row: int = 0) -> None:
        self.most, self._account, self._row = most, account, row
        self._own: WeakKeyDictionary[object, SharedBudget] = WeakKeyDictionary()

    def of(self, owner: object) -> "SharedBudget":
        """Return the budget of one key; its requests hold in both."""
        assert isinstance(owner, Allowance)
        mine = SharedBudget(self.most // 2, self._account, owner.number)
        return self._own.setdefault(owner, mine)

    @property
    def small(self) -> int:  # type: ignore[override]
        """Bytes that small requests hold."""
        return self._account.ledger.total(Field.SMALL, self._row)

    @property
    def large(self) -> int:  # type: ignore[override]
        """Bytes that larger ones hold."""
        return self._account.ledger.total(Field.LARGE, self._row)

    @property
    def connections(self) -> int:  # type: ignore[override]
        """Bytes that connections hold."""
        return self._account.ledger.total(Field.CONNECTIONS)

    def count_connections(self, size: int) -> None:
        """Add bytes that connections of this process hold, or subtract them if negative."""
        self._account.add(Field.CONNECTIONS, size)

    def add(self, holding: Holding, sign: int) -> None:
        """Add a request's bytes (sign 1), or subtract them (sign -1)."""
        field = Field.LARGE if holding.size > SMALL else Field.SMALL
        self._account.count(field, sign * holding.size, self._row)

"""Numbers that several processes share. Each ``Ledger`` here maps the memory once more."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.fronts import ledger as module
from service.fronts.ledger import Field, Ledger, Sign
from service.fronts.shared import SharedBudget
from service.http.guards.budget import REQUEST_BYTES, SMALL, Budget, Holding, NoRoomError
from service.http.guards.keys import Allowance, Key, Keys, KeysError, add, digest

MOST = 2**22


def fronts(count: int = 2) -> list[Ledger]:
    first = Ledger.create(1 + count)
    return [Ledger(first.descriptor, 1 + count) for _ in range(count)]


def key(name: str, rate: float | None) -> Key:
    return Key(
        name=name,
        sha256=digest(name),
        scopes=frozenset({"predict"}),
        rate=rate,
        created=datetime.now(UTC),
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that advances only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def go(seconds: float) -> None:
        now[0] += seconds

    return go


def test_a_rate_is_one_rate_over_all_fronts(clock: Callable[[float], None]) -> None:
    """Whatever each front takes and refunds, all fronts see what one process would see."""
    one, two = (ledger.allowance(key("shop", 100.0)) for ledger in fronts())
    alone = Allowance(100.0)
    assert one.number == two.number > 0
    for turn, draws in enumerate([150, 100, -30, 400, 1, -200, 900, -1000, 7]):
        (one, two)[turn % 2].take(draws)
        alone.take(draws)
        assert one.wait() == two.wait() == pytest.approx(alone.wait())
        assert one.wait(20.0) == two.wait(20.0) == pytest.approx(alone.wait(20.0))
        clock(0.3 * turn)


def test_a_new_rate_starts_afresh_and_an_old_one_continues(clock: Callable[[float], None]) -> None:
    one, two = fronts()
    one.allowance(key("shop", 1.0)).take(1000)
    assert two.allowance(key("shop", 1.0)).wait() > 900
    assert two.allowance(key("shop", 2.0)).wait() == 0
    unlimited = one.allowance(key("free", None))
    unlimited.take(1e9)
    assert unlimited.wait() == 0


def test_rows_are_the_same_in_all_fronts_whatever_the_order() -> None:
    one, two = fronts()
    names = [f"key{number}" for number in range(50)]
    rows = {name: one.allowance(key(name, 1.0)).number for name in names[::2]}
    found = {name: two.allowance(key(name, 1.0)).number for name in reversed(names)}
    assert rows.items() <= found.items()
    assert sorted(found.values()) == list(range(1, 51))
    assert {name: one.allowance(key(name, 1.0)).number for name in names} == found


def test_too_many_keys_leave_the_keys_as_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "MOST_KEYS", 3)
    ledger = Ledger.create(2)
    path = tmp_path / "keys.json"
    secret = add(path, "first", ["predict"], None)
    keys = Keys(path, ledger.allowance)
    add(path, "second", ["predict"], None)
    assert keys.find(secret) is not None
    late = add(path, "third", ["predict"], None)
    assert keys.find(late) is None
    assert keys.find(secret) is not None
    with pytest.raises(KeysError, match="takes 2 keys"):
        ledger.allowance(key("fourth", None))


HOLDS = """
import fcntl, sys, time
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(3600)
"""


def test_a_process_that_dies_releases_the_lock() -> None:
    one, _ = fronts()
    command = [sys.executable, "-c", HOLDS, str(one.descriptor)]
    with subprocess.Popen(
        command, pass_fds=[one.descriptor], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError):
            fcntl.lockf(one.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(holder.pid, signal.SIGKILL)
        allowance = one.allowance(key("shop", 5.0))  # which waits for the lock
    assert allowance.wait() == 0


def test_places_are_shared_and_come_back() -> None:
    one, two = fronts()
    first, second = one.account(1), two.account(2)
    first.add(Field.PLACES, 3, row=7)
    second.add(Field.PLACES, 2, row=7)
    second.add(Field.PLACES, 4)
    main = Ledger(one.descriptor, one.accounts)
    assert (main.waiting(), main.waiting(7), one.waiting(8)) == (9, 5, 0)
    main.account(2).add(Field.ARRIVED, -1, row=7)
    assert (one.waiting(), one.waiting(7)) == (8, 4)
    main.say(Sign.KEYS, 7)
    main.account(2).clear()
    assert (one.waiting(), two.waiting(7)) == (3, 3)
    main.account(1).clear()
    assert (one.waiting(), two.waiting(7)) == (0, 0)


def test_a_shared_budget_counts_as_one_process_does() -> None:
    ledgers = fronts()
    shared = [SharedBudget(MOST, one.account(1 + i)) for i, one in enumerate(ledgers)]
    alone = Budget(MOST)
    owners = [one.allowance(key("shop", None)) for one in ledgers]
    held: list[tuple[Holding, Holding]] = []
    outcomes = []
    for turn, size in enumerate([REQUEST_BYTES, SMALL, MOST // 2, MOST // 3, 10, MOST // 4] * 3):
        pair = Holding(shared[turn % 2]), Holding(alone)
        for holding, owner in zip(pair, (owners[turn % 2], owners[0]), strict=True):
            outcome = "taken"
            try:
                holding.take(size)
                holding.belong(owner)
            except NoRoomError as error:
                outcome = str(error)
            outcomes.append(outcome)
        held.append(pair)
        alone.count_connections(turn)
        shared[turn % 2].count_connections(turn)
        for one in shared:
            assert (one.small, one.large, one.connections) == (
                alone.small,
                alone.large,
                alone.connections,
            )
            assert (one.full, one.crowded, one.held) == (alone.full, alone.crowded, alone.held)
        if turn % 4 == 3:
            for holding in held.pop(0):
                holding.count(-holding.size)
    assert outcomes[::2] == outcomes[1::2]
    assert len(set(outcomes)) > 2


def test_memory_held_by_a_dead_front_is_freed() -> None:
    one, two = fronts()
    shared = SharedBudget(MOST, one.account(1)), SharedBudget(MOST, two.account(2))
    owner = one.allowance(key("shop", None))
    large = Holding(shared[0])
    large.take(MOST // 4)
    large.belong(owner)
    with pytest.raises(NoRoomError):
        Holding(shared[1]).take(MOST // 2)
    Ledger(one.descriptor, one.accounts).account(1).clear()
    assert shared[1].held == shared[1].of(owner).held == 0
    Holding(shared[1]).take(MOST // 2)

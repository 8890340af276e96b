"""The memory that the front holds for clients: shares, and what is returned."""

import random

import pytest

from service.http.guards.budget import REQUEST_BYTES, SMALL, Budget, File, Holding, NoRoomError

MOST = 64 * SMALL
LARGE = SMALL + 1


class Key:
    """The client whose requests these are."""


def fill(budget: Budget, size: int, key: Key | None = None) -> int:
    """Let requests of one size take memory until one is refused; return how many were accepted."""
    for count in range(1000):
        holding = Holding(budget)
        try:
            if key:
                holding.belong(key)
            holding.take(size)
        except NoRoomError:
            return count
    raise AssertionError("it has no end")


def test_memory_that_is_taken_is_returned() -> None:
    budget = Budget(MOST)
    with Holding(budget) as holding:
        holding.take(1000)
        assert (budget.small, budget.large) == (1000, 0)
        holding.take(SMALL)
        assert (budget.small, budget.large) == (0, 1000 + SMALL)
        holding.count(-SMALL)
        assert (budget.small, budget.large) == (1000, 0)
    assert budget.held == 0


def test_requests_never_take_more_than_the_budget_and_one_request() -> None:
    """Random requests that begin and end in any order, some far larger than the budget."""
    chance = random.Random(0)
    budget, open_, keys = Budget(MOST), list[Holding](), [Key(), Key(), Key()]
    sizes = (1, 1000, REQUEST_BYTES, SMALL, 10 * SMALL, MOST, 3 * MOST)
    refused = 0
    for _ in range(20_000):
        if open_ and chance.random() < 0.45:
            open_.pop(chance.randrange(len(open_))).__exit__()
            continue
        holding = chance.choice(open_) if open_ and chance.random() < 0.5 else Holding(budget)
        try:
            if not holding.size and chance.random() < 0.5:
                holding.belong(chance.choice(keys))
            holding.take(chance.choice(sizes))
        except NoRoomError:
            refused += 1
            holding.__exit__()
            open_ = [one for one in open_ if one is not holding]
            continue
        if holding not in open_:
            open_.append(holding)
        largest = max(one.size for one in open_)
        assert budget.held == sum(one.size for one in open_)
        assert budget.held <= MOST // 2 + MOST // 4 + largest
    assert refused > 100
    for holding in open_:
        holding.__exit__()
    assert budget.held == 0
    assert all(budget.of(key).held == 0 for key in keys)


def test_large_requests_leave_room_for_small_ones() -> None:
    budget = Budget(MOST)
    assert fill(budget, LARGE) == MOST // 2 // LARGE
    for _ in range(10):
        Holding(budget).take(SMALL)
    assert not budget.full


def test_small_requests_leave_room_for_a_large_one() -> None:
    budget = Budget(MOST)
    assert fill(budget, REQUEST_BYTES) == MOST // 4 // REQUEST_BYTES
    assert budget.full
    Holding(budget).take(10 * MOST)


def test_a_key_cannot_keep_the_others_out() -> None:
    """However many requests it sends, large or small."""
    budget, greedy = Budget(MOST), Key()
    for size in (SMALL // 2, LARGE):
        fill(budget, size, greedy)
        for owner in (Key(), None):
            other = Holding(budget)
            if owner:
                other.belong(owner)
            other.take(size)


def test_a_refusal_changes_nothing() -> None:
    budget = Budget(MOST)
    first, second = Holding(budget), Holding(budget)
    first.take(MOST)
    second.take(5)
    with pytest.raises(NoRoomError):
        second.take(LARGE)
    assert (second.size, budget.held) == (5, MOST + 5)


def test_a_file_is_held_until_it_is_released() -> None:
    budget = Budget(MOST)
    with Holding(budget) as holding:
        holding.count(100)
        file = File(bytes(100), holding)
        file.release()
        assert (budget.held, file.content) == (0, b"")
        file.release()
        assert budget.held == 0

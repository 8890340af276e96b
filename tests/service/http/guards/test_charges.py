"""The charge for a picture: its draws, but at least the worth of the front's time for it."""

from contextvars import copy_context

import pytest

from service.http.guards import auth
from service.http.guards.auth import LEAST_COST, PICTURE_SECONDS, Caller, charge
from service.http.guards.keys import Allowance
from service.http.usage import begin


def charged(budget: int, used: int, speed: float) -> float:
    """Return the draws that are finally charged, if a worker makes ``speed`` draws a second."""

    def ask() -> float:
        auth._caller.set(Caller(Allowance(1.0)))
        usage = begin()
        with charge(budget, speed) as bill:
            assert usage.charged >= budget
            bill.draws = used
        return usage.charged

    return copy_context().run(ask)


@pytest.mark.parametrize(
    ("used", "speed", "cost"),
    [
        (500, 1e4, 500),  # draws cost more than anything else
        (8, 1e4, LEAST_COST),
        (8, 0.0, LEAST_COST),  # no worker is ready
        (64, 1e6, PICTURE_SECONDS * 1e6),  # draws cost almost nothing
    ],
)
def test_a_picture_costs_its_draws_or_the_fronts_time(used: int, speed: float, cost: float) -> None:
    assert charged(1000, used, speed) == pytest.approx(cost)

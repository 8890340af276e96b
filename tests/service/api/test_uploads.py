"""Large bodies share a budget; small ones come through."""

import pytest

from service.api.problems import Problem
from service.api.uploads import SMALL, Uploads

LARGE = SMALL + 1


def test_what_is_received_is_given_back() -> None:
    uploads = Uploads(10 * LARGE)
    with uploads.body() as first, uploads.body() as second:
        assert first.add(1000) == 1000
        assert uploads.held == 0
        assert first.add(SMALL) == SMALL + 1000
        assert uploads.held == SMALL + 1000
        second.add(LARGE)
        assert uploads.held == SMALL + 1000 + LARGE
    assert uploads.held == 0


def test_large_bodies_together_are_bounded() -> None:
    uploads = Uploads(2 * LARGE)
    with uploads.body() as first, uploads.body() as second:
        first.add(LARGE)
        second.add(LARGE)
        with pytest.raises(Problem) as caught, uploads.body() as third:
            third.add(LARGE)
        assert caught.value.name == "overloaded"
        assert caught.value.members["retry_after_s"] >= 1
        assert uploads.held == 2 * LARGE
        with uploads.body() as small:
            small.add(SMALL)


def test_one_large_body_is_always_received() -> None:
    uploads = Uploads(LARGE)
    with uploads.body() as only:
        only.add(20 * LARGE)
    assert uploads.held == 0

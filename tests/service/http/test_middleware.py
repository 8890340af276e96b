"""W3C trace context, read as the recommendation requires."""

import pytest

from service.http.middleware import parse_traceparent

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
GOOD = b"00-" + TRACE + b"-" + SPAN + b"-01"


def test_a_valid_one() -> None:
    assert parse_traceparent([GOOD]) == (TRACE, SPAN, b"01")


def test_a_later_version_may_have_more() -> None:
    assert parse_traceparent([b"cc" + GOOD[2:]]) == (TRACE, SPAN, b"01")
    assert parse_traceparent([b"cc" + GOOD[2:] + b"-what-the-future-will-be-like"])


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"x"],
        [GOOD, GOOD],
        [GOOD + b"-more"],
        [b"cc" + GOOD[2:] + b".more"],
        [b"ff" + GOOD[2:]],
        [GOOD.upper()],
        [GOOD[:-1]],
        [GOOD + b"0"],
        [b" " + GOOD],
        [GOOD + b"\n"],
        [GOOD.replace(TRACE, b"0" * 32)],
        [GOOD.replace(SPAN, b"0" * 16)],
        [GOOD.replace(TRACE, TRACE[:-1] + b"g")],
        [GOOD.replace(b"-", b"_")],
    ],
)
def test_everything_else_is_none(values: list[bytes]) -> None:
    assert parse_traceparent(values) is None

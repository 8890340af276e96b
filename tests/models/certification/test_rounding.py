"""Rounding never makes a claim larger."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from models.certification.rounding import DIGITS, reduce_size, round_down, round_up


def round_size(value: float) -> float:
    """The number as an answer states it."""
    return round_down(float(reduce_size(value)))


positive = st.floats(1e-300, 1e300)


@given(value=positive)
def test_down_is_never_above_and_up_never_below(value: float) -> None:
    down, up = round_down(value), round_up(value)
    assert down <= value <= up
    for rounded in (down, up):
        assert float(f"{rounded:.{DIGITS - 1}e}") == rounded
        most = Fraction(value) * Fraction(10 ** (1 - DIGITS)) * Fraction(1.000001)
        assert abs(Fraction(rounded) - Fraction(value)) <= most + Fraction(5e-324)


@given(value=positive, more=st.floats(1, 10))
def test_rounding_keeps_order(value: float, more: float) -> None:
    assert round_size(value) <= round_size(value * more)
    assert round_down(value) <= round_down(value * more)


@given(value=st.floats(0, 1e300))
def test_sizes_are_reduced_by_more_than_their_computation_could_err(value: float) -> None:
    size = round_size(value)
    assert size >= 0
    assert size <= max(value * (1 - 1e-9), 0)
    if value > 1e-6:
        assert size <= value * (1 - 1e-9) - 0.9e-12
        assert size >= value * (1 - 1.1e-5) - 2e-12


def test_figures() -> None:
    assert round_down(0.5104059999) == 0.510405
    assert round_up(0.1536721) == 0.153673
    assert round_down(1.0) == round_up(1.0) == 1.0
    assert round_down(0.0) == round_up(0.0) == 0.0
    assert round_down(123456789.0) == 123456000.0
    assert round_up(1.23456000001e-7) == 1.23457e-7
    assert round_size(0.5) == 0.499999
    assert round_size(-1.0) == round_size(0.0) == round_size(1e-12) == 0.0

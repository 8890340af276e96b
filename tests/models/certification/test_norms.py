"""Conversions of sizes, tested with changes that try to break them."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.certification.names import NORMS, Norm
from models.certification.norms import check_norm, convert, required

ORDERS = {"l1": 1, "l2": 2, "linf": np.inf}
PAIRS = list(product(NORMS, NORMS))


def attacks(norm: Norm, size: float, values: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Changes of exactly ``size`` in ``norm`` (or the largest there is) with entries in [−1, 1]."""
    changes = []
    for count in {1, 2, max(int(size), 1), int(size) + 1, values // 2 + 1, values}:
        if count > values:
            continue
        delta = np.zeros(values)
        delta[:count] = 1.0
        if int(size) < count:
            delta[int(size)] = size - int(size) or delta[int(size)]
        changes += [delta, np.concatenate([np.ones(count), np.zeros(values - count)])]
    changes += [rng.normal(size=values) for _ in range(5)]
    scaled = []
    for delta in changes:
        # Scale up as far as the norm and the limits of the entries allow; entries at 1 stay there.
        low, high = 0.0, 1e6
        for _ in range(80):
            middle = (low + high) / 2
            inside = np.linalg.norm(np.clip(delta * middle, -1, 1), ORDERS[norm]) <= size
            low, high = (middle, high) if inside else (low, middle)
        scaled.append(np.clip(delta * low, -1, 1))
    return scaled


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_no_change_within_the_converted_size_exceeds_the_certified_one(
    source: Norm, target: Norm
) -> None:
    rng = np.random.default_rng(1)
    for values in (1, 2, 9, 784):
        for size in (0.0, 0.1, 0.5, 0.99, 1.0, 1.3, 2.7, 9.0):
            converted = float(convert(size, source, target, values))
            reached = max(
                np.linalg.norm(delta, ORDERS[source])
                for delta in attacks(target, converted, values, rng)
            )
            assert reached <= size * (1 + 1e-9) + 1e-12, (values, size)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_conversions_are_attained(source: Norm, target: Norm) -> None:
    """Nothing is given away: some change of the converted size is as large as the certified one."""
    rng = np.random.default_rng(2)
    for values, size in [(9, 0.3), (9, 0.9), (784, 0.5), (784, 2.0)]:
        converted = float(convert(size, source, target, values))
        if max(size, converted) > 1 and "linf" in (source, target):
            continue  # no change has entries above 1
        reached = max(
            np.linalg.norm(delta, ORDERS[source])
            for delta in attacks(target, converted, values, rng)
        )
        assert reached == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize(("source", "target"), PAIRS)
@given(size=st.floats(1e-6, 1e3), values=st.integers(1, 10**6))
def test_required_is_the_inverse(source: Norm, target: Norm, size: float, values: int) -> None:
    needed = required(size, source, target, values)
    # From L2 to L1, the slope is infinite where L² is an integer.
    tolerance = 1e-6 if (source, target) == ("l2", "l1") else 1e-12
    assert float(convert(needed, source, target, values)) == pytest.approx(size, rel=tolerance)
    back = float(convert(size, source, target, values))
    assert required(back, source, target, values) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize(("source", "norm"), PAIRS)
def test_required_covers_every_change_of_the_target(source: Norm, norm: Norm) -> None:
    """A change of size T in one norm has at most the size ``required`` in the other."""
    rng = np.random.default_rng(3)
    for values, size in [(9, 0.3), (9, 1.7), (784, 0.5), (784, 2.0)]:
        most = required(size, source, norm, values)
        for delta in attacks(norm, size, values, rng):
            assert np.linalg.norm(delta, ORDERS[source]) <= most * (1 + 1e-9)


def test_figures() -> None:
    assert float(convert(0.5, "l2", "linf", 784)) == pytest.approx(0.5 / 28)
    assert float(convert(0.5, "l2", "l1", 784)) == 0.5
    assert float(convert(3.0, "l2", "l1", 784)) == 9.0
    assert float(convert(1.25, "l2", "l1", 784)) == 1 + 0.75
    assert required(1.75, "l2", "l1", 784) == 1.25
    assert float(convert(2.0, "l1", "l2", 784)) == pytest.approx(2 / 28)
    assert float(convert(2.0, "l1", "linf", 784)) == pytest.approx(2 / 784)
    assert [float(convert(0.1, "linf", norm, 784)) for norm in NORMS] == [0.1, 0.1, 0.1]


def test_unknown_norms_raise() -> None:
    for call in (
        lambda: check_norm("l0"),
        lambda: convert(1.0, "l0", "l2", 4),  # type: ignore[arg-type]
        lambda: convert(1.0, "l2", "max", 4),  # type: ignore[arg-type]
        lambda: required(1.0, "l2", "max", 4),  # type: ignore[arg-type]
        lambda: required(1.0, "", "l2", 4),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"unknown norm .*; known: l1, l2, linf"):
            call()

"""The thresholds of the noise kernel, compared with 40 digits."""

from fractions import Fraction
from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
import pytest

from models.certification.laws import LAWS
from models.certification.names import Mechanism
from models.cuda.tables import ERROR, TABLED, Tables, make_tables, reference, uniforms
from models.noise import CELLS, FINEST, PIXEL_STEP, SUBSTEPS, GridNoise

GRIDS: list[tuple[Mechanism, float, float, float]] = [
    ("gaussian", 0.5, PIXEL_STEP, 1.0),
    ("gaussian", 0.37, 0.37 / 64, 256 * 0.37),
    ("gaussian", 1.0, 1.0, 4.0),
    ("laplace", 0.35, PIXEL_STEP, 1.0),
    ("laplace", 1.0, 1.0, 4.0),
]
IDS = [f"{mechanism}-{scale / step:.4g}" for mechanism, scale, step, _ in GRIDS]


def exact_tail(mechanism: Mechanism, t: Fraction) -> Any:
    """2⁶⁴·P(X > t), t in scales, to 40 digits."""
    with mp.workdps(45):
        x = mp.mpf(t.numerator) / t.denominator
        return mp.ldexp(mp.ncdf(-x) if mechanism == "gaussian" else mp.exp(-x) / 2, 64)


@pytest.fixture(scope="module", params=GRIDS, ids=IDS)
def grid(request: pytest.FixtureRequest) -> GridNoise:
    return GridNoise(*request.param)


@pytest.fixture(scope="module")
def tables(grid: GridNoise) -> Tables:
    return make_tables(grid.mechanism, grid.scale, grid.step)


def test_edges_are_the_distribution_function_to_the_last_bit(
    grid: GridNoise, tables: Tables
) -> None:
    spread = Fraction(grid.scale) / Fraction(grid.step)
    half = len(tables.edges) // 2
    assert tables.lowest == -half
    assert (np.diff(tables.edges.astype(object)) >= 0).all()
    rng = np.random.default_rng(0)
    chosen = {0, 1, half - 1, *(int(n) for n in rng.integers(half, size=60))}
    for n in chosen:
        tail = exact_tail(grid.mechanism, Fraction(2 * n + 1, 2) / spread)
        with mp.workdps(45):
            nearest = int(mp.floor(tail + mp.mpf("0.5")))
        # Noise of at most −n−1 for uniforms below the one, of at least n+1 from the other on.
        assert int(tables.edges[half - 1 - n]) == nearest
        assert int(tables.edges[half + n]) == 2**64 - nearest
    beyond = exact_tail(grid.mechanism, Fraction(2 * half + 1, 2) / spread)
    assert beyond < 0.5


def test_the_tail_between_grid_points_errs_by_no_more_than_tau_allows(
    grid: GridNoise, tables: Tables
) -> None:
    spread = Fraction(grid.scale) / Fraction(grid.step)
    end = len(tables.segments) << tables.bits
    rng = np.random.default_rng(1)
    places = [0, 1, end - 1, *(int(t) for t in rng.integers(end, size=400))]
    # Starts, middles and ends of segments.
    inside = 1 << tables.bits
    for segment in rng.integers(len(tables.segments), size=60).tolist():
        places += [segment * inside, segment * inside + inside // 2, (segment + 1) * inside - 1]
    found = tables.tail(np.array(places))
    for t, tail in zip(places, found.tolist(), strict=True):
        exact = exact_tail(grid.mechanism, Fraction(t, SUBSTEPS) / spread)
        assert abs(tail - exact) <= ERROR
    assert tables.tail(np.array([end, 2**40])).tolist() == [0, 0]
    assert exact_tail(grid.mechanism, Fraction(end, SUBSTEPS) / spread) <= ERROR
    assert inside / (float(spread) * SUBSTEPS) <= 2.0**-12


def test_the_error_between_grid_points_is_within_tau(grid: GridNoise, tables: Tables) -> None:
    """The sum in the module's docstring, with the figures of each grid."""
    reach = -float(grid._quantiles(np.array(2.0**-65))[0])
    on_grid = (len(tables.edges) / 2 + grid._spread + 1) * 2.0**-64
    between = (2 * reach + 1 + 64 * (grid._spread + 1)) * ERROR * 2.0**-64
    assert len(tables.edges) <= 2 * reach + 1
    assert on_grid <= 2 * (reach + 1) * 2.0**-64 < grid.total_variation(1)
    assert between + on_grid < grid.total_variation(1)


def test_first_counts_the_edges_up_to_each_cell(tables: Tables) -> None:
    assert len(tables.first) == CELLS + 1
    for cell in (0, 1, 2, 1000, 32767, 32768, 65534, 65535):
        assert tables.first[cell] == sum(int(e) <= cell << 48 for e in tables.edges)
    assert tables.first[CELLS] == len(tables.edges)


def test_the_finest_grid_has_tables() -> None:
    for mechanism, most in (("gaussian", 2**16), ("laplace", 2**18)):
        tables = make_tables(mechanism, FINEST, 1.0)  # type: ignore[arg-type]
        assert len(tables.edges) < most
        assert int(tables.edges[0]) == 1
        assert tables.bits <= 11
        # No product in a polynomial exceeds 64 bits.
        coefficients = np.abs(tables.segments[:, 1:]).max(axis=0).astype(float).sum()
        assert coefficients * 2**tables.bits < 2.0**63


@pytest.mark.parametrize("on_grid", [True, False], ids=["on-grid", "off-grid"])
def test_the_reference_gives_the_rounded_sum(grid: GridNoise, on_grid: bool) -> None:
    """z = ⌊g/γ + Q((u + ½)/2⁶⁴) + ½⌋: P(z ≥ k) to 40 digits, for uniforms next to thresholds."""
    rng = np.random.default_rng(2)
    spread = Fraction(grid.scale) / Fraction(grid.step)
    substeps = 7 * SUBSTEPS if on_grid else int(rng.integers(-200_000, 200_000))
    near = substeps // SUBSTEPS
    for k in near + rng.integers(-3 * int(grid._spread), 3 * int(grid._spread) + 1, 25):
        distance = int(k) * SUBSTEPS - SUBSTEPS // 2 - substeps
        tail = exact_tail(grid.mechanism, Fraction(abs(distance), SUBSTEPS) / spread)
        edge = int(tail) if distance < 0 else 2**64 - int(tail)
        far = 1 if on_grid else ERROR
        drawn = np.array([edge - far - 1, edge + far + 1], dtype=np.uint64)
        feature = np.array([substeps // SUBSTEPS if on_grid else substeps] * 2)
        below, above = reference(grid, feature, on_grid, drawn).tolist()
        assert below < k <= above


def test_uniforms_are_those_of_the_rfc() -> None:
    # RFC 8439, A.1, test vectors 1 and 2: key and nonce zero, counters 0 and 1.
    drawn = uniforms(bytes(32), 0, 16).astype("<u8").tobytes().hex()
    assert drawn.startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert drawn[128:].startswith(
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    )


@pytest.mark.parametrize("mechanism", [law for law in LAWS if law not in TABLED])
def test_no_other_law_has_tables(mechanism: Mechanism) -> None:
    with pytest.raises(ValueError, match="there are no tables for"):
        make_tables(mechanism, 0.5, PIXEL_STEP)

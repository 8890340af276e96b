"""The noise: its exact law, its grid and its keys."""

from typing import Any

import mpmath as mp  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

import models.noise
from models.certification.laws import LAWS
from models.certification.names import CONTINUOUS, Mechanism
from models.noise import (
    CELLS,
    COARSEST,
    FINEST,
    PIXEL_STEP,
    SUBSTEPS,
    UNSURE,
    Features,
    GridNoise,
    Keystream,
    system_key,
)

GRIDS: list[tuple[Mechanism, float, float, float]] = [
    ("gaussian", 0.5, PIXEL_STEP, 1.0),
    ("gaussian", 0.25, PIXEL_STEP, 1.0),
    ("gaussian", 0.37, 0.37 / 64, 256 * 0.37),
    ("gaussian", 1.0, 1.0, 4.0),
    ("laplace", 0.35, PIXEL_STEP, 1.0),
    ("laplace", 0.11, 0.11 / 64, 256 * 0.11),
    ("laplace", 1.0, 1.0, 4.0),
    ("logistic", 0.2, PIXEL_STEP, 1.0),
    ("logistic", 1.0, 1.0, 4.0),
    ("uniform", 0.9, PIXEL_STEP, 1.0),
    ("uniform", 0.37, 0.37 / 64, 256 * 0.37),
    ("exponential", 0.35, PIXEL_STEP, 1.0),
    ("exponential", 1.0, 1.0, 4.0),
    ("generalised-normal", 0.8, PIXEL_STEP, 1.0),
]
IDS = [f"{mechanism}-{scale / step:.4g}" for mechanism, scale, step, _ in GRIDS]
KEY = bytes(range(32))


def exact_quantile(mechanism: Mechanism, tail: Any, upper: bool = False) -> Any:
    """The quantile of a probability ≤ ½, or of 1 − that if ``upper``, to 40 digits."""
    with mp.workdps(45):
        if mechanism == "exponential":
            return -mp.log(tail) if upper else -mp.log1p(-tail)
        below = _lower_quantile(mechanism, tail)
        return -below if upper else below


def _lower_quantile(mechanism: Mechanism, tail: Any) -> Any:
    if mechanism == "laplace":
        return mp.log(2 * tail)
    if mechanism == "logistic":
        return mp.log(tail) - mp.log1p(-tail)
    if mechanism == "uniform":
        return 2 * tail - 1
    if mechanism == "generalised-normal":
        return -exact_distance(2 * tail)
    x = mp.mpf(float(special.ndtri(float(tail))))
    for _ in range(3):  # Halley's method triples the digits
        r = (mp.erfc(-x / mp.sqrt(2)) / 2 - tail) / mp.npdf(x)
        x -= r / (1 + x * r / 2)
    return x


def exact_distance(tail: Any) -> Any:
    """The x with P(|noise| > x) = ``tail``, for generalised normal noise."""
    third = mp.mpf(1) / 3
    if tail == 1:
        return mp.mpf(0)
    x = mp.mpf(float(special.gammainccinv(1 / 3, float(tail))) ** (1 / 3))
    for _ in range(2):  # Newton's method doubles the digits
        density = 3 * mp.exp(-(x**3)) / mp.gamma(third)
        x += (mp.gammainc(third, x**3, regularized=True) - tail) / density
    return x


def exact_noise(mechanism: Mechanism, bits: int) -> Any:
    """The noise, in scales, that 64 uniform bits stand for."""
    with mp.workdps(45):
        tail = (mp.mpf(min(bits, 2**64 - 1 - bits)) + mp.mpf("0.5")) / mp.mpf(2) ** 64
        return exact_quantile(mechanism, tail, bits >= 2**63)


def probabilities(
    mechanism: Mechanism, spread: float, start: float, values: NDArray[np.int64]
) -> NDArray[np.float64]:
    """P(round(start + noise) = v), from the tail in which the difference is more exact."""
    cdf = LAWS[mechanism].module.cdf
    low, high = (values - 0.5 - start) / spread, (values + 0.5 - start) / spread
    above = survival(mechanism, low) - survival(mechanism, high)
    return np.asarray(np.where(low > 0, above, cdf(high) - cdf(low)))


def survival(mechanism: Mechanism, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(noise > x), exact where it is small."""
    law = LAWS[mechanism]
    return np.asarray(law.module.cdf(-x) if law.symmetric else np.exp(-np.maximum(x, 0)))


# The last two take seconds each, or need many digits of a slow function.
@pytest.fixture(
    scope="module",
    params=[*GRIDS[:-2], *(pytest.param(one, marks=pytest.mark.slow) for one in GRIDS[-2:])],
    ids=IDS,
)
def grid(request: pytest.FixtureRequest) -> GridNoise:
    return GridNoise(*request.param)


def uniform_tails(rng: np.random.Generator) -> NDArray[np.float64]:
    """Probabilities ≤ ½ of every order of magnitude, near the median, and where formulas meet."""
    return np.concatenate(
        [
            2.0 ** -rng.uniform(1, 65, 500),
            rng.uniform(0, 0.5, 500),
            0.5 - 2.0 ** -rng.uniform(2, 54, 200),
            np.linspace(0.1353, 0.1375, 200),
            [0.5, 2.0**-65],
        ]
    )


@pytest.mark.parametrize("mechanism", CONTINUOUS)
def test_quantile_functions_err_by_no_more_than_tau_allows(mechanism: Mechanism) -> None:
    """8 units of 2⁻⁵³ relative to the outermost quantile; 14 with argument, scale and scaling."""
    rng = np.random.default_rng(1)
    tails = uniform_tails(rng)[
        :: 4 if mechanism == "generalised-normal" else 1
    ]  # slow to 40 digits
    noise = GridNoise(mechanism, 0.37, 0.0031, 1.0)
    unit = GridNoise(mechanism, 1.0, 1.0, 1.0)
    ends = (exact_quantile(mechanism, mp.mpf(2) ** -65, upper) for upper in (False, True))
    outermost = max(abs(float(end)) for end in ends)
    sides = [False] if LAWS[mechanism].symmetric else [False, True]
    for side in sides:
        computed = (one._quantiles(tails)[side].tolist() for one in (unit, noise))
        for tail, found, scaled in zip(tails.tolist(), *computed, strict=True):
            exact = exact_quantile(mechanism, mp.mpf(tail), side)
            assert abs(found - exact) <= 8 * 2.0**-53 * outermost
            with mp.workdps(45):
                exact *= mp.mpf(0.37) / mp.mpf(0.0031)
            assert abs(scaled - exact) <= 10 * 2.0**-53 * outermost * (0.37 / 0.0031)


def test_every_sure_cell_lies_inside_its_grid_point(grid: GridNoise) -> None:
    """A table entry is right if its whole probability cell rounds to it, whatever bits follow."""
    sure = np.nonzero(grid.on_grid != UNSURE)[0]
    assert len(sure) / CELLS > (0.9 if grid._spread < 200 else 0.8)
    ends = np.isinf(LAWS[grid.mechanism].quantiles(np.array(0.0), grid.scale))
    assert (grid.on_grid[[0, -1]][ends] == UNSURE).all()
    values = grid.on_grid[sure].astype(float)
    below, above = (values - 0.5) / grid._spread, (values + 0.5) / grid._spread
    # Both ends are taken on the side where the probability is small, hence exact.
    cdf, first, last = LAWS[grid.mechanism].module.cdf, sure / CELLS, (sure + 1) / CELLS
    side = first < 0.5
    assert (cdf(below)[side] <= first[side]).all()
    assert (cdf(above)[side] > last[side]).all()
    side = last > 0.5
    assert (survival(grid.mechanism, above)[side] <= 1 - last[side]).all()
    assert (survival(grid.mechanism, below)[side] > 1 - first[side]).all()


class Bits:
    """Replaces a keystream with the 64 bits that a test wants for each coordinate."""

    def __init__(self, bits: list[int]) -> None:
        self.bits = bits

    def words(self, count: int) -> NDArray[np.uint16]:
        assert count == len(self.bits)
        return np.array([b >> 48 for b in self.bits], dtype=np.uint16)

    def tails(self, count: int) -> NDArray[np.uint64]:
        """Every coordinate has the same bits, so it does not matter which are requested."""
        (tail,) = {b & (2**48 - 1) for b in self.bits}
        return np.full(count, tail, dtype=np.uint64)


def draw_bits(
    monkeypatch: pytest.MonkeyPatch, grid: GridNoise, features: Features, bits: list[int]
) -> list[int]:
    monkeypatch.setattr(models.noise, "Keystream", lambda _: Bits(bits))
    drawn = grid.draw([features], np.zeros(1, dtype=np.intp), KEY)[0].tolist()
    monkeypatch.undo()
    return [int(z) for z in drawn]


@pytest.mark.parametrize("on_grid", [True, False], ids=["on-grid", "off-grid"])
def test_64_bits_give_exactly_the_rounded_sum(
    grid: GridNoise, on_grid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """z = ⌊g/γ + Q((u + ½)/2⁶⁴)·scale/γ + ½⌋ with Q to 40 digits, for all kinds of bits."""
    rng = np.random.default_rng(2)
    most = min(int(grid._largest), 255)
    checked = 0
    for tail in [0, 2**48 - 1, *(int(t) for t in rng.integers(0, 2**48, 6))]:
        words = [0, 1, 2**15 - 1, 2**15, 2**16 - 2, 2**16 - 1]
        words += rng.integers(0, 2**16, 60).tolist()
        unsure = np.nonzero(grid.on_grid == UNSURE)[0]
        words += rng.choice(unsure, 40).tolist()
        bits = [word << 48 | tail for word in words]
        if on_grid:
            steps = rng.integers(-most, most + 1, len(bits)).astype(np.int32)
        else:
            steps = rng.integers(-most * SUBSTEPS, most * SUBSTEPS, len(bits)).astype(np.int32)
        found = draw_bits(monkeypatch, grid, Features(steps, on_grid), bits)
        with mp.workdps(45):
            spread = mp.mpf(grid.scale) / mp.mpf(grid.step)
            for z, b, step in zip(found, bits, steps.tolist(), strict=True):
                start = mp.mpf(step) / (1 if on_grid else SUBSTEPS)
                exact = start + exact_noise(grid.mechanism, b) * spread
                if abs(exact + mp.mpf("0.5") - mp.nint(exact + mp.mpf("0.5"))) < 1e-12:
                    continue  # as ends of cells of the uniform law may; τ counts them
                assert z == int(mp.floor(exact + mp.mpf("0.5")))
                checked += 1
    assert checked > 800


@pytest.mark.parametrize(("mechanism", "largest"), [("gaussian", 2.0**15), ("laplace", 2.0**15)])
def test_the_farthest_integers_are_exact_in_float32(
    mechanism: Mechanism, largest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = GridNoise(mechanism, FINEST, 1.0, largest)
    ends = Features(np.array([-(2**15), 2**15], dtype=np.int32), on_grid=True)
    for features in (ends, Features(ends.substeps, on_grid=False)):
        lowest = draw_bits(monkeypatch, grid, features, [0, 0])[0]
        highest = draw_bits(monkeypatch, grid, features, [2**64 - 1, 2**64 - 1])[1]
        reach = float(-exact_noise(mechanism, 0)) * FINEST
        assert lowest == -(2**15) - round(reach)
        assert highest == 2**15 + round(reach)
        assert highest < 2**24
        z = np.array([lowest, highest])
        assert (z.astype(np.float32).astype(np.int64) == z).all()


ROWS, WIDTH = 2500, 4000


def p_value(
    counts: NDArray[np.int64], values: NDArray[np.int64], law: NDArray[np.float64], start: float
) -> float:
    """The smallest of three p-values: likelihood ratio over all points, mean, mean distance.

    The ratio detects any difference; the means detect a shift or a scale among many points.
    """
    total = counts.sum()
    expected = law * total
    few = expected < 20
    observed = np.append(counts[~few], counts[few].sum())
    wanted = np.append(expected[~few], expected[few].sum())
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    ratio = 2 * (special.xlogy(observed, observed / wanted) - observed + wanted).sum()
    found = [float(stats.chi2.sf(ratio, len(wanted) - 1))]
    for moment in (values - start, np.abs(values - start)):
        mean = law @ moment
        error = np.sqrt(law @ (moment - mean) ** 2 / total)
        found.append(float(2 * stats.norm.sf(abs(counts @ moment / total - mean) / error)))
    return min(found)


@pytest.mark.parametrize(
    "substeps",
    [
        pytest.param([0], id="zero"),
        pytest.param([-SUBSTEPS, 3 * SUBSTEPS], id="on-grid", marks=pytest.mark.slow),
        pytest.param([SUBSTEPS // 2, SUBSTEPS // 2 + 1], id="half-a-step", marks=pytest.mark.slow),
        pytest.param([1291, SUBSTEPS - 777], id="off-grid"),
    ],
)
def test_ten_million_draws_follow_the_law(grid: GridNoise, substeps: list[int]) -> None:
    """Every grid point is as frequent as it should be; .5 % or half a step would be noticed."""
    on_grid = all(step % SUBSTEPS == 0 for step in substeps)
    each = WIDTH // len(substeps)
    steps = np.repeat(np.array(substeps, dtype=np.int32), each)
    features = Features(steps // SUBSTEPS if on_grid else steps, on_grid)
    key = np.random.default_rng(len(substeps)).bytes(32)
    z = grid.draw([features], np.zeros(ROWS, dtype=np.intp), key)
    assert z.dtype == np.int32
    farthest = int(np.abs(z).max()) + 2
    values = np.arange(-farthest, farthest + 1)
    for index, step in enumerate(substeps):
        part = z[:, index * each : (index + 1) * each].ravel()
        counts = np.bincount(part + farthest, minlength=len(values))
        start = step / SUBSTEPS

        def law(scale: float = 1.0, shift: float = 0.0, start: float = start) -> Any:
            return probabilities(grid.mechanism, grid._spread * scale, start + shift, values)

        assert p_value(counts, values, law(), start) > 1e-8
        for wrong in (law(scale=1.005), law(scale=0.995), law(shift=0.5), law(shift=-0.5)):
            assert p_value(counts, values, wrong, start) < 1e-8


def test_coordinates_and_draws_are_independent() -> None:
    grid = GridNoise("gaussian", 0.5, PIXEL_STEP, 1.0)
    z = grid.draw(
        [Features(np.zeros(1000, dtype=np.int32), True)], np.zeros(1000, dtype=np.intp), KEY
    )
    x = (z - z.mean()) / z.std()
    for first, second in [(x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:, :-8], x[:, 8:])]:
        for power in (1, 2):
            correlation = np.corrcoef(first.ravel() ** power, second.ravel() ** power)[0, 1]
            assert abs(correlation) < 5 / 1000


def test_each_row_belongs_to_its_picture() -> None:
    grid = GridNoise("gaussian", 1.0, 1.0, 1000.0)
    near = Features(np.arange(50, dtype=np.int32), on_grid=True)
    far = Features(np.arange(50, dtype=np.int32) + 900, on_grid=True)
    between = Features((np.arange(50, dtype=np.int32) - 700) * SUBSTEPS + 5, on_grid=False)
    rows = np.array([1, 0, 0, 2, 1])
    for pictures in ([near, far, between], [near, far, near]):
        z = grid.draw(pictures, rows, KEY)
        assert z.shape == (5, 50)
        for drawn, row in zip(z, rows, strict=True):
            start = pictures[row].substeps / SUBSTEPS
            assert np.abs(drawn - start).max() < 7


def test_the_same_key_gives_the_same_noise_and_another_another() -> None:
    grid = GridNoise("laplace", 0.35, PIXEL_STEP, 1.0)
    features = [Features(np.arange(100, dtype=np.int32), on_grid=True)]
    rows = np.zeros(20, dtype=np.intp)
    once, again = (grid.draw(features, rows, KEY) for _ in range(2))
    assert (once == again).all()
    passes = [grid.draw(features, rows, system_key()) for _ in range(2)]
    assert (passes[0] != passes[1]).mean() > 0.9
    assert (passes[0] != once).mean() > 0.9
    # The rows of one pass do not repeat each other, either.
    assert (once[0] != once[1]).mean() > 0.9


def test_system_keys_are_fresh() -> None:
    keys = {system_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {32}


def test_the_keystream_is_aes_256_in_counter_mode() -> None:
    """The known answer for a key of zeros; later words are never repeated."""
    stream = Keystream(bytes(32))
    first = stream.words(8).tobytes()
    assert first.hex() == "dc95c078a2408989ad48a21492842087"
    tails = stream.tails(1000)
    assert (tails < 2**48).all()
    whole = Keystream(bytes(32)).words(8 + 4000)[8:].reshape(-1, 4)
    joined = whole.astype(np.uint64) << np.arange(0, 64, 16, dtype=np.uint64)
    assert (joined.sum(axis=1) >> np.uint64(16) == tails).all()


def test_words_are_uniform() -> None:
    words = Keystream(KEY).words(2**22)
    counts = np.bincount(words, minlength=2**16)
    assert stats.chisquare(counts).pvalue > 1e-6
    bits = np.unpackbits(Keystream(KEY).tails(2**17).view(np.uint8).reshape(-1, 8)[:, :6], axis=1)
    assert abs(bits.mean(axis=0) - 0.5).max() < 6 * 0.5 / 2**8.5


def test_pixels_of_both_depths_are_exact() -> None:
    grid = GridNoise("gaussian", 0.5, PIXEL_STEP, 1.0)
    eight = np.arange(256)
    snapped = grid.snap(eight / 255)
    assert not snapped.on_grid
    assert (snapped.steps == eight * SUBSTEPS).all()
    assert (Features(eight.astype(np.int32), on_grid=True).substeps == snapped.steps).all()
    sixteen = np.arange(65536)
    assert (grid.snap(sixteen / 65535).steps == sixteen * (SUBSTEPS // 257)).all()


@pytest.mark.parametrize("mechanism", CONTINUOUS)
def test_snapping_moves_two_pictures_apart_by_no_more_than_stated(mechanism: Mechanism) -> None:
    grid = GridNoise(mechanism, 0.37, 0.37 / 64, 256 * 0.37)
    order = 2 if mechanism == "gaussian" else 1
    rng = np.random.default_rng(3)
    fine = grid.step / SUBSTEPS
    for count in (1, 10, 1000):
        assert grid.snapping(count) == pytest.approx(fine * count ** (1 / order), rel=1e-6)
        for _ in range(20):
            one: Any = rng.normal(0, rng.choice([1, 50]), count)
            other: Any = one + rng.choice([1e-6, 1.0]) * rng.normal(size=count)
            if rng.random() < 0.5:  # every coordinate apart by a hair, rounded apart by a step
                base = rng.integers(-1000, 1000, count) * fine + fine / 2
                one, other = base - 1e-9 * fine, base + 1e-9 * fine
            moved = [grid.snap(g).steps * fine for g in (one, other)]
            apart = np.linalg.norm(moved[0] - moved[1], order)
            before = np.linalg.norm(one - other, order)
            assert apart <= before + grid.snapping(count) + 1e-12
    # The bound is attained.
    half = np.full(10, fine / 2)
    moved = [grid.snap(g).steps * fine for g in (half * (1 - 1e-6), half * (1 + 1e-6))]
    assert np.linalg.norm(moved[0] - moved[1], order) > 0.999 * grid.snapping(10)


def test_features_beyond_the_largest_are_clipped() -> None:
    grid = GridNoise("gaussian", 0.5, 0.25, 2.0)
    assert grid.snap(np.array([-1e300, -2.0, 0.0, 2.0, 5.0])).steps.tolist() == [
        -8 * SUBSTEPS,
        -8 * SUBSTEPS,
        0,
        8 * SUBSTEPS,
        8 * SUBSTEPS,
    ]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_raise(wrong: float) -> None:
    grid = GridNoise("gaussian", 0.5, 0.25, 2.0)
    with pytest.raises(ValueError, match="not finite"):
        grid.snap(np.array([0.0, wrong]))


def test_tau() -> None:
    """τ is small, proportional to the number of values, larger for finer grids, and never zero."""
    coarse = GridNoise("gaussian", 0.5, PIXEL_STEP, 1.0)
    fine = GridNoise("gaussian", 0.5, PIXEL_STEP / 16, 1.0)
    assert coarse.total_variation(1000) == pytest.approx(1000 * coarse.total_variation(1))
    assert 0 < coarse.total_variation(784) < 1e-8
    assert 0 < coarse.total_variation(150_528) < 2e-6
    assert fine.total_variation(1) > coarse.total_variation(1)
    # A coordinate is wrong only if an exact sum lies that close to a half-integer.
    for grid in (coarse, fine):
        reach = float(-exact_noise(grid.mechanism, 0)) * grid._spread
        error = (3 * grid._largest + 14 * reach) * 2.0**-53
        near = 2 * error * (1 + 1 / grid._spread)
        assert near < grid.total_variation(1) < 2.5 * near


@pytest.mark.parametrize(
    ("scale", "step", "largest"),
    [
        (1.0, 1.001, 1.0),  # coarser than the noise
        (FINEST * 1.001, 1.0, 1.0),  # too fine
        (1.0, 1.0, 2.0**15 + 1),  # features too far out
        (-1.0, 1.0, 1.0),
        (float("nan"), 1.0, 1.0),
        (1.0, float("nan"), 1.0),
        (1.0, 1.0, float("nan")),
    ],
)
def test_grids_that_do_not_suit_raise(scale: float, step: float, largest: float) -> None:
    with pytest.raises(ValueError, match="does not suit noise of scale"):
        GridNoise("gaussian", scale, step, largest)


def test_the_limits_themselves_are_allowed() -> None:
    for mechanism in CONTINUOUS:
        for spread in (COARSEST, FINEST):
            GridNoise(mechanism, spread, 1.0, 2.0**15)


def test_an_unknown_mechanism_raises() -> None:
    with pytest.raises(ValueError, match="unknown mechanism 'cauchy'; known: gaussian, laplace"):
        GridNoise("cauchy", 1.0, 1.0, 1.0)  # type: ignore[arg-type]

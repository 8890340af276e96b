"""Noise on the pixels' grid, compared with exact Neyman-Pearson tests in rational numbers."""

from fractions import Fraction
from itertools import count, product
from math import floor, log1p, prod

import numpy as np
import pytest
from scipy import stats

from models.bundle import Manifest, NoiseSpec
from models.certification.certificates import attacked, size
from models.certification.kinds import terms_kind
from models.certification.terms import StepTerms
from models.noise import CELLS, PIXEL_STEP, UNSURE, Features, GridNoise
from models.picture_terms import assemble_terms
from models.preprocessing import CannotCertify, plan
from models.training.recipe import Recipe

LAW = "discrete-laplace"
# q, with which every probability is rational.
RATIOS = (Fraction(1, 2), Fraction(4, 5))
SHARES = [Fraction(n, 97) for n in range(1, 97, 6)] + [Fraction(1, 1000), Fraction(999, 1000)]


def scale_of(q: Fraction) -> float:
    """The scale b of q = e^{−1/(255·b)}."""
    return 1 / (255 * log1p((1 - q) / q))


def over(q: Fraction, n: int) -> Fraction:
    """P(k > n), for n ≥ −1."""
    return q ** (n + 1) / (1 + q)


def below(q: Fraction, n: int) -> Fraction:
    """P(k ≤ n)."""
    return 1 - over(q, n) if n >= -1 else over(q, -n - 1)


def cells(q: Fraction, move: int, reach: int) -> list[Fraction]:
    """The probabilities of −reach … reach after a move, and of all below and above together.

    Before and after a move within the reach, those farther out have one ratio, so that no test
    would tell them apart.
    """
    inner = [below(q, n - move) - below(q, n - 1 - move) for n in range(-reach, reach + 1)]
    return [below(q, -reach - 1 - move), *inner, 1 - below(q, reach - move)]


def least(before: list[Fraction], after: list[Fraction], share: Fraction) -> Fraction:
    """The smallest expectation after a move of any f with E f = ``share`` before."""
    left, found = share, Fraction(0)
    for own, moved in sorted(zip(before, after, strict=True), key=lambda pair: pair[1] / pair[0]):
        taken = min(own, left)
        left, found = left - taken, found + moved * taken / own
    return found


def joint(q: Fraction, moves: tuple[int, ...]) -> list[Fraction]:
    """The same for independent coordinates."""
    return [prod(one) for one in product(*(cells(q, move, 5) for move in moves))]


def kept(q: Fraction, share: Fraction, move: int) -> Fraction:
    """The least score after a move of one coordinate."""
    reach = abs(move) + 1
    return least(cells(q, 0, reach), cells(q, move, reach), share)


def stated(q: Fraction, share: Fraction, steps: float) -> float:
    """The same as the certificate says."""
    return float(attacked(LAW, float(share), 1.0, steps / 255, scale_of(q), 1.0)[0])


@pytest.mark.parametrize("q", RATIOS)
def test_in_one_coordinate_the_bound_is_exact(q: Fraction) -> None:
    for share, move in product(SHARES, (0, 1, 2, 5, 11)):
        exact = [float(kept(q, share, way)) for way in (move, -move)]
        assert exact[0] == pytest.approx(exact[1])
        assert stated(q, share, move) == pytest.approx(exact[0], rel=1e-12)
        assert stated(q, share, move + 0.99) == stated(q, share, move)


@pytest.mark.parametrize("moves", [(2, 1), (-1, 2), (-2, -2), (4, -1), (0, 3)])
def test_in_two_coordinates_the_steps_add(moves: tuple[int, int]) -> None:
    """No test of both coordinates does better than one in which a single one moves as far."""
    q, total = RATIOS[0], sum(map(abs, moves))
    before, after = joint(q, (0, 0)), joint(q, moves)
    for share in SHARES[::3]:
        assert least(before, after, share) >= kept(q, share, total)
        assert float(least(before, after, share)) >= stated(q, share, total) * (1 - 1e-12)


@pytest.mark.parametrize("q", RATIOS)
def test_sizes_are_the_largest_that_exact_tests_allow(q: Fraction) -> None:
    """Also where scores tie after a move, so that one step more proves nothing."""
    ties = [below(q, n) for n in (0, 1, 2, 4)]
    scale, found = scale_of(q), set()
    for own, part in product([*SHARES, *ties], (Fraction(1), Fraction(1, 3))):
        rival = (1 - own) * part
        if own <= rival:
            continue
        exact = next(
            move - 1 for move in count(1) if kept(q, own, move) <= 1 - kept(q, 1 - rival, move)
        )
        claimed = float(size(LAW, float(own), float(rival), scale, 1.0)) * 255
        assert claimed == pytest.approx(exact, abs=1e-9), (own, rival)
        found.add(exact)
    assert len(found) > 4


def test_stated_sizes_are_exact_quotients_rounded_down() -> None:
    """51/255 is 0.2, and 153/255 is 0.6, whatever floats make of them."""
    terms = terms_kind(LAW)(LAW, 0.5, 1.0, "l1", 784)
    assert isinstance(terms, StepTerms)
    found = {}
    for lower in np.linspace(0.5, 0.999, 4000):
        steps = round(float(terms.sizes(lower, 1 - lower)) * 255)
        found[steps] = terms.answered(lower, 1 - lower, "l1")
    for steps, claimed in found.items():
        exact = Fraction(steps, 255) - Fraction(repr(claimed))
        assert 0 <= exact < max(Fraction(claimed), Fraction(1, 10**9)) / 10**5
    assert (found[51], found[153]) == (0.2, 0.6)


@pytest.mark.parametrize("q", [*RATIOS, Fraction(126, 127)])
def test_64_bits_select_the_noise_by_its_exact_sums(q: Fraction) -> None:
    """The boundaries of the distribution function, to 2⁻⁴⁵ of it, and cells of the table.

    Bits that close to a boundary have a probability, in all, far below what τ allows.
    """
    noise = GridNoise(LAW, scale_of(q), PIXEL_STEP, 1.0)
    spread = noise.scale * 255
    assert 2 * (spread + 1) * 2.0**-45 < noise.total_variation(1)
    for n in (np.arange(-30, 31) * max(1, int(spread / 2))).tolist():
        small = n < 0
        tail = below(q, n) if small else over(q, n)
        for side in (-1, 1):
            inside = floor(tail * (1 + Fraction(side, 2**45)) * 2**64) + side
            bits = np.array([inside if small else 2**64 - 1 - inside], dtype=np.uint64)
            words = (bits >> np.uint64(48)).astype(np.uint16)
            drawn = noise.settle(np.zeros(1), words, bits & np.uint64(2**48 - 1))
            assert drawn[0] == (n if (side < 0) is small else n + 1)
    table = noise.on_grid
    for cell in np.flatnonzero(table != UNSURE)[::37].tolist():
        value = int(table[cell])
        assert below(q, value - 1) <= Fraction(cell, CELLS)
        assert Fraction(cell + 1, CELLS) <= below(q, value)
    assert np.mean(table == UNSURE) < 0.05


def test_draws_follow_the_law_and_are_whole_steps_from_the_pixels() -> None:
    noise = GridNoise(LAW, 0.1, PIXEL_STEP, 1.0)
    picture = noise.snap(np.full(200_000, 37 / 255))
    assert picture.on_grid
    assert (picture.steps == 37).all()
    drawn = noise.draw([picture], np.zeros(1, dtype=np.intp), bytes(32))[0]
    law = stats.dlaplace(1 / 25.5)
    edges = np.arange(-80, 81, 5)
    expected = len(drawn) * np.diff(np.concatenate([[0], law.cdf(edges), [1]]))
    counts = np.bincount(np.searchsorted(edges, drawn - 37), minlength=len(expected))
    assert stats.chisquare(counts, expected).pvalue > 1e-6
    assert stats.chisquare(counts, np.roll(expected, 1)).pvalue < 1e-6


def test_noise_on_the_grid_refuses_what_is_not_on_it() -> None:
    with pytest.raises(ValueError, match="is on the grid of pixels, not on one"):
        GridNoise(LAW, 0.5, 0.01, 1.0)
    between = Features(np.array([3], dtype=np.int32), on_grid=False)
    with pytest.raises(ValueError, match="is for features on the grid of pixels"):
        GridNoise(LAW, 0.5, PIXEL_STEP, 1.0).draw([between], np.zeros(1, np.intp), bytes(32))
    for terms in ({"sensitivity": 2.0}, {"sensitivity": 1.0, "rho": 1e-9}):
        with pytest.raises(ValueError, match="needs a sensitivity of 1, and rho of 0"):
            size(LAW, 0.9, 0.1, 0.5, **terms)
    with pytest.raises(ValueError, match="depends on the scale: expected one number"):
        size(LAW, 0.9, 0.1, [0.5, 1.0], 1.0)


def manifest(norm: str = "l1", value: float = 1.0, placement: str = "image") -> Manifest:
    """The description of a model with that noise."""
    noise = {"mechanism": LAW, "scale": 0.5, "placement": placement}
    stated = {"value": value, "input_norm": norm, "noise_norm": "l1", "method": "exact"}
    return Manifest.model_validate(
        {
            "name": "grid",
            "architecture": {"name": "cnn"},
            "input": {"channels": 1, "height": 28, "width": 28},
            "labels": ["a", "b"],
            "noise": noise,
            "sensitivity": stated,
            "weights": {"sha256": "0" * 64},
        }
    )


def test_bundles_and_recipes_with_another_g_are_refused() -> None:
    for wrong in ({"norm": "l2"}, {"value": 0.5}, {"value": 2.0}):
        with pytest.raises(ValueError, match="needs the sensitivity 1 from l1 to l1"):
            manifest(**wrong)
    with pytest.raises(ValueError, match="is of the image, and has no construction bound"):
        manifest(placement="layer1")
    bound = {"size": 0.1, "epsilon": 1.0, "delta": 0.0}
    with pytest.raises(ValueError, match="is of the image, and has no construction bound"):
        NoiseSpec(mechanism=LAW, scale=0.5, placement="image", construction_bound=bound)
    recipe = {"name": "r", "dataset": "digits", "architecture": {"name": "cnn"}, "epochs": 1}
    recipe |= {"mechanism": LAW, "scale": 0.5}
    assert Recipe.model_validate(recipe | {"norm": "l1"})
    for changes in ({"norm": "l2"}, {"norm": "l1", "placement": "layer1"}):
        with pytest.raises(ValueError, match="expected the placement image and the norm l1"):
            Recipe.model_validate(recipe | changes)


@pytest.mark.parametrize(
    "picture", [(28, 28, "L", 16), (56, 56, "L", 8), (28, 28, "RGB", 8), (27, 28, "L", 8)]
)
def test_pictures_that_leave_the_grid_are_refused(picture: tuple[int, int, str, int]) -> None:
    with pytest.raises(CannotCertify, match="takes pixels as they are: send 8 bits"):
        assemble_terms(manifest(), plan(*picture, (1, 28, 28)))
    cropped = assemble_terms(manifest(), plan(28, 40, "L", 8, (1, 28, 28)))
    assert (cropped.sensitivity, cropped.rho, cropped.further) == (1, 0, ())

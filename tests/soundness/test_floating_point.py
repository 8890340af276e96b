"""A classifier built to exploit floating point: it breaks plain float32 noise, but not ours.

After Voráček and Hein 2023 (arXiv 2207.07209) and Jin et al. 2022. x is white: every value is 1.
For any float32 noise n, the float32 sum 1 + n is a multiple of 2⁻²⁴: where the sum is small, n lies
near −1, where float32 numbers are 2⁻²⁴ apart. A shade below white this is no longer true: where 1 −
s + n is small, n may be just below ½ in size, where float32 numbers are closer together. The
classifier says "white" as long as every value is such a multiple. Exact noise would tell it
nothing. So the certificate, which holds for exact noise, is broken by the arithmetic alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from models.certification.bounds import bounds
from models.certification.certificates import attacked
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.certification.terms import Terms
from models.noise import PIXEL_STEP, Features, GridNoise

VALUES = 3072
SIGMA = 0.5
TERMS = Terms("gaussian", SIGMA, 1.0, "l2", VALUES)
DRAWS = 1000
QUESTION = Question(0.999, DRAWS, None, "l2")
# One step of 1/255 darker in every value.
SHADE = 1 / 255
DISTANCE = SHADE * VALUES**0.5

Noisy = NDArray[np.float32]
Classifier = Callable[[Noisy], NDArray[np.bool_]]


def plain_float32(steps: int, draws: int, seed: int) -> Noisy:
    """What networks usually see: a float32 picture plus float32 noise, in float32."""
    rng = np.random.default_rng(seed)
    pixels = np.float32(steps) / np.float32(255)
    noise = rng.standard_normal((draws, VALUES), dtype=np.float32) * np.float32(SIGMA)
    return np.asarray(pixels + noise)


GRID = GridNoise("gaussian", SIGMA, PIXEL_STEP, 1.0)


def on_the_grid(steps: int, draws: int, seed: int) -> Noisy:
    """What a network of this project sees."""
    features = Features(np.full(VALUES, steps, dtype=np.int32), on_grid=True)
    key = np.random.default_rng(seed).bytes(32)
    drawn = GRID.draw([features], np.zeros(draws, dtype=np.intp), key)
    return np.asarray(drawn.astype(np.float32) * np.float32(PIXEL_STEP))


def off_the_grid(steps: int, draws: int, seed: int) -> Noisy:
    """The same through features that are stored in fractions of a step."""
    features = GRID.snap(np.full(VALUES, steps / 255))
    assert not features.on_grid
    key = np.random.default_rng(seed).bytes(32)
    drawn = GRID.draw([features], np.zeros(draws, dtype=np.intp), key)
    return np.asarray(drawn.astype(np.float32) * np.float32(PIXEL_STEP))


def share_off_lattice(z: Noisy, power: int = 24) -> NDArray[np.float64]:
    """For each draw, the share of values that are not multiples of 2⁻ᵖᵒʷᵉʳ."""
    scaled = z.astype(np.float64) * 2.0**power
    return np.asarray((scaled != np.rint(scaled)).mean(axis=1))


def says_white(z: Noisy) -> NDArray[np.bool_]:
    return np.asarray(share_off_lattice(z) == 0)


def in_parts(
    noise: Callable[[int, int, int], Noisy], steps: int, draws: int, seed: int
) -> list[Noisy]:
    return [noise(steps, 250, 1000 * seed + part) for part in range(draws // 250)]


def votes(
    noise: Callable[[int, int, int], Noisy], classify: Classifier, steps: int, draws: int, seed: int
) -> NDArray[np.int64]:
    """One-hot scores: label 0 for white."""
    white = np.concatenate([classify(z) for z in in_parts(noise, steps, draws, seed)])
    return np.column_stack([white, ~white]).astype(np.int64)


def inquire(scores: NDArray[np.int64]) -> Inquiry:
    inquiry = Inquiry(QUESTION, TERMS, 2, "votes")
    inquiry.add(scores)
    return inquiry


def test_plain_float32_addition_breaks_the_certificate() -> None:
    here = inquire(votes(plain_float32, says_white, 255, DRAWS, seed=1))
    assert here.label == 0
    assert here.size > 2 * DISTANCE  # certified, with much to spare
    there = votes(plain_float32, says_white, 254, DRAWS, seed=2)
    # At .22 from white, the label that was certified up to 1.2 has lost all but a few of its draws.
    upper = float(stats.beta.ppf(1 - 1e-9, there[:, 0].sum() + 1, DRAWS - there[:, 0].sum()))
    assert upper < 0.2
    # Exact noise could not take the score below this.
    (least, _) = attacked("gaussian", here.findings.bounds[0], 1.0, DISTANCE, SIGMA, 1.0)  # type: ignore[union-attr]
    assert float(least) > 0.95


@pytest.mark.parametrize("noise", [on_the_grid, off_the_grid])
def test_noise_on_the_grid_withstands_the_same_classifier(
    noise: Callable[[int, int, int], Noisy],
) -> None:
    here = inquire(votes(noise, says_white, 255, DRAWS, seed=3))
    assert here.size > 2 * DISTANCE
    there = inquire(votes(noise, says_white, 254, DRAWS, seed=4))
    assert there.total.leader == here.label == here.total.leader
    best = here.findings
    assert best is not None
    (least, _) = attacked("gaussian", best.bounds[0], 1.0, DISTANCE, SIGMA, 1.0)
    share = there.total.means[here.label]
    assert share >= float(least) - 5 * (0.25 / DRAWS) ** 0.5


def thresholds() -> list[tuple[int, float]]:
    """Rules for every lattice: "white" if at most a given share of values is off the lattice.

    On the grid, no lattice always holds, so an attacker would count. The thresholds lie in the
    middle of what is seen at white, where a small difference shows most.
    """
    found = []
    for power in range(14, 30):
        shares = np.concatenate(
            [share_off_lattice(z, power) for z in in_parts(on_the_grid, 255, 1000, seed=5)]
        )
        found.append((power, float(np.median(shares))))
    return found


def test_no_lattice_reveals_more_than_exact_noise_would() -> None:
    """Counting on every lattice: the scores at x and x' stay as close as the noise requires."""
    rules = thresholds()
    shares: dict[str, list[Any]] = {"here": [], "there": []}
    for name, steps, seed in (("here", 255, 6), ("there", 254, 7)):
        parts = in_parts(on_the_grid, steps, 3000, seed)
        shares[name] = [
            np.concatenate([share_off_lattice(z, power) for z in parts]) <= limit
            for power, limit in rules
        ]
    alpha = 1e-9
    gaps = []
    for here, there in zip(shares["here"], shares["there"], strict=True):
        low, high = bounds("clopper-pearson", len(here), here.sum(), here.sum(), alpha)
        least, most = attacked("gaussian", low, high, DISTANCE, SIGMA, 1.0)
        there_low, there_high = bounds(
            "clopper-pearson", len(there), there.sum(), there.sum(), alpha
        )
        # The observations at x' are compatible with what exact noise allows.
        assert float(there_low) <= float(most)
        assert float(there_high) >= float(least)
        gaps.append(abs(here.mean() - there.mean()))
    # A shift by one step of the grid even leaves these counts nearly unchanged.
    assert max(gaps) < special.ndtr(DISTANCE / SIGMA) - 0.5 + 0.05


def test_the_same_counts_give_plain_float32_away() -> None:
    """The test above has power: plain float32 noise fails it."""
    alpha = 1e-9
    here, there = (
        np.concatenate([share_off_lattice(z) for z in in_parts(plain_float32, steps, 1000, seed)])
        <= 0
        for steps, seed in ((255, 8), (254, 9))
    )
    low, high = bounds("clopper-pearson", len(here), here.sum(), here.sum(), alpha)
    least, _ = attacked("gaussian", low, high, DISTANCE, SIGMA, 1.0)
    _, there_high = bounds("clopper-pearson", len(there), there.sum(), there.sum(), alpha)
    assert float(there_high) < float(least) - 0.5

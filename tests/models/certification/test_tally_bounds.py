"""From tallies to pA and pB: reference figures, and brute force over all rivals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.certification.bounds import bounds
from models.certification.certificates import size
from models.certification.names import Bound, Scoring
from models.certification.tally import Tally, draw_scores
from models.certification.tally_bounds import EXACT_RIVALS, certify, certify_arrays

REFERENCE: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "reference.json").read_text(encoding="utf-8")
)["pipeline"]
UNIT = 2**20


@pytest.mark.parametrize("figure", REFERENCE, ids=lambda f: f"K{f['labels']}-n{f['draws']}")
def test_reference_figures_from_tallies(figure: dict[str, Any]) -> None:
    given_sums = figure["sums"].values()
    soft = any(s != ss for s, ss in given_sums)
    unit = UNIT if soft else 1
    sums = np.zeros((1, figure["labels"]), dtype=np.int64)
    squares = sums.copy()
    for index, (s, ss) in figure["sums"].items():
        sums[0, int(index)] = round(s * unit)
        squares[0, int(index)] = round(ss * unit * unit)
        assert sums[0, int(index)] == s * unit
    alpha = float(figure["alpha"])
    label_alpha = alpha * figure["label_share"]
    lower, upper = certify_arrays(
        "betting",
        np.array([figure["draws"]]),
        sums,
        squares,
        figure["label"],
        label_alpha,
        alpha - label_alpha,
        unit,
    )
    found = size("gaussian", lower, upper, float(figure["scale"]), float(figure["sensitivity"]))
    assert float(lower[0]) == pytest.approx(float(figure["lower"]), abs=1e-9)
    assert float(upper[0]) == pytest.approx(float(figure["upper"]), abs=1e-9)
    assert float(found[0]) == pytest.approx(float(figure["size"]), abs=1e-9)


def brute(
    bound: Bound, tally: Tally, label: int, alpha_label: float, alpha_rival: float
) -> tuple[float, float]:
    """By definition: the label's lower bound, and the largest upper bound of any rival."""
    unit = tally.denominator
    own = bounds(
        bound, tally.draws, tally.sums[label], tally.squares[label], alpha_label, denominator=unit
    )
    rivals = [
        float(bounds(bound, tally.draws, s, ss, alpha_rival, denominator=unit)[1])
        for index, (s, ss) in enumerate(zip(tally.sums, tally.squares, strict=True))
        if index != label
    ]
    return float(own[0]), min(max(rivals), 1 - float(own[0]))


def random_scores(rng: np.random.Generator, rows: int, labels: int, scoring: Scoring) -> Any:
    spread = rng.choice([0.1, 1.0, 4.0])
    centre = rng.normal(0, rng.choice([0.1, 2.0]), labels)
    return draw_scores(centre + rng.normal(0, spread, (rows, labels)), scoring)


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
@given(
    labels=st.integers(2, 50),
    rows=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
    alpha=st.floats(1e-6, 0.2),
)
def test_certify_against_brute_force(
    scoring: Scoring, labels: int, rows: int, seed: int, alpha: float
) -> None:
    rng = np.random.default_rng(seed)
    tally = Tally.of(random_scores(rng, rows, labels, scoring), scoring)
    label = int(rng.integers(labels))
    kinds: list[Bound] = ["betting", "clopper-pearson"] if scoring == "votes" else ["betting"]
    for bound in kinds:
        lower, upper = certify(bound, [tally], label, alpha, alpha / 2)
        exact_lower, exact_upper = brute(bound, tally, label, alpha, alpha / 2)
        assert float(lower[0]) == exact_lower
        # Never below the largest of the rivals' bounds; labels bounded only together may raise it.
        assert float(upper[0]) >= exact_upper - 1e-15
        if scoring == "votes" or labels - 1 <= EXACT_RIVALS:
            assert float(upper[0]) == pytest.approx(exact_upper, abs=1e-15)


def test_bounding_small_rivals_together_costs_little() -> None:
    """If one rival stands out, the bound on all the rest does not matter."""
    rng = np.random.default_rng(1)
    for labels in (10, 100, 1000):
        logits = rng.normal(0, 1, (300, labels))
        logits[:, 3] += 12
        logits[:, 7] += 10
        tally = Tally.of(draw_scores(logits, "softmax"), "softmax")
        _, upper = certify("betting", [tally], 3, 0.001, 0.001)
        assert float(upper[0]) == pytest.approx(brute("betting", tally, 3, 0.001, 0.001)[1])


def test_the_rival_is_not_the_one_with_the_second_largest_mean() -> None:
    """A steady second of mean .30, a variable third of mean .29: the third's bound is larger."""
    n = 200
    scores = np.zeros((n, 3), dtype=np.int64)
    scores[:, 1] = int(0.30 * UNIT)
    scores[: int(0.29 * n), 2] = int(0.7 * UNIT)
    scores[int(0.29 * n) :, 2] = int(0.12 * UNIT)
    scores[:, 0] = UNIT - scores[:, 1] - scores[:, 2]
    tally = Tally.of(scores, "softmax")
    assert tally.sums[1] > tally.sums[2]
    _, upper = certify("betting", [tally], 0, 0.001, 0.001)
    seconds = [
        float(bounds("betting", n, tally.sums[i], tally.squares[i], 0.001, denominator=UNIT)[1])
        for i in (1, 2)
    ]
    assert seconds[1] > seconds[0]
    assert float(upper[0]) == seconds[1]


def test_a_rival_with_a_small_sum_and_a_wide_spread_is_bounded_too() -> None:
    """Many steady rivals have larger sums than the one with the largest bound."""
    n = 200
    scores = np.zeros((n, 12), dtype=np.int64)
    scores[:, 1:11] = int(0.05 * UNIT)
    scores[: int(0.12 * n), 11] = int(0.4 * UNIT)
    tally = Tally.of(scores, "softmax")
    assert tally.sums[11] < tally.sums[10]
    _, upper = brute("betting", tally, 0, 0.001, 0.001)
    wild = bounds("betting", n, tally.sums[11], tally.squares[11], 0.001, denominator=UNIT)[1]
    assert upper == float(wild)
    _, found = certify("betting", [tally], 0, 0.001, 0.001)
    assert float(found[0]) >= upper


def test_the_rivals_never_exceed_what_the_label_leaves() -> None:
    tally = Tally(64, np.array([64, 0, 0]), np.array([64, 0, 0]), 1)
    lower, upper = certify("betting", [tally], 0, 0.0005, 0.0005)
    assert float(upper[0]) == 1 - float(lower[0])
    # A rival's own bound is used where it is tighter.
    tally = Tally(1000, np.array([500, 10, 0]), np.array([500, 10, 0]), 1)
    lower, upper = certify("clopper-pearson", [tally], 0, 0.0005, 0.0005)
    assert float(upper[0]) < 0.03 < 1 - float(lower[0])


@given(seed=st.integers(0, 2**32 - 1), scoring=st.sampled_from(["votes", "softmax"]))
def test_rows_are_independent(seed: int, scoring: Scoring) -> None:
    rng = np.random.default_rng(seed)
    tallies = [
        Tally.of(random_scores(rng, int(rng.integers(1, 100)), 9, scoring), scoring)
        for _ in range(6)
    ]
    label, alphas = rng.integers(0, 9, 6), rng.uniform(1e-6, 0.1, (2, 6))
    together = certify_arrays(
        "betting",
        np.array([tally.draws for tally in tallies]),
        np.stack([tally.sums for tally in tallies]),
        np.stack([tally.squares for tally in tallies]),
        label,
        alphas[0],
        alphas[1],
        tallies[0].denominator,
    )
    for i, tally in enumerate(tallies):
        alone = certify("betting", [tally], int(label[i]), alphas[0, i], alphas[1, i])
        assert alone[0][0] == together[0][i]
        assert alone[1][0] == together[1][i]


def test_tallies_that_cannot_support_a_certificate_raise() -> None:
    votes = Tally(64, np.array([60, 4]), np.array([60, 4]), 1)
    soft = Tally(64, np.array([60, 4]) * UNIT, np.array([60, 4]) * UNIT**2, UNIT)
    with pytest.raises(ValueError, match="no certificate can rest on the bound 'hoeffding'"):
        certify("hoeffding", [votes], 0, 0.01, 0.01)
    with pytest.raises(ValueError, match="'clopper-pearson' for soft scores"):
        certify("clopper-pearson", [soft], 0, 0.01, 0.01)

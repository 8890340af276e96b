"""How often an answer is wrong: simulated pictures whose expected scores are known.

    make soundness

runs the long form and prints the table. A picture counts as wrong if anything untrue is claimed of
it at any look: a size larger than the true one or for the wrong label, or a bound or an interval
that misses.
Seeds are fixed, so that a run that passes passes again.
"""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.certification.rounding import reduce_size, round_down
from models.certification.tally_bounds import intervals_of
from tests.soundness.forms import LONG
from tests.soundness.simulation import (
    HEADER,
    TERMS,
    Cell,
    EveryLook,
    FourAlpha,
    Fresh,
    LabelEventDropped,
    Law,
    MajorityAtEveryLook,
    PilotReused,
    Procedure,
    Recorded,
    RivalByMean,
    Row,
    intervals,
    simulate,
)

PICTURES = 100_000 if LONG else 2_000
# A cell fails if its result would be rarer than this by chance alone.
LEVEL = 1e-6


def size_mode(confidence: float, max_draws: int) -> Question:
    return Question(confidence, max_draws, None, "l2")


def target_mode(confidence: float, max_draws: int, target: float = 0.5) -> Question:
    return Question(confidence, max_draws, target, "l2")


def spread_out(labels: int, first: float) -> Law:
    """One label with the score ``first``; the others share the rest equally."""
    return Law.of_votes(first, *[(1 - first) / (labels - 1)] * (labels - 1))


# The true runner-up has a slightly larger mean and far more spread than the steady third, which
# therefore often looks like the runner-up.
WILD_RUNNER_UP = Law.of_scores((0.538, (0.35, 0.0, 0.2)), (0.462, (0.35, 0.45, 0.2)))
EASY_SCORES = Law.of_scores(
    (0.7, (0.95, 0.03, 0.02)), (0.2, (0.8, 0.1, 0.1)), (0.1, (0.2, 0.7, 0.1))
)
HARD_SCORES = Law.of_scores((0.5, (0.9, 0.1)), (0.3, (0.3, 0.7)), (0.2, (0.05, 0.95)))
TIED_SCORES = Law.of_scores((0.5, (1.0, 0.0, 0.0)), (0.5, (0.0, 0.5, 0.5)), (0.5, (0.0, 1.0, 0.0)))
RARE_SCORES = Law.of_scores((0.99, (0.6, 0.4, 0.0)), (0.01, (0.0, 0.0, 1.0)))


def many_scores() -> Law:
    """Twenty labels and twelve kinds of draws: most rivals are bounded together."""
    rng = np.random.default_rng(7)
    vectors = rng.dirichlet(np.full(20, 0.3), 12) * 0.6
    vectors[:, 0] += np.linspace(0.05, 0.4, 12)
    return Law.of_scores(*[(1.0, tuple(vector)) for vector in vectors])


CELLS = [
    Cell("easy votes, size", Law.of_votes(0.98, 0.01, 0.01), size_mode(0.95, 300)),
    Cell("easy votes, target", Law.of_votes(0.98, 0.01, 0.01), target_mode(0.95, 1000)),
    Cell("near-certain votes, size", Law.of_votes(0.999, 0.001), size_mode(0.95, 1000)),
    Cell("hard votes, size", Law.of_votes(0.55, 0.45), size_mode(0.8, 300)),
    Cell("hard votes, target", Law.of_votes(0.6, 0.25, 0.15), target_mode(0.8, 1000)),
    Cell("tied votes, size", Law.of_votes(0.5, 0.5), size_mode(0.8, 300)),
    Cell("tied votes, small budget, size", Law.of_votes(0.5, 0.5), size_mode(0.8, 160)),
    Cell("tied votes, target", Law.of_votes(1, 1, 1), target_mode(0.8, 1000)),
    Cell("two level labels, target", Law.of_votes(0.5, 0.5), target_mode(0.6, 300)),
    Cell("nearly level labels, target", Law.of_votes(0.51, 0.49), target_mode(0.6, 1000, 0.1)),
    Cell("a half and the rest, target", Law.of_votes(0.5, 0.3, 0.2), target_mode(0.6, 300)),
    Cell("1,000 labels, size", spread_out(1000, 0.3), size_mode(0.95, 300)),
    Cell("1,000 labels tied, target", spread_out(1000, 0.001), target_mode(0.8, 200)),
    Cell("easy scores, size", EASY_SCORES, size_mode(0.95, 300)),
    Cell("hard scores, target", HARD_SCORES, target_mode(0.8, 1000)),
    Cell("tied scores, target", TIED_SCORES, target_mode(0.8, 300)),
    Cell("scores with a rare outlier, size", RARE_SCORES, size_mode(0.8, 300)),
    Cell("20 labels' scores, target", many_scores(), target_mode(0.8, 300)),
    Cell("scores, wild runner-up, size", WILD_RUNNER_UP, size_mode(0.95, 1000)),
    Cell("smallest budget, size", Law.of_votes(0.7, 0.3), size_mode(0.8, 64)),
]
NAMED = {cell.name: cell for cell in CELLS}


def show(rows: list[Row]) -> None:
    print(f"\n{HEADER}")
    for row in rows:
        print(row)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_nothing_fails_more_often_than_alpha_allows(cell: Cell) -> None:
    rows = cell.rows(PICTURES, seed=1)
    show(rows)
    for row in rows:
        assert row.p_value > LEVEL, f"{HEADER}\n{row}"


def test_the_cells_come_close_to_what_is_allowed() -> None:
    """Some events happen nearly as often as they may, so the cells test what they should."""
    row = {row.event: row for row in NAMED["hard votes, size"].rows(PICTURES, seed=2)}
    fixed = row["fixed n: label"]
    assert fixed.failures > 0.5 * fixed.alpha * fixed.trials


MUTANTS = [
    (FourAlpha(), "hard votes, size", "size"),
    (EveryLook(), "hard votes, target", "answer"),
    (MajorityAtEveryLook(), "two level labels, target", "majority"),
    (PilotReused(), "1,000 labels tied, target", "answer"),
    (PilotReused(), "tied votes, small budget, size", "size"),
    (LabelEventDropped(), "easy votes, size", "size"),
    (RivalByMean(), "scores, wild runner-up, size", "size"),
]


@pytest.mark.parametrize(("mutant", "name", "event"), MUTANTS)
def test_mutants_fail_the_cells_built_for_them(mutant: Procedure, name: str, event: str) -> None:
    """If the procedure were wrong in one of these ways, the table would show it."""
    rows = NAMED[name].rows(2_000, 3, mutant)
    show([replace(row, cell=f"mutant {type(mutant).__name__}") for row in rows])
    assert {row.event: row.p_value for row in rows}[event] < LEVEL
    assert all(row.p_value > LEVEL for row in NAMED[name].rows(2_000, 3))


def drawn(law: Law, pictures: int, draws: int, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return law.vectors[rng.choice(len(law.weights), (pictures, draws), p=law.weights)]


@pytest.mark.parametrize(
    "cell", [cell for cell in CELLS if len(cell.law.expected) < 1000], ids=lambda cell: cell.name
)
def test_the_simulation_is_the_procedure(cell: Cell) -> None:
    """The same draws through separate inquiries give the same figures."""
    question = cell.question
    draws = drawn(cell.law, 40, question.max_draws, seed=4)
    outcome = simulate(cell.law, question, Recorded(draws), len(draws))
    stopped = []
    for i, own in enumerate(draws):
        inquiry = Inquiry(question, TERMS, own.shape[1], cell.law.scoring)
        inquiry.add(own)
        stopped.append(inquiry.stopped)
        assert inquiry.label == outcome.label[i]
        assert inquiry.pilot.draws == outcome.pilot[i]
        best = inquiry.findings
        assert best is not None
        mine = [look for look in outcome.history if i in look.who]
        seen = [look for look in mine if look.draws <= inquiry.total.draws]
        reached = seen[-1] if seen else None
        if reached and reached.draws == inquiry.total.draws:
            at = int(np.flatnonzero(reached.who == i)[0])
            assert inquiry.look == len(seen)
            assert float(TERMS.sizes(*best.bounds)) == reached.best[at]
            assert (inquiry.total.leader == best.label) == reached.leads[at]
        else:
            # A majority may end an inquiry between looks, as soon as it certifies the target.
            assert (best.ground, inquiry.stopped) == ("majority", "target_certified")
            assert best.counted.draws == inquiry.counted.draws
            assert inquiry.look == len(seen) + 1
        if inquiry.look == len(mine) and reached is mine[-1]:
            assert float(TERMS.sizes(*best.bounds)) == outcome.best[i]
            assert best.ground == outcome.bound[i]
            assert best.label == outcome.certified[i]
            assert best.counted.draws == outcome.draws[i]
            assert best.bounds == (outcome.lower[i], outcome.upper[i])
        # It stopped at the first look at which its target was met, if there was one.
        for look in seen:
            position = int(np.flatnonzero(look.who == i)[0])
            met = (
                question.target is not None
                and bool(look.leads[position])
                and round_down(float(reduce_size(look.best[position]))) >= question.target
            )
            ended = look.draws == inquiry.total.draws
            assert met == (ended and inquiry.stopped == "target_certified")
    if question.target is None:
        assert set(stopped) == {"max_draws"}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_the_intervals_of_the_simulation_are_those_shown(cell: Cell) -> None:
    law, labels, alpha = cell.law, len(cell.law.expected), 0.01
    for seed, draws in enumerate((64, 500)):
        source = Fresh(law, np.random.default_rng(seed))
        sums, squares = source.take(np.arange(5), draws)
        low, high = intervals(law, draws, sums, squares, alpha / (2 * labels))
        for i in range(5):
            shown = intervals_of(
                draws,
                tuple(sums[i].tolist()),
                tuple(squares[i].tolist()),
                law.unit,
                alpha / (2 * labels),
            )
            assert (shown[0] == low[i]).all()
            assert (shown[1] == high[i]).all()

"""How often an answer by split noise is wrong if it is asked for with a confidence below 1.

The votes of all draws are known, so whatever is claimed at any look can be compared with them.
"""

from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from models.answering import answer_all
from models.asking import ask
from models.bundle import ZOO, read_bundle
from models.certification.question import Question
from models.certification.split import SplitTerms, chance_of_bound, schedule, share_bounds
from models.certification.tally import Tally
from models.certification.without_replacement import least_count, most_count
from models.evaluation.alteration import Attack, alter
from models.evaluation.attacks import ATTACKS, noisy_scores
from models.network import load_network
from tests.soundness.forms import LONG, fastest
from tests.soundness.pictures import pictures_for

PICTURES = 100_000 if LONG else 3_000
LEVEL = 1e-6
BATCH = 500
TERMS = SplitTerms("split", 1.0, 1.0, "l1", 64)
CELLS = {
    "level": (255, 255),
    "nearly level": (256, 254),
    "three level labels": (170, 170, 170),
    "clear": (400, 100, 10),
    "unanimous": (510, 0),
}

Counts = NDArray[np.int64]


def paths(counts: tuple[int, ...], rng: np.random.Generator) -> Counts:
    """[pictures, looks, labels]: the votes at each look, draws being in random order."""
    votes = np.repeat(np.arange(len(counts)), counts)
    mixed = rng.permuted(np.tile(votes, (BATCH, 1)), axis=1)
    looks = np.array(schedule(TERMS)) - 1
    return np.stack([np.cumsum(mixed == one, axis=1)[:, looks] for one in range(len(counts))], 2)


def wrong(counts: tuple[int, ...], chance: float, seed: int) -> int:
    """How many pictures have a bound that is untrue at any look, or too large a size."""
    rng, found = np.random.default_rng(seed), 0
    truth = Tally(510, np.array(counts), np.array(counts), 1)
    exact = TERMS.answered(*share_bounds(truth, TERMS.draws, 0.0), "l1")
    for _ in range(PICTURES // BATCH):
        way = paths(counts, rng)
        missed = np.zeros(BATCH, dtype=bool)
        for look, draws in enumerate(schedule(TERMS)):
            for label, count in enumerate(counts):
                seen, where = np.unique(way[:, look, label], return_inverse=True)
                low = [least_count(TERMS.draws, draws, int(one), chance) for one in seen]
                high = [most_count(TERMS.draws, draws, int(one), chance) for one in seen]
                missed |= ((np.array(low) > count) | (np.array(high) < count))[where]
        for picture in np.flatnonzero(~missed)[:20]:
            for look, draws in enumerate(schedule(TERMS)):
                sums = way[picture, look]
                tally = Tally(draws, sums, sums, 1)
                size = TERMS.answered(*share_bounds(tally, TERMS.draws, chance), "l1")
                assert size <= exact
                assert not size or tally.leader == truth.leader
        found += int(missed.sum())
    return found


@pytest.mark.parametrize("confidence", [0.8, 0.99])
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_fails_more_often_than_alpha_allows(cell: str, confidence: float) -> None:
    counts = CELLS[cell]
    question = Question(confidence, TERMS.draws, None, "l1")
    failures = wrong(counts, chance_of_bound(question, len(counts)), 1)
    assert binom.sf(failures - 1, PICTURES, 1 - confidence) > LEVEL


def test_a_chance_that_is_not_divided_among_the_looks_is_caught() -> None:
    failures = wrong(CELLS["level"], 0.2 / 4, 2)
    assert binom.sf(failures - 1, PICTURES, 0.2) < LEVEL


def test_certainty_is_never_wrong() -> None:
    for cell, counts in CELLS.items():
        assert wrong(counts, 0.0, 3) == 0, cell


def attacked(factor: float) -> tuple[int, int]:
    """How many pictures were attacked up to so many times their sizes, and how many flipped."""
    bundle = read_bundle(ZOO / "mnist-split")
    predictor = fastest(bundle, 256)
    question = ask(bundle.manifest, None, 64, usual=0.95)
    images = np.stack(list(islice(pictures_for(bundle)[1], 100 if LONG else 4)))
    before = dict(answer_all(predictor, images, question))
    labels = np.array([before[index].total.leader for index in range(len(images))])
    sizes = np.array([factor * before[index].size for index in range(len(images))])
    scores = noisy_scores(load_network(bundle), 16)
    flipped = 0
    for name in ATTACKS:
        plan = Attack(name, "l1", 10)
        (altered,) = alter(plan, scores, images, labels, sizes, batch=len(images), bits=8)
        moved = np.abs(altered.astype(int) - images).sum(axis=(1, 2, 3)) / 255
        assert (moved <= sizes).all()
        assert moved.mean() > 0.3 * sizes.mean()
        for index, inquiry in answer_all(predictor, altered, question):
            flipped += inquiry.total.leader != labels[index]
    return len(ATTACKS) * len(images), flipped


def test_no_attack_inside_a_certified_size_flips_a_label() -> None:
    assert attacked(1.0)[1] == 0


def test_the_same_attacks_beyond_it_do_flip_labels() -> None:
    assert attacked(12.0)[1] > 0

"""The envelope of a family."""

import numpy as np

from models.evaluation.families import interval_of_best
from models.evaluation.figures import interval


def test_the_interval_of_the_best_allows_for_choosing_it() -> None:
    rng = np.random.default_rng(5)
    members, pictures, share, rounds = 8, 200, 0.6, 400
    counts = rng.binomial(pictures, share, (rounds, members)).tolist()
    envelope = [interval_of_best(row, pictures) for row in counts]
    alone = [interval(max(row), pictures) for row in counts]
    missed, naive = (
        sum(not low <= share <= high for low, high in one) for one in (envelope, alone)
    )
    assert missed <= 0.05 * rounds
    # The interval of the best member by itself leans upwards with its share.
    assert naive > 0.08 * rounds
    assert interval_of_best([30], 40) == interval(30, 40)

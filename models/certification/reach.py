"""What a draw budget can reach at best: every draw agreeing.

Computed from the procedure itself, so that what is promised is what would be answered.
"""

from functools import lru_cache

import numpy as np

from models.certification.division import LEAST_DRAWS, PILOT_BLOCK
from models.certification.procedure import Question, Terms, best_size
from models.certification.tally import Scoring, Tally

# Beyond this no budget is worth naming.
MOST_DRAWS = 10**9
# What an asker without a target hopes for: any size above 0.
SMALLEST_SIZE = 5e-324


@lru_cache(4096)
def reachable_size(question: Question, terms: Terms, scoring: Scoring) -> float:
    """Return the size answered if every draw of the whole budget gives the label all its score."""
    tally = _split(question.max_draws - PILOT_BLOCK, 1.0)
    return best_size(tally, terms, question, scoring)


def draws_needed(
    question: Question, terms: Terms, scoring: Scoring, share: float = 1.0
) -> int | None:
    """Return the smallest budget with which the question could be answered as its asker hopes.

    That is: the target certified, or without one a size above 0. The budget of ``question`` itself
    plays no part.

    Args:
        question: what is asked.
        terms: what the picture's certificates are worth.
        scoring: ``votes`` or ``softmax``.
        share: how much of the draws' scores goes to the label; one rival gets the rest.

    Returns:
        The budget, the pilot's draws included; None if none up to ``MOST_DRAWS`` suffices. With a
        share below 1 the sums are rounded in disfavour, so that single budgets above it may fail.
    """
    hoped = question.target or SMALLEST_SIZE

    def enough(draws: int) -> bool:
        asked = Question(question.confidence, draws, question.target, question.norm)
        return best_size(_split(draws - PILOT_BLOCK, share), terms, asked, scoring) >= hoped

    low, high = LEAST_DRAWS - 1, LEAST_DRAWS
    while not enough(high):
        if high >= MOST_DRAWS:
            return None
        low, high = high, min(2 * high, MOST_DRAWS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _split(counted: int, share: float) -> Tally:
    """Return a tally in which ``share`` of the draws give all to the label, the rest to a rival."""
    own = int(counted * share)
    both = np.array([own, counted - own])
    # Scores of 0 and 1 alone say the same in any unit; in the finest, so many overflow int64.
    return Tally(counted, both, both, 1)

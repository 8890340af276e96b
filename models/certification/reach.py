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
    counted = question.max_draws - PILOT_BLOCK
    # Scores of 0 and 1 alone sum to the same in any unit; the finest would overflow int64 here.
    sums = np.array([counted, 0])
    return best_size(Tally(counted, sums, sums, 1), terms, question, scoring)


def draws_needed(question: Question, terms: Terms, scoring: Scoring) -> int | None:
    """Return the smallest budget with which the question could be answered as its asker hopes.

    That is: the target certified, or without one a size above 0. The budget of ``question`` itself
    plays no part. None if no budget up to ``MOST_DRAWS`` suffices.
    """

    def enough(draws: int) -> bool:
        asked = Question(question.confidence, draws, question.target, question.norm)
        reached = reachable_size.__wrapped__(asked, terms, scoring)
        return reached >= (question.target or SMALLEST_SIZE)

    low, high = LEAST_DRAWS - 1, LEAST_DRAWS
    while not enough(high):
        if high >= MOST_DRAWS:
            return None
        low, high = high, min(2 * high, MOST_DRAWS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

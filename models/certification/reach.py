"""What a draw budget can reach at best: every draw agreeing.

Computed from the procedure itself, so that what is promised is what would be answered.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from models.certification.division import LEAST_DRAWS, PILOT_BLOCK, divide
from models.certification.inquiry import best_size
from models.certification.names import Scoring
from models.certification.question import Question
from models.certification.tally import Tally
from models.certification.terms import Terms

# Beyond this no budget is worth naming.
MOST_DRAWS = 10**9
# What an asker without a target hopes for: any size above 0.
SMALLEST_SIZE = 5e-324


@lru_cache(4096)
def reachable_size(question: Question, terms: Terms, scoring: Scoring, labels: int) -> float:
    """Return the size answered if every draw of the whole budget gives the label all its score.

    Args:
        question: what is asked.
        terms: what the picture's certificates are worth.
        scoring: ``votes`` or ``softmax``.
        labels: K.
    """
    return _best(question, terms, scoring, labels, 1.0)


def draws_needed(
    question: Question, terms: Terms, scoring: Scoring, labels: int, share: float = 1.0
) -> int | None:
    """Return the smallest budget with which the question could be answered as its asker hopes.

    That is: the target certified, or without one a size above 0. The budget of ``question`` itself
    plays no part.

    Args:
        question: what is asked.
        terms: what the picture's certificates are worth.
        scoring: ``votes`` or ``softmax``.
        labels: K.
        share: how much of the draws' scores goes to the label; one rival gets the rest.

    Returns:
        The budget, the pilot's draws included; None if none up to ``MOST_DRAWS`` suffices. With a
        share below 1 the sums are rounded in disfavour, so that single budgets above it may fail.
    """
    hoped = question.target or SMALLEST_SIZE

    def enough(draws: int) -> bool:
        asked = replace(question, max_draws=draws)
        return _best(asked, terms, scoring, labels, share) >= hoped

    low, high = LEAST_DRAWS - 1, LEAST_DRAWS
    while not enough(high):
        if high >= MOST_DRAWS:
            return None
        low, high = high, min(2 * high, MOST_DRAWS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _best(question: Question, terms: Terms, scoring: Scoring, labels: int, share: float) -> float:
    """The size after the shortest pilot and the whole budget, in which one rival has the rest."""
    pilot, counted = _split(PILOT_BLOCK, share), _split(question.max_draws - PILOT_BLOCK, share)
    divided = divide(
        question.confidence,
        scoring,
        question.target is not None,
        alone=True,
        pair=labels == 2,
        restarts=question.restarts,
    )
    return best_size(pilot, counted, labels, terms, question, divided)


def _split(draws: int, share: float) -> Tally:
    """Return a tally in which ``share`` of the draws give all to the label, the rest to a rival."""
    own = int(draws * share)
    both = np.array([own, draws - own])
    # Scores of 0 and 1 alone say the same in any unit; in the finest, so many overflow int64.
    return Tally(draws, both, both, 1)

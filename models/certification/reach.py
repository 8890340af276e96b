"""The size that a draw budget can reach if every draw agrees.

It is computed by the procedure itself, so that it is exactly what would be answered.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np

from models.certification.bounds import MOST_DRAWS
from models.certification.division import LEAST_DRAWS, divide
from models.certification.interval import IntervalTerms, stated
from models.certification.laws.interval import BOXES
from models.certification.names import Scoring
from models.certification.prospects import best_size
from models.certification.question import Question
from models.certification.split import SplitTerms, chance_of_bound, schedule, share_bounds
from models.certification.tally import Tally
from models.certification.terms import Terms

# The goal of a question without a target: any size above 0.
SMALLEST_SIZE = 5e-324


@lru_cache(4096)
def reachable_size(question: Question, terms: Terms, scoring: Scoring, labels: int) -> float:
    """Return the answered size if every draw of the whole budget gives everything to the label.

    Args:
        question: the question.
        terms: what turns bounds into sizes for the picture.
        scoring: ``votes`` or ``softmax``.
        labels: K.
    """
    if isinstance(terms, IntervalTerms):
        return stated(terms.largest)
    if isinstance(terms, SplitTerms):
        return terms.answered(1.0, 0.0, question.norm)
    return _best(question, terms, scoring, labels, 1.0)


def draws_needed(
    question: Question, terms: Terms, scoring: Scoring, labels: int, share: float = 1.0
) -> int | None:
    """Return the smallest budget with which the question could be answered successfully.

    That is: the target is certified, or without one a size above 0. The budget of ``question``
    itself is ignored.

    Args:
        question: the question.
        terms: what turns bounds into sizes for the picture.
        scoring: ``votes`` or ``softmax``.
        labels: K.
        share: the share of the draws' scores that goes to the label; one rival gets the rest.

    Returns:
        The budget, the pilot's draws included; None if none up to ``MOST_DRAWS`` suffices. With a
        share below 1 the sums are rounded against the label, so a few larger budgets may fail. For
        split noise, whose budget is N, it is where the draws end, if the label always has that
        share; for intervals the most boxes, if everything goes to the label.
    """
    hoped = question.target or SMALLEST_SIZE
    if isinstance(terms, IntervalTerms):
        return BOXES if share == 1 and stated(terms.largest) >= hoped else None
    if isinstance(terms, SplitTerms):
        return next(_ends_of_split(question, terms, labels, share), None)

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


def _ends_of_split(
    question: Question, terms: SplitTerms, labels: int, share: float
) -> Iterator[int]:
    """Yield the looks at which the question is answered successfully; without a target all draws.

    All bounds fail at one look with the chance that is due to them.
    """
    chance = chance_of_bound(replace(question, max_draws=terms.draws), labels)
    for draws in schedule(terms):
        size = terms.answered(
            *share_bounds(_split(draws, share), terms.draws, chance), question.norm
        )
        last = draws == terms.draws
        if size >= (question.target or SMALLEST_SIZE) and (question.target or last):
            yield draws


def _best(question: Question, terms: Terms, scoring: Scoring, labels: int, share: float) -> float:
    """The size after the shortest pilot and the whole budget, of which one rival has the rest."""
    first = question.steps.pilot
    pilot, counted = _split(first, share), _split(question.max_draws - first, share)
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
    """Return a tally in which ``share`` of the draws go to the label, and the rest to a rival."""
    own = int(draws * share)
    both = np.array([own, draws - own])
    # Scores of 0 and 1 mean the same in any unit; in the finest, this many would overflow int64.
    return Tally(draws, both, both, 1)

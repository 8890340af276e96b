"""What an inquiry says in the end, in the numbers that a client reads.

Sizes and lower bounds are rounded down, upper bounds up, so that what is read is as true as what
was proven.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from models.certification.arrays import Floats
from models.certification.bounds import Bound, betting_lower, betting_upper
from models.certification.certificates import DEFAULT, PAPER, Certificate, attacked
from models.certification.norms import NORMS, Norm, required
from models.certification.procedure import Certified, Inquiry, Question, Stopped, Terms
from models.certification.reach import SMALLEST_SIZE, reachable_size
from models.certification.rounding import round_down, round_up
from models.certification.tally import Tally


@dataclass(frozen=True)
class Interval:
    """A lower and an upper bound on an expected score."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Score:
    """One label's expected score: the estimate, its bounds, and what an attacker could make of it.

    ``attacked`` is there only when the question has a target: no change up to the target moves the
    expected score out of it.
    """

    index: int
    expected: float
    lower: float
    upper: float
    attacked: Interval | None


@dataclass(frozen=True)
class Total:
    """The tally of all draws, the pilot's too: what the scores shown rest on."""

    draws: int
    sums: list[int]
    sums_of_squares: list[int]


@dataclass(frozen=True)
class Evidence:
    """Everything needed to compute the certificate again: the tally of its look and its α.

    ``sums`` count in units of 1/``denominator``, ``sums_of_squares`` of 1/``denominator``², by
    label index, over counted draws only; ``total`` likewise over all draws.
    """

    label: int
    pilot_draws: int
    draws: int
    denominator: int
    sums: list[int]
    sums_of_squares: list[int]
    bound: Bound
    alpha_certificate: float
    alpha_label: float
    alpha_rival: float
    alpha_scores: float
    tau: float
    rho: float
    total: Total


@dataclass(frozen=True)
class Conclusion:
    """The answer to a question about one picture.

    Attributes:
        label: the index of the label with the largest mean score.
        certified_size: the size in ``norm``; 0 when nothing is certified, not even the label.
        robust: whether the size is above 0 and reaches the target; None without a target.
        reachable: whether the budget allows what was asked (the target, or any size at all) if
            every draw agrees.
        draws: all draws that were used, the pilot's too.
        stopped: why no more draws were made.
        scores: the labels asked for, the largest mean first.
        method: the certificate that ``certified_size`` comes from.
        lower: pA, on the label's expected score, as the certificate used it; 0 if the label that
            the pilot chose no longer leads.
        upper: pB, on every rival's; then 1.
        sizes: ``certified_size`` in every norm.
        paper: the paper's own condition on the same bounds.
        paper_size: its size, in ``norm``.
        evidence: what it takes to compute this again.
    """

    label: int
    certified_size: float
    norm: Norm
    robust: bool | None
    reachable: bool
    draws: int
    stopped: Stopped | None
    scores: list[Score]
    method: Certificate
    lower: float
    upper: float
    sizes: dict[Norm, float]
    paper: Certificate
    paper_size: float
    evidence: Evidence


def conclude(inquiry: Inquiry, scores: int) -> Conclusion:
    """Say what ``inquiry`` has found so far.

    Args:
        inquiry: one that has reached its first look.
        scores: how many labels to show, those with the largest means.

    Raises:
        ValueError: no look has been reached yet.
    """
    best = inquiry.best
    if best is None:
        raise ValueError("there is no answer before the first look")
    terms, question = inquiry.terms, inquiry.question
    certified_size = inquiry.size
    certified = certified_size > 0
    speaks = inquiry.total.leader == best.label
    paper_size = paper_condition(terms, best.lower, best.upper)
    target = question.target
    return Conclusion(
        label=inquiry.total.leader,
        certified_size=certified_size,
        norm=question.norm,
        robust=None if target is None else certified and certified_size >= target,
        reachable=reachable_size(question, terms, inquiry.scoring) >= (target or SMALLEST_SIZE),
        draws=inquiry.total.draws,
        stopped=inquiry.stopped,
        scores=show_scores(inquiry.total, inquiry.division.scores, terms, question, scores),
        method=DEFAULT[terms.mechanism],
        lower=round_down(best.lower) if speaks else 0.0,
        upper=round_up(best.upper) if speaks else 1.0,
        sizes={norm: terms.answered(best.size, norm) if certified else 0.0 for norm in NORMS},
        paper=PAPER[terms.mechanism],
        paper_size=terms.answered(paper_size, question.norm) if certified else 0.0,
        evidence=_evidence(inquiry, best),
    )


def show_scores(
    total: Tally, alpha: float, terms: Terms, question: Question, count: int
) -> list[Score]:
    """Bound the largest means over all draws: nothing was selected by them, so the pilot counts.

    Two-moment betting at a part of α that covers both sides of all K labels, also if fewer are
    shown, at every look at once.

    Args:
        total: the tally of all draws.
        alpha: the part of α for the scores of all labels.
        terms: the picture's.
        question: its target, if it has one, adds what an attacker could make of each score.
        count: how many to show.
    """
    shown = np.argsort(-total.sums, kind="stable")[:count]
    each = alpha / (2 * len(total.sums))
    lower, upper = _intervals(
        total.draws,
        tuple(total.sums[shown].tolist()),
        tuple(total.squares[shown].tolist()),
        total.denominator,
        each,
    )
    intervals: list[Interval | None] = [None] * len(shown)
    if question.target is not None:
        change = required(question.target, terms.norm, question.norm, terms.values)
        low, high = attacked(
            terms.mechanism,
            lower,
            upper,
            change * (1 + 1e-9),
            terms.scale,
            terms.sensitivity,
            tau=terms.tau,
            rho=terms.rho,
        )
        intervals = [
            Interval(round_down(a * (1 - 1e-9)), round_up(min(b * (1 + 1e-9), 1.0)))
            for a, b in zip(low.tolist(), high.tolist(), strict=True)
        ]
    means = total.means[shown]
    return [
        Score(int(index), round(float(mean), 6), round_down(float(a)), round_up(float(b)), interval)
        for index, mean, a, b, interval in zip(shown, means, lower, upper, intervals, strict=True)
    ]


@lru_cache(4096)
def _intervals(
    draws: int, sums: tuple[int, ...], squares: tuple[int, ...], denominator: int, alpha: float
) -> tuple[Floats, Floats]:
    """Bound expected scores on both sides; easy pictures have the same tallies again and again."""
    tally = draws, np.array(sums), np.array(squares), alpha
    lower = betting_lower(*tally, denominator=denominator)
    upper = betting_upper(*tally, denominator=denominator)
    return lower, upper


@lru_cache(4096)
def paper_condition(terms: Terms, lower: float, upper: float) -> float:
    """Return the size that the paper's own condition allows, in ``terms.norm``."""
    return float(terms.sizes(lower, upper, PAPER[terms.mechanism]))


def _evidence(inquiry: Inquiry, best: Certified) -> Evidence:
    return Evidence(
        label=best.label,
        pilot_draws=best.pilot_draws,
        draws=best.tally.draws,
        denominator=best.tally.denominator,
        sums=best.tally.sums.tolist(),
        sums_of_squares=best.tally.squares.tolist(),
        bound=best.bound,
        alpha_certificate=best.alpha_label + best.alpha_rival,
        alpha_label=best.alpha_label,
        alpha_rival=best.alpha_rival,
        alpha_scores=inquiry.division.scores,
        tau=inquiry.terms.tau,
        rho=inquiry.terms.rho,
        total=Total(
            draws=inquiry.total.draws,
            sums=inquiry.total.sums.tolist(),
            sums_of_squares=inquiry.total.squares.tolist(),
        ),
    )

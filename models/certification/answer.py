"""The result of an inquiry, in the numbers that a client reads.

Sizes and lower bounds are rounded down, and upper bounds up, so that the numbers shown are as true
as those that were proven.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from models.certification.arrays import Floats
from models.certification.attack_bounds import Attacks, attack_sizes, attacks, known, reached
from models.certification.bounds import betting_lower, betting_upper
from models.certification.certificates import PAPER
from models.certification.inquiry import Findings, Inquiry
from models.certification.names import NORMS, Certificate, Ground, Norm, Stopped
from models.certification.reach import SMALLEST_SIZE, reachable_size
from models.certification.rounding import round_down, round_up
from models.certification.tally import Tally
from models.certification.terms import Delta


@dataclass(frozen=True)
class Interval:
    """A lower and an upper bound on an expected score."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Score:
    """One label's expected score: the estimate, its bounds, and the range that attacks can reach.

    ``attacked`` is set only if the question has a target: no change up to the target moves the
    expected score out of it.
    """

    index: int
    expected: float
    lower: float
    upper: float
    attacked: Interval | None


@dataclass(frozen=True)
class Sums:
    """A tally of draws, in the evidence's units: of the pilot, or of all draws."""

    draws: int
    sums: list[int]
    sums_of_squares: list[int]

    @classmethod
    def of(cls, tally: Tally) -> "Sums":
        """Return the sums of a tally."""
        return cls(tally.draws, tally.sums.tolist(), tally.squares.tolist())


@dataclass(frozen=True)
class Evidence:
    """Everything needed to compute the answer again.

    ``sums`` are in units of 1/``denominator`` and ``sums_of_squares`` in units of
    1/``denominator``², by label index, over the counted draws of the look that certified most.
    ``pilot`` and ``total`` are the same for the pilot and for all draws. Before this run the
    picture began again ``restarts`` times; each run has its own share of α. ``sensitivities`` bound
    how far a change of the picture moves the features, the model's own bound first: by ``value``
    times the change in the norm ``source``, plus ``rho``, in the norm ``target``.
    """

    label: int
    pilot_draws: int
    draws: int
    denominator: int
    sums: list[int]
    sums_of_squares: list[int]
    bound: Ground
    alpha_certificate: float
    alpha_label: float
    alpha_rival: float
    alpha_scores: float
    restarts: int
    tau: float
    rho: float
    sensitivities: list[Delta]
    pilot: Sums
    total: Sums


@dataclass(frozen=True)
class Conclusion:
    """The answer to a question about one picture.

    Attributes:
        label: the index of the label with the largest mean score.
        certified_size: the size in ``norm``; 0 if nothing is certified, not even the label.
        robust: whether the size is above 0 and reaches the target; None without a target.
        reachable: whether the budget could certify the target (or without one, any size) if every
            draw agreed.
        draws: all draws that were used, the pilot's too.
        stopped: why no more draws were made; at a look before the last, ``deadline``.
        scores: the labels asked for, the largest mean first.
        method: the certificate that ``certified_size`` comes from.
        lower: pA, the bound on the label's expected score that the certificate used; 0 if the label
            that the pilot chose no longer leads.
        upper: pB, the bound on that of every rival; 1 in the same case.
        sizes: ``certified_size`` in every norm.
        paper: the certificate of the paper's own condition.
        paper_size: its size for the same bounds, in ``norm``.
        attacks: the scores that attacks of many sizes can reach, if asked for.
        evidence: everything that is needed to compute this again.
    """

    label: int
    certified_size: float
    norm: Norm
    robust: bool | None
    reachable: bool
    draws: int
    stopped: Stopped
    scores: list[Score]
    method: Certificate
    lower: float
    upper: float
    sizes: dict[Norm, float]
    paper: Certificate
    paper_size: float
    attacks: Attacks | None
    evidence: Evidence


def conclude(inquiry: Inquiry, scores: int, attack_count: int | None = None) -> Conclusion:
    """Return the result of ``inquiry`` so far.

    Args:
        inquiry: one that has reached its first look.
        scores: the number of labels to show, those with the largest means.
        attack_count: the number of attack sizes for which to show what scores can reach.

    Raises:
        ValueError: the inquiry has not reached its first look.
    """
    findings = inquiry.findings
    if findings is None:
        raise ValueError("there is no answer before the first look")
    return follow(findings, scores, attack_count)


def follow(findings: Findings, scores: int, attack_count: int | None = None) -> Conclusion:
    """Return what follows from findings; the other arguments are as above."""
    terms, question, total = findings.terms, findings.question, findings.total
    lower, upper = findings.bounds
    target, norm, leads = question.target, question.norm, findings.leads
    size = findings.size
    certified = size > 0
    most = reachable_size(question, terms, findings.scoring, len(total.sums))
    shown = np.argsort(-total.sums, kind="stable")[:scores]
    low, high = intervals_of(
        total.draws,
        tuple(total.sums[shown].tolist()),
        tuple(total.squares[shown].tolist()),
        total.denominator,
        findings.division.scores / (2 * len(total.sums)),
    )
    pair = (lower, upper) if leads else (0.0, 1.0)
    of_scores = known(shown.tolist(), low, high, len(total.sums), pair, size)
    intervals: list[Interval | None] = [None] * len(shown)
    if target is not None:
        ends = (part.tolist() for part in reached(of_scores, terms, norm, target))
        intervals = [Interval(*pair) for pair in zip(*ends, strict=True)]
    return Conclusion(
        label=total.leader,
        certified_size=size,
        norm=norm,
        robust=None if target is None else certified and size >= target,
        reachable=most >= (target or SMALLEST_SIZE),
        draws=total.draws,
        stopped=findings.stopped,
        scores=[
            Score(
                int(index),
                round(float(total.means[index]), 6),
                round_down(float(low[row])),
                round_up(float(high[row])),
                intervals[row],
            )
            for row, index in enumerate(shown)
        ],
        method=terms.method(lower, upper, norm) if certified else terms.method(0.0, 1.0, norm),
        lower=round_down(pair[0]),
        upper=round_up(pair[1]),
        sizes={one: findings.size_in(one) if certified else 0.0 for one in NORMS},
        paper=PAPER[terms.mechanism],
        paper_size=terms.answered(lower, upper, norm, paper=True) if certified else 0.0,
        attacks=None
        if attack_count is None
        else attacks(of_scores, terms, norm, attack_sizes(most, attack_count)),
        evidence=_evidence(findings),
    )


@lru_cache(4096)
def intervals_of(
    draws: int, sums: tuple[int, ...], squares: tuple[int, ...], denominator: int, alpha: float
) -> tuple[Floats, Floats]:
    """Bound the largest means over all draws, the pilot's too: nothing was selected by them.

    Two-moment betting at a part of α that covers both sides of all K labels, even if fewer are
    shown, at every look at once. Results are cached, because easy pictures often have equal
    tallies.
    """
    tally = draws, np.array(sums), np.array(squares), alpha
    lower = betting_lower(*tally, denominator=denominator)
    upper = betting_upper(*tally, denominator=denominator)
    return lower, upper


def _evidence(findings: Findings) -> Evidence:
    counted, division = findings.counted, findings.division
    alpha_label, alpha_rival = division.of(findings.ground)
    return Evidence(
        label=findings.label,
        pilot_draws=findings.pilot.draws,
        draws=counted.draws,
        denominator=counted.denominator,
        sums=counted.sums.tolist(),
        sums_of_squares=counted.squares.tolist(),
        bound=findings.ground,
        alpha_certificate=division.whole(findings.ground),
        alpha_label=alpha_label,
        alpha_rival=alpha_rival,
        alpha_scores=division.scores,
        restarts=findings.question.restarts,
        tau=findings.terms.tau,
        rho=findings.terms.rho,
        sensitivities=list(findings.terms.deltas),
        pilot=Sums.of(findings.pilot),
        total=Sums.of(findings.total),
    )

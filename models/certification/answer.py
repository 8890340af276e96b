"""The result of an inquiry, in the numbers that a client reads.

Sizes and lower bounds are rounded down, and upper bounds up, so that the numbers shown are as true
as those that were proven.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import overload

import numpy as np

from models.certification.arrays import Floats
from models.certification.attack_bounds import (
    Attacks,
    attack_sizes,
    attacks,
    known,
    reached,
)
from models.certification.certificates import PAPER
from models.certification.division import share_of_run
from models.certification.inquiry import Findings
from models.certification.interval import IntervalFindings
from models.certification.kinds import AnyFindings, SizeInquiry
from models.certification.names import NORMS, Certificate, Counting, Ground, Norm, Stopped
from models.certification.question import Question
from models.certification.reach import SMALLEST_SIZE, reachable_size
from models.certification.rounding import round_down, round_up
from models.certification.split import SplitFindings
from models.certification.stickers import StickerConclusion, StickerInquiry
from models.certification.tally import Tally
from models.certification.tally_bounds import interval_alpha, intervals_of
from models.certification.terms import Delta, Terms


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
class Certain:
    """The labels that may be first under some change up to the target, by falling mean score.

    ``within_allowed`` says whether the question allows all of them; None if it names none.
    """

    labels: list[int]
    within_allowed: bool | None


def lists(tally: Tally) -> tuple[list[int], list[int]]:
    """Return the sums and the sums of squares of a tally; for votes they are one list."""
    sums: list[int] = tally.sums.tolist()
    squares: list[int] = sums if tally.squares is tally.sums else tally.squares.tolist()
    return sums, squares


@dataclass(frozen=True)
class Sums:
    """A tally of draws, in the evidence's units: of the pilot, or of all draws."""

    draws: int
    sums: list[int]
    sums_of_squares: list[int]

    @classmethod
    def of(cls, tally: Tally) -> "Sums":
        """Return the sums of a tally."""
        sums, squares = lists(tally)
        return cls(tally.draws, sums, squares)


@dataclass(frozen=True)
class Evidence:
    """Everything needed to compute the answer again.

    ``sums`` are in units of 1/``denominator`` and ``sums_of_squares`` in units of
    1/``denominator``², by label index, over the counted draws of the look that certified most.
    ``pilot`` and ``total`` are the same for the pilot and for all draws. Before this run the
    picture began again ``restarts`` times; each run has its own share of α. ``allow`` has the
    labels that the question allows, or is None. ``sensitivities`` bound
    how far a change of the picture moves the features, the model's own bound first: by ``value``
    times the change in the norm ``source``, plus ``rho``, in the norm ``target``.

    For split noise there is no pilot; ``votes`` has the label of each of the N draws by its number,
    −1 if it voted for none, None if it was not made; ``alpha_label`` and ``alpha_rival`` are the
    chances that one bound on one label's votes fails, and the intervals shown rest on the same.

    For intervals a draw is a box; ``votes`` has the label proven for each of the boxes in their
    order. Which radius each has follows from the question and the votes before it.
    """

    label: int
    pilot_draws: int
    draws: int
    denominator: int
    sums: list[int]
    sums_of_squares: list[int]
    bound: Ground | Counting
    alpha_certificate: float
    alpha_label: float
    alpha_rival: float
    alpha_scores: float
    restarts: int
    allow: list[int] | None
    tau: float
    rho: float
    sensitivities: list[Delta]
    pilot: Sums
    total: Sums
    votes: list[int | None] | None


@dataclass(frozen=True)
class Conclusion:
    """The answer to a question about one picture.

    Attributes:
        label: the index of the label with the largest mean score.
        certified_size: the size in ``norm``; 0 if nothing is certified, not even the label.
        robust: whether the size is above 0 and reaches the target; None without a target.
        certain: the labels that may be first up to the target; None without a target.
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
    certain: Certain | None
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


AnyConclusion = Conclusion | StickerConclusion


@overload
def conclude(inquiry: SizeInquiry, scores: int, attack_count: int | None = None) -> Conclusion: ...


@overload
def conclude(
    inquiry: StickerInquiry, scores: int, attack_count: int | None = None
) -> StickerConclusion: ...


def conclude(
    inquiry: SizeInquiry | StickerInquiry, scores: int, attack_count: int | None = None
) -> AnyConclusion:
    """Return the result of ``inquiry`` so far.

    Args:
        inquiry: one that has reached its first look.
        scores: the number of labels to show, those with the largest means.
        attack_count: the number of attack sizes for which to show what scores can reach.

    Raises:
        ValueError: the inquiry has not reached its first look.
    """
    if isinstance(inquiry, StickerInquiry):
        return inquiry.findings.conclude(scores, inquiry.stopped)
    findings = inquiry.findings
    if findings is None:
        raise ValueError("there is no answer before the first look")
    return follow(findings, scores, attack_count, inquiry.stopped or "deadline")


def follow(
    findings: AnyFindings,
    scores: int,
    attack_count: int | None = None,
    stopped: Stopped | None = None,
) -> Conclusion:
    """Return what follows from findings.

    The other arguments are as above. ``stopped`` is computed again if it is not given.
    """
    terms, question, total = findings.terms, findings.question, findings.total
    lower, upper = findings.bounds
    target, norm, leads = question.target, question.norm, findings.leads
    size = findings.size
    certified = size > 0
    most = reachable_size(question, terms, findings.scoring, len(total.sums))
    shown = np.argsort(-total.sums, kind="stable")[:scores]
    pair = (lower, upper) if leads else (0.0, 1.0)
    labels = len(total.sums)
    rest = labels, pair, size, terms, norm, target
    ends: Callable[[], tuple[Floats, Floats]]
    if not isinstance(findings, Findings):
        ends = partial(findings.intervals, shown.tolist())
        rows = _state(ends(), findings.means[shown], *rest)
    else:
        tallied = (
            total.draws,
            tuple(total.sums[shown].tolist()),
            tuple(total.squares[shown].tolist()),
            total.denominator,
            interval_alpha(findings.division, labels),
        )
        ends = partial(intervals_of, *tallied)
        rows = _rows(tallied, *rest)
    told = None
    if attack_count is not None:
        of_scores = known(shown.tolist(), *ends(), labels, pair, size)
        told = attacks(of_scores, terms, norm, attack_sizes(most, attack_count))
    return Conclusion(
        label=total.leader,
        certified_size=size,
        norm=norm,
        robust=None if target is None else certified and size >= target,
        certain=_certain(findings),
        reachable=most >= (target or SMALLEST_SIZE),
        draws=total.draws,
        stopped=stopped or findings.stopped,
        scores=[Score(index, *row) for index, row in zip(shown.tolist(), rows, strict=True)],
        method=terms.method(lower, upper, norm) if certified else terms.method(0.0, 1.0, norm),
        lower=round_down(pair[0]),
        upper=round_up(pair[1]),
        sizes={one: findings.size_in(one) if certified else 0.0 for one in NORMS},
        paper=PAPER[terms.mechanism],
        paper_size=terms.answered(lower, upper, norm, paper=True) if certified else 0.0,
        attacks=told,
        evidence=_evidence(findings),
    )


def _certain(findings: AnyFindings) -> Certain | None:
    labels = findings.certain
    return None if labels is None else Certain(list(labels), findings.question.allows(labels))


@lru_cache(4096)
def _rows(
    tallied: tuple[int, tuple[int, ...], tuple[int, ...], int, float],
    labels: int,
    pair: tuple[float, float],
    size: float,
    terms: Terms,
    norm: Norm,
    target: float | None,
) -> list[tuple[float, float, float, Interval | None]]:
    """Return what an answer states of each score shown, whatever labels they are of.

    Easy pictures often have equal tallies, and share the work.

    Args:
        tallied: the arguments of :func:`intervals_of`.
        labels: K.
        pair: pA and pB.
        size: the certified size.
        terms: what turns bounds into sizes for the picture.
        norm: of the sizes.
        target: of the question.
    """
    draws, sums, _, denominator, _ = tallied
    means = np.array(sums) / (draws * denominator)
    return _state(intervals_of(*tallied), means, labels, pair, size, terms, norm, target)


def _state(
    ends: tuple[Floats, Floats],
    means: Floats,
    labels: int,
    pair: tuple[float, float],
    size: float,
    terms: Terms,
    norm: Norm,
    target: float | None,
) -> list[tuple[float, float, float, Interval | None]]:
    """Do what :func:`_rows` does, for bounds and means of the scores."""
    low, high = ends
    attacked: list[Interval | None] = [None] * len(means)
    if target is not None:
        of_scores = known(range(len(means)), low, high, labels, pair, size)
        parts = (part.tolist() for part in reached(of_scores, terms, norm, target))
        attacked = [Interval(*both) for both in zip(*parts, strict=True)]
    expected = [round(mean, 6) for mean in means.tolist()]
    lower, upper = map(round_down, low.tolist()), map(round_up, high.tolist())
    return list(zip(expected, lower, upper, attacked, strict=True))


def _evidence(findings: AnyFindings) -> Evidence:
    if not isinstance(findings, Findings):
        return _evidence_of_numbered(findings)
    counted, division = findings.counted, findings.division
    alpha_label, alpha_rival = division.of(findings.ground)
    sums, squares = lists(counted)
    return Evidence(
        label=findings.label,
        pilot_draws=findings.pilot.draws,
        draws=counted.draws,
        denominator=counted.denominator,
        sums=sums,
        sums_of_squares=squares,
        bound=findings.ground,
        alpha_certificate=division.whole(findings.ground),
        alpha_label=alpha_label,
        alpha_rival=alpha_rival,
        alpha_scores=division.scores,
        restarts=findings.question.restarts,
        allow=_listed(findings.question),
        tau=findings.terms.tau,
        rho=findings.terms.rho,
        sensitivities=list(findings.terms.deltas),
        pilot=Sums.of(findings.pilot),
        total=Sums.of(findings.total),
        votes=None,
    )


def _listed(question: Question) -> list[int] | None:
    return None if question.allow is None else list(question.allow)


def _evidence_of_numbered(findings: SplitFindings | IntervalFindings) -> Evidence:
    counted, question = findings.counted, findings.question
    split = isinstance(findings, SplitFindings)
    chance = findings.chance if isinstance(findings, SplitFindings) else 0.0
    alpha = share_of_run(question.restarts) * (1 - question.confidence) if split else 0.0
    return Evidence(
        label=findings.label,
        pilot_draws=0,
        draws=counted.draws,
        denominator=counted.denominator,
        sums=counted.sums.tolist(),
        sums_of_squares=counted.squares.tolist(),
        bound="counting" if split else "interval",
        alpha_certificate=alpha,
        alpha_label=chance,
        alpha_rival=chance,
        alpha_scores=0.0,
        restarts=question.restarts,
        allow=_listed(question),
        tau=findings.terms.tau,
        rho=findings.terms.rho,
        sensitivities=list(findings.terms.deltas),
        pilot=Sums.of(Tally.empty(len(counted.sums), findings.scoring)),
        total=Sums.of(findings.total),
        votes=list(findings.votes),
    )

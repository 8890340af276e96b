"""Many pictures with known expected scores, taken through the product's own procedure at once.

Each simulated picture goes through pilot, looks and certificates as in an ``Inquiry``, but in
arrays of pictures; the product's own functions decide, and compute the bounds. Every look up to the
end of the budget is checked, even if an answer would have been given earlier: the most adversarial
rule for stopping can be wrong only if some look is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from models.certification.arrays import Floats, Integers
from models.certification.bounds import (
    betting_lower,
    betting_upper,
    clopper_pearson_lower,
    clopper_pearson_upper,
)
from models.certification.division import (
    Division,
    divide,
    looks,
    pilot_ends,
    stands_alone,
)
from models.certification.majority import majority_pair
from models.certification.names import Ground, Scoring
from models.certification.question import Question
from models.certification.tally import DENOMINATORS, Tally
from models.certification.tally_bounds import certify_arrays, rivals_upper
from models.certification.terms import Terms

Flags = NDArray[np.bool_]
TERMS = Terms("gaussian", 1.0, 1.0, "l2", 784)
# The most array elements in a batch of pictures.
BATCH = 400_000


@dataclass(frozen=True)
class Law:
    """A draw's scores: one of ``vectors`` [J, K], in whole units, by probabilities [J]."""

    scoring: Scoring
    weights: Floats
    vectors: Integers

    @classmethod
    def of_votes(cls, *probabilities: float) -> "Law":
        p = np.array(probabilities)
        return cls("votes", p / p.sum(), np.eye(len(p), dtype=np.int64))

    @classmethod
    def of_scores(cls, *atoms: tuple[float, tuple[float, ...]]) -> "Law":
        """Soft scores: (weight, scores of every label) of each atom."""
        weights = np.array([weight for weight, _ in atoms])
        vectors = np.array([scores for _, scores in atoms])
        units = np.floor(vectors * DENOMINATORS["softmax"]).astype(np.int64)
        return cls("softmax", weights / weights.sum(), units)

    @property
    def unit(self) -> int:
        return DENOMINATORS[self.scoring]

    @property
    def expected(self) -> Floats:
        """E y, [K], the quantity that the bounds are about."""
        return np.asarray(self.weights @ self.vectors / self.unit)


class Source(Protocol):
    """A source of draws for some pictures."""

    def take(self, who: Integers, count: int) -> tuple[Integers, Integers]:
        """The sums and the sums of squares of the next ``count`` draws of the pictures ``who``."""


@dataclass
class Fresh:
    """Random draws."""

    law: Law
    rng: np.random.Generator

    def take(self, who: Integers, count: int) -> tuple[Integers, Integers]:
        times = self.rng.multinomial(count, self.law.weights, size=len(who))
        if self.law.scoring == "votes":
            return times, times
        vectors = self.law.vectors
        return times @ vectors, times @ (vectors * vectors)


@dataclass
class Recorded:
    """Given draws [pictures, draws, K], for comparison with an ``Inquiry``."""

    draws: Integers
    at: Integers = field(init=False)

    def __post_init__(self) -> None:
        self.at = np.zeros(len(self.draws), dtype=np.int64)

    def take(self, who: Integers, count: int) -> tuple[Integers, Integers]:
        parts = [self.draws[i, self.at[i] : self.at[i] + count] for i in who]
        self.at[who] += count
        sums = np.array([part.sum(axis=0) for part in parts])
        return sums, np.array([(part * part).sum(axis=0) for part in parts])


class Procedure:
    """The decisions of the procedure; the tests' mutants decide differently."""

    def divide(self, question: Question, scoring: Scoring, alone: bool, pair: bool) -> Division:
        targeted = question.target is not None
        return divide(question.confidence, scoring, targeted, alone=alone, pair=pair)

    def start(
        self, draws: int, sums: Integers, squares: Integers
    ) -> tuple[int, Integers, Integers]:
        """The tally with which the certificate begins, given the pilot's: an empty one."""
        return 0, np.zeros_like(sums), np.zeros_like(squares)

    def certify(
        self,
        bound: Ground,
        draws: Integers,
        sums: Integers,
        squares: Integers,
        label: Integers,
        alpha_label: float,
        alpha_rival: float,
        unit: int,
    ) -> tuple[Floats, Floats]:
        return certify_arrays(bound, draws, sums, squares, label, alpha_label, alpha_rival, unit)

    def majority(self, draws: int, sums: Integers, alpha: float) -> tuple[Floats, Floats]:
        """The pA and pB of the leaders of all draws."""
        pairs = [majority_pair(draws, int(one.max()), alpha) for one in sums]
        lower, upper = np.array(pairs).T
        return lower, upper

    def looks_once(self, count: int, schedule: tuple[int, ...]) -> bool:
        """Whether the bound at a fixed n is applied at this look."""
        return count == schedule[-1]


@dataclass
class Look:
    """One look at the pictures ``who``: their best certificates so far, and the leading labels."""

    who: Integers
    draws: int
    best: Floats
    leads: Flags


@dataclass
class Outcome:
    """The outcome for each picture; events are true where they happened at any look."""

    label: Integers
    pilot: Integers
    certified: Integers
    best: Floats
    lower: Floats
    upper: Floats
    draws: Integers
    bound: NDArray[np.str_]
    leads: Flags
    events: dict[str, Flags]
    history: list[Look]


EVENTS = (
    "betting: label",
    "betting: rival",
    "fixed n: label",
    "fixed n: rival",
    "majority",
    "certificate",
    "size",
    "scores",
    "answer",
)


def allowed(law: Law, question: Question) -> dict[str, float]:
    """The most often that each event may happen, whatever the pilot decides."""
    pair = len(law.expected) == 2
    honest, alone = (
        Procedure().divide(question, law.scoring, alone, pair) for alone in (False, True)
    )
    # Includes the bound on the rivals, which the shown intervals share.
    certificate = 1 - question.confidence
    return {
        "betting: label": alone.betting_label,
        "betting: rival": honest.betting_rival,
        "fixed n: label": honest.fixed_label,
        "fixed n: rival": honest.fixed_rival,
        "majority": honest.whole("majority"),
        "certificate": certificate,
        "size": certificate,
        "scores": honest.scores,
        "answer": 1 - question.confidence,
    }


def simulate(
    law: Law,
    question: Question,
    source: Source,
    pictures: int,
    procedure: Procedure | None = None,
    terms: Terms = TERMS,
) -> Outcome:
    """Take ``pictures`` through pilot and looks, and record every untrue claim about them."""
    procedure = procedure or Procedure()
    truth = law.expected
    labels = len(truth)
    label, pilot, sums, squares = _pilot(law, question, source, pictures)
    alone = np.array(
        [
            stands_alone(Tally(int(n), *own, law.unit))
            for n, *own in zip(pilot, sums, squares, strict=True)
        ]
    )
    outcome = Outcome(
        label=label,
        pilot=pilot,
        certified=label.copy(),
        best=np.full(pictures, -1.0),
        lower=np.zeros(pictures),
        upper=np.ones(pictures),
        draws=np.zeros(pictures, dtype=np.int64),
        bound=np.full(pictures, "", dtype="<U16"),
        leads=np.zeros(pictures, dtype=bool),
        events={name: np.zeros(pictures, dtype=bool) for name in EVENTS},
        history=[],
    )
    for length, flag in product(np.unique(pilot), (False, True)):
        who = np.flatnonzero((pilot == length) & (alone == flag))
        if not len(who):
            continue
        division = procedure.divide(question, law.scoring, flag, labels == 2)
        each = division.scores / (2 * labels)
        own = label[who]
        schedule = looks(question.max_draws - int(length), question.steps)
        total, total_squares = sums[who], squares[who]
        ahead, counted, counted_squares = procedure.start(int(length), total, total_squares)
        before = 0
        for count in schedule:
            more, more_squares = source.take(who, count - before)
            before = count
            counted, counted_squares = counted + more, counted_squares + more_squares
            total, total_squares = total + more, total_squares + more_squares
            drawn = int(length) + count
            grounds: list[tuple[Ground, str, float, float]] = [
                ("betting", "betting", division.betting_label, division.betting_rival)
            ]
            if division.majority > 0:
                grounds.append(("majority", "majority", division.majority, 0.0))
            if division.fixed_label > 0 and procedure.looks_once(count, schedule):
                grounds.append(
                    ("clopper-pearson", "fixed n", division.fixed_label, division.fixed_rival)
                )
            n = np.full(len(who), ahead + count)
            for ground, name, alpha_label, alpha_rival in grounds:
                certified = own
                if ground == "majority":
                    certified = total.argmax(axis=1)
                    lower, upper = procedure.majority(drawn, total, alpha_label)
                else:
                    lower, upper = procedure.certify(
                        ground, n, counted, counted_squares, own, alpha_label, alpha_rival, law.unit
                    )
                shown = rivals_upper(
                    "betting",
                    np.full(len(who), drawn),
                    total,
                    total_squares,
                    certified,
                    each,
                    law.unit,
                )
                upper = np.where(lower > 0, np.minimum(upper, shown), upper)
                own_truth, rival_truth = _truths(truth, certified)
                missed = "majority" if ground == "majority" else f"{name}: label"
                outcome.events[missed][who] |= lower > own_truth
                if alpha_rival > 0:
                    outcome.events[f"{name}: rival"][who] |= _runner_up_missed(
                        ground, law, n, counted, counted_squares, own, alpha_rival
                    )
                untrue = (lower > own_truth) | (upper < rival_truth)
                outcome.events["certificate"][who] |= untrue
                sizes = terms.sizes(lower, upper)
                outcome.events["size"][who] |= sizes > terms.sizes(own_truth, rival_truth)
                better = sizes > outcome.best[who]
                at = who[better]
                outcome.best[at], outcome.bound[at] = sizes[better], ground
                outcome.certified[at] = certified[better]
                outcome.lower[at], outcome.upper[at] = lower[better], upper[better]
                outcome.draws[at] = count
            low, high = intervals(law, drawn, total, total_squares, each)
            outcome.events["scores"][who] |= ((low > truth) | (high < truth)).any(axis=1)
            outcome.leads[who] = total.argmax(axis=1) == outcome.certified[who]
            if isinstance(source, Recorded):
                outcome.history.append(
                    Look(who, drawn, outcome.best[who].copy(), outcome.leads[who].copy())
                )
    for name in ("certificate", "size", "scores"):
        outcome.events["answer"] |= outcome.events[name]
    return outcome


def _truths(truth: Floats, label: Integers) -> tuple[Floats, Floats]:
    """The true scores of labels [n], and the largest score of any other label."""
    others = np.tile(truth, (len(label), 1))
    others[np.arange(len(label)), label] = -1
    return truth[label], others.max(axis=1)


def _runner_up_missed(
    bound: Ground,
    law: Law,
    draws: Integers,
    sums: Integers,
    squares: Integers,
    label: Integers,
    alpha: float,
) -> Flags:
    """Whether the upper bound of the true runner-up, one fixed label, lies below its score."""
    truth = np.tile(law.expected, (len(label), 1))
    every = np.arange(len(label))
    truth[every, label] = -1
    runner_up = truth.argmax(axis=1)
    s, ss = sums[every, runner_up], squares[every, runner_up]
    if bound == "betting":
        upper = betting_upper(draws, s, ss, alpha, denominator=law.unit)
    else:
        upper = clopper_pearson_upper(draws, s, alpha)
    return np.asarray(upper < truth[every, runner_up])


def _pilot(
    law: Law, question: Question, source: Source, pictures: int
) -> tuple[Integers, Integers, Integers, Integers]:
    labels = len(law.expected)
    sums = np.zeros((pictures, labels), dtype=np.int64)
    squares = sums.copy()
    length = np.zeros(pictures, dtype=np.int64)
    going, block = np.arange(pictures), question.steps.pilot
    while len(going):
        more, more_squares = source.take(going, block)
        sums[going] += more
        squares[going] += more_squares
        length[going] += block
        ended = [
            pilot_ends(
                Tally(int(length[i]), sums[i], squares[i], law.unit),
                question.max_draws,
                question.steps,
            )
            for i in going
        ]
        going = going[~np.array(ended)]
    return sums.argmax(axis=1), length, sums, squares


def intervals(
    law: Law, draws: int, sums: Integers, squares: Integers, alpha: float
) -> tuple[Floats, Floats]:
    """The shown intervals of every label; for votes, from a table over their possible sums."""
    if law.scoring == "votes":
        possible = np.arange(int(sums.max()) + 1)
        low = betting_lower(draws, possible, possible, alpha)
        high = betting_upper(draws, possible, possible, alpha)
        return low[sums], high[sums]
    return (
        betting_lower(draws, sums, squares, alpha, denominator=law.unit),
        betting_upper(draws, sums, squares, alpha, denominator=law.unit),
    )


@dataclass(frozen=True)
class Cell:
    """One experiment: pictures with one law, and one question."""

    name: str
    law: Law
    question: Question

    def failures(
        self, pictures: int, seed: int, procedure: Procedure | None = None
    ) -> dict[str, int]:
        """To how many of ``pictures`` each event happened."""
        counts = dict.fromkeys(EVENTS, 0)
        for number, part in enumerate(_batches(pictures, len(self.law.expected))):
            source = Fresh(self.law, np.random.default_rng([seed, number]))
            outcome = simulate(self.law, self.question, source, part, procedure)
            for name, happened in outcome.events.items():
                counts[name] += int(happened.sum())
        return counts

    def rows(self, pictures: int, seed: int, procedure: Procedure | None = None) -> list["Row"]:
        """How often an event may happen, how often it did, and how likely that is by chance."""
        counts = self.failures(pictures, seed, procedure)
        return [
            Row(self.name, event, pictures, counts[event], alpha)
            for event, alpha in allowed(self.law, self.question).items()
            if alpha > 0
        ]


def _batches(pictures: int, labels: int) -> Iterator[int]:
    most = max(BATCH // labels, 1)
    while pictures > 0:
        yield min(pictures, most)
        pictures -= most


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    cell: str
    event: str
    trials: int
    failures: int
    alpha: float

    @property
    def p_value(self) -> float:
        """The chance of at least so many failures if each has probability α (exact, one-sided)."""
        return float(stats.binom.sf(self.failures - 1, self.trials, self.alpha))

    def __str__(self) -> str:
        rate = self.failures / self.trials
        return (
            f"{self.cell:<34}{self.event:<16}{self.trials:>8,}{self.failures:>8,}"
            f"{rate:>10.4%}{self.alpha:>10.4%}{self.p_value:>10.2g}"
        )


HEADER = (
    f"{'cell':<34}{'event':<16}{'trials':>8}{'failed':>8}{'rate':>10}{'alpha':>10}{'p-value':>10}"
)


# ── Mutants: procedures with one plausible mistake each ──────────────────────────────────────────


class FourAlpha(Procedure):
    """Clopper-Pearson at four times its share of α."""

    def divide(self, question: Question, scoring: Scoring, alone: bool, pair: bool) -> Division:
        honest = super().divide(question, scoring, alone, pair)
        return replace(
            honest, fixed_label=4 * honest.fixed_label, fixed_rival=4 * honest.fixed_rival
        )


class EveryLook(Procedure):
    """Clopper-Pearson at every look."""

    def majority(self, draws: int, sums: Integers, alpha: float) -> tuple[Floats, Floats]:
        """The pA and pB of the leaders of all draws."""
        pairs = [majority_pair(draws, int(one.max()), alpha) for one in sums]
        lower, upper = np.array(pairs).T
        return lower, upper

    def looks_once(self, count: int, schedule: tuple[int, ...]) -> bool:
        return True


class MajorityAtEveryLook(Procedure):
    """The majority by a bound that holds at only one look."""

    def majority(self, draws: int, sums: Integers, alpha: float) -> tuple[Floats, Floats]:
        lower = clopper_pearson_lower(draws, sums.max(axis=1), alpha)
        claimed = lower > 0.5
        return np.where(claimed, lower, 0.0), np.where(claimed, 1 - lower, 1.0)


class PilotReused(Procedure):
    """The draws that chose the label certify it, too."""

    def start(
        self, draws: int, sums: Integers, squares: Integers
    ) -> tuple[int, Integers, Integers]:
        return draws, sums, squares


class LabelEventDropped(Procedure):
    """The label's score taken to be its mean."""

    def certify(self, *arguments: Any) -> tuple[Floats, Floats]:
        _, draws, sums, _, label, _, _, unit = arguments
        _, upper = super().certify(*arguments)
        mean = sums[np.arange(len(sums)), label] / (draws * unit)
        return mean, np.minimum(upper, 1 - mean)


class RivalByMean(Procedure):
    """Only the bound of the rival with the second-largest mean."""

    def certify(self, *arguments: Any) -> tuple[Floats, Floats]:
        bound, draws, sums, squares, label, _, alpha_rival, unit = arguments
        lower, _ = super().certify(*arguments)
        every = np.arange(len(sums))
        rivals = sums.copy()
        rivals[every, label] = -1
        second = rivals.argmax(axis=1)
        s, ss = sums[every, second], squares[every, second]
        if bound == "betting":
            upper = betting_upper(draws, s, ss, alpha_rival, denominator=unit)
        else:
            upper = clopper_pearson_upper(draws, s, alpha_rival)
        return lower, np.minimum(upper, 1 - lower)

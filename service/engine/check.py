"""The self-check: does a worker vote for the probe picture as workers did before?

A device, its driver or a network's code can go wrong after the trials at the start. So each worker
certifies the probe picture (:mod:`service.engine.probe`) again and again, in the same way as any
picture: socket, batcher, fresh noise, h, votes. Its tally is compared with the reference: the
tallies of the same picture that passed before, of all workers on that kind of device, up to 1,024
draws. Small and large passes are checked in turn, and compared with the same reference: two h's of
one model agree in nearly all draws. A worker that starts is compared, too, before it is ready, so a
device that stays wrong is not used.

As long as nothing goes wrong, draws are independent and have one law. Then, given the number of
votes for a label in both tallies together, its votes in one are hypergeometric (Fisher 1935, The
Logic of Inductive Inference), whatever the network. A tally is refused if a label's votes lie in a
tail of at most ``SIGNIFICANCE`` / 4K: two tails, K labels, and two tallies that are compared: the
check's own draws, and those of this worker's last 16 checks, in which smaller faults show. (None of
these is part of the reference, so the compared tallies are independent.) Soft scores have no such
law; for them the bounds of certificates are used instead, at half of each tail for either tally
(:func:`~models.certification.answer.intervals_of`): both hold for one expected score, and so they
overlap.

False alarms: 1,000 workers that each check ten models once a minute make 1,000 · 10 · 525,960 · 100
= 5.3·10¹¹ checks in a hundred years, of which at most 5.3·10¹¹ · ``SIGNIFICANCE`` = 0.053 fail by
chance.

Power, with ten labels and a full reference whose votes all agree: one check finds a fault that
changes a third of the votes with probability 99.7 %, and sixteen checks find one that changes 6 %
of them with 97 %. A fault that does not change the votes for this picture is not found. Repeating
the same noise would show more, but then there would be a way to know the noise beforehand.
"""

from collections import deque
from functools import reduce
from operator import add
from typing import Literal, get_args

import numpy as np
from scipy.special import gammaln

from models.certification.answer import Sums
from models.certification.arrays import Floats, Integers
from models.certification.tally import Tally
from models.certification.tally_bounds import intervals_of
from service.engine.errors import LoadError

# The chance that the check of a sound worker fails.
SIGNIFICANCE = 1e-13
REFERENCE_DRAWS = 1024
RECENT_CHECKS = 16

CheckResult = Literal["passed", "failed", "unanswered"]
CHECK_RESULTS: tuple[CheckResult, ...] = get_args(CheckResult)


class WrongAnswerError(LoadError):
    """A worker's answer to the probe picture is wrong; says how this showed."""


class Reference:
    """The tallies of a model's probe picture on one kind of device."""

    def __init__(self) -> None:
        self._tally: Tally | None = None

    @property
    def full(self) -> bool:
        """Whether it has all its draws; until then, checks that pass are added."""
        return self._tally is not None and self._tally.draws >= REFERENCE_DRAWS

    def compare(self, tally: Tally, recent: "Recent") -> None:
        """Compare a check with the earlier ones.

        Args:
            tally: the check's draws.
            recent: the same worker's last checks, without those in the reference; this one is
                added.

        Raises:
            WrongAnswerError: the worker differs from the others.
        """
        compared = [tally, recent.add(tally)] if self.full else [tally]
        for one in compared:
            if self._tally is not None and (label := differing(self._tally, one)) is not None:
                was, found = (float(each.means[label]) for each in (self._tally, one))
                raise WrongAnswerError(
                    f"of {one.draws} draws for the probe picture {found:.1%} are of label {label}, "
                    f"but {was:.1%} of the {self._tally.draws} before; chance does not explain that"
                )
        if not self.full:
            self._tally = tally if self._tally is None else self._tally + tally


class Recent:
    """A worker's last checks of one model."""

    def __init__(self) -> None:
        self._tallies: deque[Tally] = deque(maxlen=RECENT_CHECKS)

    def add(self, tally: Tally) -> Tally:
        """Add a check, and return the kept ones as one tally."""
        self._tallies.append(tally)
        return reduce(add, self._tallies)


def tally_of(sums: Sums, denominator: int) -> Tally:
    """Return the tally in an answer's evidence."""
    return Tally(sums.draws, np.array(sums.sums), np.array(sums.sums_of_squares), denominator)


def differing(one: Tally, other: Tally) -> int | None:
    """Return the label whose scores cannot have one law in both tallies; None if there is none.

    By chance it returns one with probability at most ``SIGNIFICANCE`` / 2.
    """
    each = SIGNIFICANCE / (4 * len(one.sums))
    if one.denominator == 1:
        least = np.minimum(tails(one, other), tails(other, one))
        label = int(least.argmin())
        return label if least[label] <= each else None
    (low, high), (other_low, other_high) = (_bounds(tally, each / 2) for tally in (one, other))
    apart = np.maximum(low - other_high, other_low - high)
    label = int(apart.argmax())
    return label if apart[label] > 0 else None


def tails(one: Tally, other: Tally) -> Floats:
    """Return for each label the chance of at least its number of votes in ``one``, [K].

    Given its number in both tallies: Σ_{j≥x} C(n, j) C(m, s − j) / C(n + m, s) for x of n votes in
    ``one`` and s in both, of n + m draws.
    """
    n, m = one.draws, other.draws
    together = one.sums + other.sums
    chances = np.ones(len(one.sums))
    for label in np.flatnonzero(one.sums):
        s = int(together[label])
        j = np.arange(one.sums[label], min(n, s) + 1)
        logs = _log_choose(n, j) + _log_choose(m, s - j) - _log_choose(n + m, np.array(s))
        chances[label] = np.exp(logs).sum()
    return chances


def _log_choose(n: int, k: Integers) -> Floats:
    logs: Floats = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return logs


def _bounds(tally: Tally, alpha: float) -> tuple[Floats, Floats]:
    sums, squares = tuple(tally.sums.tolist()), tuple(tally.squares.tolist())
    return intervals_of(tally.draws, sums, squares, tally.denominator, alpha)

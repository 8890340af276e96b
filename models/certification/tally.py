"""Tallies: the sums of the draws of a picture, as exact integers.

A draw's scores y lie in [0, 1]^K with sum ≤ 1. For ``votes``, y is the one-hot of the arg max; for
``softmax``, the network's probabilities, rounded down to multiples of 2⁻²⁰. Integer sums do not
depend on the order of the draws or on which pass they shared, and no variance cancels.

Draws are integer scores [rows, K], or for ``votes`` the labels alone, [rows]: two bytes a draw.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from models.certification.arrays import Draws, Integers, Numbers
from models.certification.names import SCORINGS, Scoring

DENOMINATORS: dict[Scoring, int] = {"votes": 1, "softmax": 2**20}

# The vote of a draw that scores zero for every label.
NO_VOTE = -1


def cast_votes(logits: Numbers) -> Draws:
    """Return the votes [rows] of logits [rows, K].

    A tie votes for the lowest index; a row with NaN or infinity is ``NO_VOTE``.
    """
    kind = np.int16 if logits.shape[1] <= 2**15 else np.int32
    finite = np.isfinite(logits).all(axis=1)
    return np.where(finite, logits.argmax(axis=1), NO_VOTE).astype(kind)


def make_draws(logits: Numbers, scoring: Scoring) -> Draws:
    """Return the draws of logits [rows, K]: votes [rows], or other scores [rows, K]."""
    return cast_votes(logits) if scoring == "votes" else draw_scores(logits, scoring)


def draw_scores(logits: Numbers, scoring: Scoring) -> Integers:
    """Turn the network's output into the integer scores of each draw.

    Args:
        logits: [rows, K], the output of h, in any float type of numpy.
        scoring: ``votes`` or ``softmax``.

    Returns:
        [rows, K] int64 in units of 1/``DENOMINATORS[scoring]``, each row ≥ 0 with a sum of at
        most one unit. A tie votes for the lowest index; a row with NaN or infinity scores zero
        for every label, which can only make a certificate smaller.

    Raises:
        ValueError: an unknown scoring.
    """
    if scoring not in SCORINGS:
        raise ValueError(f"unknown scoring {scoring!r}; known: {', '.join(SCORINGS)}")
    if scoring == "votes":
        return np.asarray(cast_votes(logits)[:, None] == np.arange(logits.shape[1]), np.int64)
    finite = np.asarray(np.isfinite(logits).all(axis=1))
    safe = np.where(finite[:, None], logits, 0.0).astype(np.float64)
    exponentials = np.exp(safe - safe.max(axis=1, keepdims=True))
    shares = exponentials / exponentials.sum(axis=1, keepdims=True)
    scores: Integers = np.floor(np.clip(shares, 0.0, 1.0) * DENOMINATORS["softmax"]).astype(
        np.int64
    )
    # Rounding may let a row exceed one unit. The excess is subtracted from its largest score, so
    # that scores sum to at most 1, on which the rivals' bound 1 − lower rests.
    excess = np.maximum(scores.sum(axis=1) - DENOMINATORS["softmax"], 0)
    scores[np.arange(len(scores)), scores.argmax(axis=1)] -= excess
    scores[~finite] = 0
    return scores


@dataclass(frozen=True)
class Tally:
    """The sums of one picture's draws.

    ``sums`` [K] are in units of 1/``denominator``, ``squares`` [K] of 1/``denominator``².
    """

    draws: int
    sums: Integers
    squares: Integers
    denominator: int

    @classmethod
    def empty(cls, labels: int, scoring: Scoring) -> Self:
        """Return a tally of no draws."""
        zeros = np.zeros(labels, dtype=np.int64)
        return cls(0, zeros, zeros, DENOMINATORS[scoring])

    @classmethod
    def of(cls, scores: Integers, scoring: Scoring) -> Self:
        """Sum the integer scores [rows, K] of some draws."""
        return cls(
            len(scores), scores.sum(axis=0), (scores * scores).sum(axis=0), DENOMINATORS[scoring]
        )

    @classmethod
    def of_draws(cls, draws: Draws, labels: int, scoring: Scoring) -> Self:
        """Sum draws: votes [rows] for some of K labels, or integer scores [rows, K].

        Raises:
            ValueError: a vote is for no label, and not ``NO_VOTE``.
        """
        if draws.ndim > 1:
            return cls.of(draws, scoring)
        sums = np.bincount(draws - NO_VOTE, minlength=labels + 1)[1:]
        if len(sums) > labels:
            raise ValueError(f"a draw votes for label {len(sums) - 1} of {labels}")
        return cls(len(draws), sums, sums, DENOMINATORS[scoring])

    def __add__(self, other: Self) -> Self:
        if self.denominator != other.denominator:
            raise ValueError("tallies of different scorings certify different labels")
        return self._with(self.draws + other.draws, other, np.add)

    def __sub__(self, other: Self) -> Self:
        return self._with(self.draws - other.draws, other, np.subtract)

    def _with(self, draws: int, other: Self, both: np.ufunc) -> Self:
        sums = both(self.sums, other.sums)
        # The squares of votes are their sums.
        votes = self.squares is self.sums and other.squares is other.sums
        squares = sums if votes else both(self.squares, other.squares)
        return type(self)(draws, sums, squares, self.denominator)

    def of_labels(self, labels: Sequence[int]) -> Self:
        """Return the tally of some labels alone."""
        chosen = list(labels)
        return type(self)(self.draws, self.sums[chosen], self.squares[chosen], self.denominator)

    @cached_property
    def leader(self) -> int:
        """The label with the largest sum; the lowest index among equals."""
        return int(self.sums.argmax())

    @cached_property
    def second(self) -> int:
        """The label with the largest sum apart from the leader; the lowest index among equals."""
        return self.rival(self.leader)

    def rival(self, label: int) -> int:
        """The label other than ``label`` with the largest sum; the lowest index among equals."""
        sums = self.sums.copy()
        sums[label] = -1
        return int(sums.argmax())

    @property
    def means(self) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """Estimates of the expected scores, [K]."""
        return self.sums / (self.draws * self.denominator)

"""Votes, counted as they come in: who leads is known at every draw, without a search over labels.

A look at a picture compares two or three counts. Summing [rows, K] and searching [K] for them costs
more than all arithmetic of the bounds, and grows with K; this costs the same for any K.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.certification.arrays import Draws
from models.certification.tally import NO_VOTE, Tally


class Poll:
    """The votes of one picture, and the two labels in front.

    Args:
        labels: K ≥ 2.
        first: a label that is to count as the first, wherever it stands.

    Attributes:
        draws: the number of draws, including those that voted for no label.
        counts: [K], the votes of each label.
        first: the label with the most votes, unless it was given.
        second: the one with the most among all others. Of equals the lowest index comes first.
    """

    __slots__ = ("_given", "counts", "draws", "first", "second")

    def __init__(self, labels: int, first: int | None = None) -> None:
        self.draws, self.counts = 0, array("q", bytes(8 * labels))
        self._given = first is not None
        self.first = first or 0
        self.second = 0 if self.first else 1

    @staticmethod
    def rows(draws: Draws) -> list[int]:
        """Return the votes of draws: votes [rows], or one-hot scores [rows, K]."""
        if draws.ndim > 1:
            draws = np.where(draws.any(axis=1), draws.argmax(axis=1), NO_VOTE)
        votes: list[int] = draws.tolist()
        return votes

    def add(self, votes: Sequence[int]) -> None:
        """Count further votes: labels, or ``NO_VOTE``.

        A label that overtakes the first was at most level with it, and so was every other: the
        former first then has the most votes of the others, and the lowest index of those. All this
        depends on the counts alone, so votes for one label may be counted together.

        Raises:
            ValueError: a vote is for no label, and not ``NO_VOTE``.
        """
        counts, first, second = self.counts, self.first, self.second
        # Most pictures are easy: all votes of a block are for one label.
        alike = votes and votes.count(votes[0]) == len(votes)
        block = {votes[0]: len(votes)} if alike else Counter(votes)
        for vote, more in block.items():
            if vote == NO_VOTE:
                continue
            if not 0 <= vote < len(counts):
                raise ValueError(f"a draw votes for label {vote} of {len(counts)}")
            count = counts[vote] = counts[vote] + more
            if vote == first:
                continue
            if not self._given and (count, first) > (counts[first], vote):
                first, second = vote, first
            elif vote != second and (count, second) > (counts[second], vote):
                second = vote
        self.draws += len(votes)
        self.first, self.second = first, second

    @property
    def tally(self) -> Tally:
        """The votes so far."""
        return tally_of(self.draws, self.counts)


def tally_of(draws: int, counts: "array[int]") -> Tally:
    """Return the tally of votes by label; later votes do not change it."""
    sums = np.array(counts, dtype=np.int64)
    return Tally(draws, sums, sums, 1)


class ScorePoll:
    """The soft scores of one picture: what :class:`Poll` is for votes.

    Attributes:
        tally: the draws so far.
    """

    def __init__(self, labels: int, first: int | None = None) -> None:
        self.tally = Tally.empty(labels, "softmax")

    @staticmethod
    def rows(draws: Draws) -> Draws:
        """Return draws as :meth:`add` takes them."""
        return draws

    def add(self, scores: Draws) -> None:
        """Add further draws, [rows, K]."""
        self.tally += Tally.of_draws(scores, len(self.tally.sums), "softmax")

    @property
    def draws(self) -> int:
        """Their number."""
        return self.tally.draws

    @property
    def first(self) -> int:
        """The label with the largest sum."""
        return self.tally.leader


class Standing(NamedTuple):
    """All that the bounds on votes depend on at one number of draws.

    Attributes:
        draws: the counted draws.
        own: the label's votes among them.
        most: the most votes that any rival has among them.
        total: all draws, the pilot's too.
        shown: the most votes that any rival of the label has among all draws.
        first: the most votes that any label has among all draws.
        second: the most that any label has apart from that one.
    """

    draws: int
    own: int
    most: int
    total: int
    shown: int
    first: int
    second: int

    @classmethod
    def of(cls, pilot: Tally, counted: Tally, label: int) -> "Standing":
        """Return the standing of ``label``, which the pilot chose."""
        total = pilot + counted
        return cls(
            counted.draws,
            int(counted.sums[label]),
            int(counted.sums[counted.rival(label)]),
            total.draws,
            int(total.sums[total.rival(label)]),
            int(total.sums[total.leader]),
            int(total.sums[total.second]),
        )

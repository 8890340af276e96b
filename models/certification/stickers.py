"""Certificates against stickers: two masks at a time (PatchCleanser, Xiang et al. 2022).

The threat is a square of s × s pixels of the picture as sent, anywhere in it, with anything on it.
There is no noise, no estimate and no α: what is certified is certain.

A *mask* hides a rectangle of the model's input. The masks are chosen so that for every place of the
sticker there is one that hides all that the sticker can reach there (:mod:`models.masking`). A
*view* is the input under two masks, or under one (the same twice); f(x, i, j) is the label that h
gives to the view of the picture x under the masks i and j. h has to be a function of its row alone,
as for every certificate here, and one h sees all views.

The procedure decides the label in two rounds:

1. If f(x, i, i) is the same label for every mask i, that is the answer. Otherwise let m be the
   label that most masks have (the lowest of several).
2. For each mask i with f(x, i, i) ≠ m, in order: if f(x, i, j) = f(x, i, i) for every mask j, that
   label is the answer. If there is no such mask, m is.

Theorem. If f(x, i, j) = c for all masks i and j, the procedure answers c for x and for every x'
that differs from x by a sticker.

Proof. For x, the first round ends with c. For x', let k be a mask that hides everything that the
sticker can reach. Wherever k is one of the masks, the views of x and x' are the same input, so
f(x', k, j) = f(x', j, k) = c for all j. If the first round ends, all its labels are that of the
mask k: c. Otherwise some masks disagree with the label m.

- If m ≠ c, the mask k is among them, and its second round has c only: at the latest there the
  procedure ends. It may end earlier, at a mask i, with f(x', i, i) = f(x', i, j) for all j; with
  j = k this is c.
- If m = c, a mask i in the second round has f(x', i, i) ≠ c, but f(x', i, k) = c. So it does not
  end the procedure, and the answer is m = c.

How ties are decided, and in which order masks are tried, does not enter, as long as neither depends
on anything but these labels. Nobody needs to know the right label: what is certified is that all
these pictures have one answer. A view on which h returns NaN or infinity has the label
``NO_VOTE``, which is none of the K, is never certified and never ends a round.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np

from models.certification.arrays import Draws, Integers
from models.certification.names import Scoring, Stopped
from models.certification.question import Question
from models.certification.rounding import round_down, round_up
from models.certification.taking import TakesDraws
from models.certification.tally import NO_VOTE, Tally

# The vote of a view that was not made.
NOT_MADE = -2

# How many masks there may be along each side.
FEWEST, MOST = 2, 8

# From the first one to the one after the last.
Span = tuple[int, int]


@dataclass(frozen=True)
class Masks:
    """Rectangles of the model's input: each of the spans of rows with each of those of columns."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @property
    def count(self) -> int:
        """The number of masks."""
        return len(self.rows) * len(self.columns)

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The two masks of each view, by its number: first those of one mask."""
        alone = ((mask, mask) for mask in range(self.count))
        return (*alone, *combinations(range(self.count), 2))

    @cached_property
    def numbers(self) -> Integers:
        """[masks, masks]: the number of the view under two masks."""
        found = np.empty((self.count, self.count), dtype=np.int64)
        for number, (one, other) in enumerate(self.pairs):
            found[one, other] = found[other, one] = number
        return found

    def rectangle(self, mask: int) -> tuple[Span, Span]:
        """The rows and the columns that a mask hides."""
        row, column = divmod(mask, len(self.columns))
        return self.rows[row], self.columns[column]


def count_views(along: int) -> int:
    """Return the number of views for so many masks along each side."""
    count = along**2
    return count * (count + 1) // 2


def cover(reached: Sequence[Span], count: int) -> tuple[Span, ...]:
    """Return ``count`` spans, as short as possible, one of which contains each of ``reached``.

    With spans of one length, to begin each at the first that is left needs the fewest; the length
    is found by bisection. If fewer spans suffice, the last is repeated.

    Args:
        reached: spans with ascending starts and ends; empty ones are nowhere.
        count: how many.

    Raises:
        ValueError: all of them are empty.
    """
    spans = [span for span in dict.fromkeys(reached) if span[0] < span[1]]
    if not spans:
        raise ValueError("there is nothing to cover")
    low, high = max(end - start for start, end in spans), spans[-1][1] - spans[0][0]
    while low < high:
        middle = (low + high) // 2
        if len(_greedy(spans, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    found = _greedy(spans, low)
    return (*found, *[found[-1]] * (count - len(found)))


def _greedy(spans: Sequence[Span], length: int) -> list[Span]:
    found: list[Span] = []
    for start, end in spans:
        if found and end <= found[-1][0] + length:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


def decide(masks: Masks, votes: Integers) -> int | None:
    """Return the label by the procedure above; None if more views decide.

    Args:
        masks: the masks.
        votes: [views], labels, ``NO_VOTE`` or ``NOT_MADE``.

    Returns:
        The label; the lowest if h has none for any view.
    """
    first = votes[: masks.count]
    if NOT_MADE in first:
        return None
    most = majority(first)
    for mask in np.flatnonzero((first != most) & (first != NO_VOTE)):
        second = votes[masks.numbers[mask]]
        if (second == first[mask]).all():
            return int(first[mask])
        if ((second == first[mask]) | (second == NOT_MADE)).all():
            return None
    return most


def majority(votes: Integers) -> int:
    """Return the label of most votes, the lowest among equals."""
    return int(np.bincount(votes[votes >= 0], minlength=1).argmax())


def certified(votes: Integers) -> bool:
    """Say whether all views have one label."""
    return bool(votes[0] >= 0 and (votes == votes[0]).all())


def refuted(votes: Integers) -> bool:
    """Say whether views made so far have two labels, or none."""
    made = votes[votes != NOT_MADE]
    return len(made) > 0 and not certified(made)


@dataclass(frozen=True)
class ViewScore:
    """The share of all views that have a label, as far as they were made.

    It is between ``lower`` and ``upper``, whatever the others say; ``expected`` is the share of
    those made.
    """

    index: int
    expected: float
    lower: float
    upper: float


@dataclass(frozen=True)
class StickerEvidence:
    """Everything needed to compute the answer again.

    Attributes:
        threat: what the answer is about.
        side: of the sticker, in pixels of the picture as sent.
        rows: of the masks, from the first to the one after the last.
        columns: the same.
        votes: the label of each view by its number, −1 if h has none, None if it was not made.
            First the views of one mask, mask by mask along the rows, then those of two.
        labels: K.
    """

    threat: Literal["sticker"]
    side: int
    rows: list[Span]
    columns: list[Span]
    votes: list[int | None]
    labels: int


@dataclass(frozen=True)
class StickerConclusion:
    """The answer to a question about stickers.

    Attributes:
        label: that of the procedure.
        certified: whether no sticker of that side can change it.
        draws: the views that h has seen.
        stopped: why there were no more.
        scores: the labels asked for, the largest share first.
        evidence: everything that is needed to compute this again.
    """

    label: int
    certified: bool
    draws: int
    stopped: Stopped
    scores: list[ViewScore]
    evidence: StickerEvidence


@dataclass(frozen=True)
class StickerFindings:
    """The views from which an answer follows.

    Attributes:
        side: of the sticker.
        masks: the masks.
        votes: [views], by number.
        labels: K.
    """

    side: int
    masks: Masks
    votes: Integers
    labels: int

    @cached_property
    def label(self) -> int | None:
        """The label; None if more views decide."""
        return decide(self.masks, self.votes)

    @property
    def certified(self) -> bool:
        """Whether it is certified."""
        return certified(self.votes)

    @property
    def stopped(self) -> Stopped | None:
        """Why no more views are wanted; None if more are."""
        if self.certified:
            return "target_certified"
        if self.label is not None and refuted(self.votes):
            return "target_out_of_reach"
        return None

    def conclude(self, scores: int, stopped: Stopped | None = None) -> StickerConclusion:
        """Return what follows, with the shares of so many labels.

        Raises:
            ValueError: more views decide on the label.
        """
        if self.label is None:
            raise ValueError("there is no answer before the label is decided")
        made = self.votes != NOT_MADE
        tally = Tally.of_draws(self.votes[made], self.labels, "votes")
        shown = np.argsort(-tally.sums, kind="stable")[:scores].tolist()
        return StickerConclusion(
            label=self.label,
            certified=self.certified,
            draws=tally.draws,
            stopped=self.stopped or stopped or "deadline",
            scores=[self._score(tally, index) for index in shown],
            evidence=StickerEvidence(
                threat="sticker",
                side=self.side,
                rows=list(self.masks.rows),
                columns=list(self.masks.columns),
                votes=[None if vote == NOT_MADE else vote for vote in self.votes.tolist()],
                labels=self.labels,
            ),
        )

    def _score(self, tally: Tally, index: int) -> ViewScore:
        own, views = int(tally.sums[index]), len(self.votes)
        return ViewScore(
            index=index,
            expected=round(own / tally.draws, 6),
            lower=round_down(own / views),
            upper=round_up((own + views - tally.draws) / views),
        )


class StickerInquiry(TakesDraws):
    """The certification of one picture against stickers; like ``models.certification.inquiry``'s.

    Its draws are the views, each at most once. First come those of one mask; if they agree, all
    others follow until two labels differ; if not, those of the second round. What was issued before
    that was known changes no label.

    Args:
        question: the question.
        masks: the masks.
        labels: K ≥ 2.

    Attributes:
        draws: the number of views made.
        look: the number of looks reached; from the first on there is an answer.
        stopped: why no more views are wanted; None while more are.
    """

    scoring: Scoring = "votes"

    def __init__(self, question: Question, masks: Masks, labels: int) -> None:
        if question.target is None:
            raise ValueError("a question about stickers has their side as its target")
        self.question = replace(question, max_draws=len(masks.pairs))
        self.masks, self.draws, self.look = masks, 0, 0
        self.stopped: Stopped | None = None
        votes = np.full(len(masks.pairs), NOT_MADE, dtype=np.int64)
        self.findings = StickerFindings(int(question.target), masks, votes, labels)
        # The numbers of the views issued, in their order.
        self._issued: list[int] = []

    @property
    def least(self) -> int:
        """The fewest views that can answer the question: if all agree, all of them."""
        return len(self.masks.pairs)

    @property
    def issuable(self) -> int:
        """How many views there are."""
        return self.question.max_draws

    @property
    def wanted(self) -> int:
        """The views that are worth making now, with those in flight."""
        if self.stopped:
            return 0
        return len(self._issued) - self.draws + sum(1 for _ in self._next())

    def numbers(self, start: int, count: int) -> Integers:
        """Issue further views, those that are worth making first.

        Args:
            start: the number of views issued before.
            count: how many.

        Returns:
            Their numbers.
        """
        assert start == len(self._issued), "views are issued in order"
        useful = list(self._next())
        rest = set(range(len(self.masks.pairs))).difference(self._issued, useful)
        self._issued += [*useful, *sorted(rest)][:count]
        return np.array(self._issued[start:], dtype=np.intp)

    def _next(self) -> Iterator[int]:
        """Yield the numbers of views that are worth making and not issued."""
        votes, masks, issued = self.findings.votes, self.masks, set(self._issued)
        first = votes[: masks.count]
        useful: Iterable[int]
        if NOT_MADE in first:
            useful = range(masks.count)
        elif not refuted(votes):
            useful = range(len(masks.pairs))
        else:
            differ = np.flatnonzero((first != majority(first)) & (first != NO_VOTE))
            open_ = [
                mask
                for mask in differ
                if np.isin(votes[masks.numbers[mask]], (first[mask], NOT_MADE)).all()
            ]
            useful = dict.fromkeys(masks.numbers[open_].ravel().tolist())
        return (number for number in useful if number not in issued)

    def anew(self) -> "StickerInquiry":
        """Return an inquiry into the same question without any views."""
        return StickerInquiry(self.question, self.masks, self.findings.labels)

    def add_to_look(self, draws: Draws) -> int:
        """Do what :meth:`add` does, but take no views beyond the next look."""
        if self.stopped:
            return 0
        every = self.masks.count
        taken = draws[: every - self.draws % every]
        votes = self.findings.votes.copy()
        votes[self._issued[self.draws : self.draws + len(taken)]] = _labels(taken)
        self.draws += len(taken)
        self.findings = replace(self.findings, votes=votes)
        self.stopped = self.findings.stopped
        at_look = self.draws % every == 0 or not self.look or self.stopped is not None
        if self.findings.label is not None and at_look:
            self.look += 1
        return len(taken)

    def cut(self) -> None:
        """End at the deadline, with the certificate reached so far."""
        if not self.stopped:
            self.stopped = "deadline"


def _labels(draws: Draws) -> Integers:
    """Return the label of each row of votes [rows] or scores [rows, K]; ``NO_VOTE`` for zeros."""
    if draws.ndim == 1:
        return draws.astype(np.int64)
    return np.where(draws.any(axis=1), draws.argmax(axis=1), NO_VOTE).astype(np.int64)

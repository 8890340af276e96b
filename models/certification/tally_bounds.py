"""From tallies to pA and pB: bounds on the scores of the label and of the largest of its rivals."""

from collections.abc import Sequence

import numpy as np

from models.certification.arrays import Floats, Integers
from models.certification.bounds import (
    betting_lower,
    betting_upper,
    clopper_pearson_lower,
    clopper_pearson_upper,
    fixed_lower,
    vote_lower,
    vote_upper,
)
from models.certification.division import Division
from models.certification.majority import majority_pair
from models.certification.names import Bound, Ground
from models.certification.poll import Standing
from models.certification.tally import Tally

# The number of rivals whose upper bound is computed exactly; one larger bound covers the others.
EXACT_RIVALS = 3


def bound_pair(
    ground: Ground,
    pilot: Tally,
    tallies: Sequence[Tally],
    label: int,
    division: Division,
    labels: int,
) -> tuple[Floats, Floats]:
    """Return pA and pB for each tally of counted draws, by all bounds on the rivals.

    In addition to :func:`certify` or :func:`models.certification.majority.majority_pair`, pB is at
    most the largest upper end of the rivals' intervals as they would be shown at that look: over
    all draws, at their share of α for each side. ``label`` is the pilot's; a majority is that of
    the label that leads all draws.

    Raises:
        ValueError: no α was reserved for ``ground``.
    """
    if not division.of(ground)[0]:
        raise ValueError(f"no α was reserved for a certificate by {ground!r}")
    unit = pilot.denominator
    if unit == 1:
        standings = [Standing.of(pilot, counted, label) for counted in tallies]
        pairs = [vote_pair(ground, standing, division, labels) for standing in standings]
        lower, upper = np.array(pairs).T
        return lower, upper
    lower, upper = certify("betting", tallies, label, *division.of(ground))
    totals = _stack([pilot + counted for counted in tallies])
    shown = rivals_upper("betting", *totals, label, interval_alpha(division, labels), unit)
    return lower, np.minimum(upper, shown)


def vote_pair(
    ground: Ground, standing: Standing, division: Division, labels: int
) -> tuple[float, float]:
    """Do what :func:`bound_pair` does for votes at one look; there must be α for ``ground``."""
    draws, own, most, total, shown, first, second = standing
    alpha, alpha_rival = division.of(ground)
    if ground == "majority":
        lower, upper = majority_pair(total, first, alpha)
        if not lower:
            return lower, upper
        shown = second
    else:
        lower_of = vote_lower if ground == "betting" else fixed_lower
        lower = lower_of(draws, own, alpha)
        upper = 1 - lower
        if alpha_rival:
            upper = min(1 - lower_of(draws, draws - most, alpha_rival), upper)
    return lower, min(upper, vote_upper(total, shown, interval_alpha(division, labels)))


def interval_alpha(division: Division, labels: int) -> float:
    """Return the chance that one end of one label's interval is wrong."""
    return division.scores / (2 * labels)


def intervals_of(
    draws: int, sums: tuple[int, ...], squares: tuple[int, ...], denominator: int, alpha: float
) -> tuple[Floats, Floats]:
    """Bound the largest means over all draws, the pilot's too: nothing was selected by them.

    Two-moment betting at a part of α that covers both sides of all K labels, even if fewer are
    shown, at every look at once.
    """
    if denominator == 1:
        ends = vote_lower, vote_upper
        low, high = ([end(draws, votes, alpha) for votes in sums] for end in ends)
        return np.array(low), np.array(high)
    tally = draws, np.array(sums), np.array(squares), alpha
    lower = betting_lower(*tally, denominator=denominator)
    upper = betting_upper(*tally, denominator=denominator)
    return lower, upper


def certify(
    bound: Bound,
    tallies: Sequence[Tally],
    label: int,
    alpha_label: float,
    alpha_rival: float,
) -> tuple[Floats, Floats]:
    """Return pA ≤ E y_c and pB ≥ max_{i≠c} E y_i for each tally of counted draws.

    Holds with probability ≥ 1 − alpha_label − alpha_rival for a label chosen beforehand: with
    ``betting`` at all tallies at once, with ``clopper-pearson`` at one. The rivals' bound is the
    largest of all their upper bounds, not that of the rival with the largest mean, and never above
    1 − pA, because the scores of a draw sum to at most 1. With an alpha_rival of 0 it is 1 − pA.
    """
    unit = tallies[0].denominator
    return certify_arrays(bound, *_stack(tallies), label, alpha_label, alpha_rival, unit)


def _stack(tallies: Sequence[Tally]) -> tuple[Integers, Integers, Integers]:
    """Return the draws [B], sums and squares [B, K] of tallies."""
    return (
        np.array([tally.draws for tally in tallies]),
        np.stack([tally.sums for tally in tallies]),
        np.stack([tally.squares for tally in tallies]),
    )


def certify_arrays(
    bound: Bound,
    draws: Integers,
    sums: Integers,
    squares: Integers,
    label: int | Integers,
    alpha_label: float | Floats,
    alpha_rival: float | Floats,
    denominator: int,
) -> tuple[Floats, Floats]:
    """Do what :func:`certify` does for arrays over tallies.

    Args:
        bound: ``betting``, or for votes ``clopper-pearson``.
        draws: [B].
        sums: [B, K].
        squares: [B, K].
        label: the certified label, one for all or [B].
        alpha_label: one for all or [B].
        alpha_rival: one for all or [B].
        denominator: the tallies' unit.
    """
    every = np.arange(len(sums))
    own, own_squares = sums[every, label], squares[every, label]
    if bound == "betting":
        lower = betting_lower(draws, own, own_squares, alpha_label, denominator=denominator)
    elif bound == "clopper-pearson" and denominator == 1:
        lower = clopper_pearson_lower(draws, own, alpha_label)
    else:
        kind = "" if denominator == 1 else " for soft scores"
        raise ValueError(f"no certificate can rest on the bound {bound!r}{kind}")
    if not np.all(alpha_rival):
        return lower, 1 - lower
    upper = rivals_upper(bound, draws, sums, squares, label, alpha_rival, denominator)
    return lower, np.minimum(upper, 1 - lower)


def rivals_upper(
    bound: Bound,
    draws: Integers,
    sums: Integers,
    squares: Integers,
    label: int | Integers,
    alpha: float | Floats,
    denominator: int,
) -> Floats:
    """Return the largest upper bound of any label except ``label``; arguments as above."""
    rivals = sums.copy()
    rivals[np.arange(len(sums)), label] = -1
    if denominator == 1:
        # The upper bound of votes grows with their sum, so the largest sum has the largest bound.
        most = rivals.max(axis=1)
        if bound == "clopper-pearson":
            return clopper_pearson_upper(draws, most, alpha)
        return betting_upper(draws, most, most, alpha)
    exact = min(EXACT_RIVALS, rivals.shape[1] - 1)
    top = np.argsort(-rivals, axis=1, kind="stable")[:, :exact]
    rows = np.arange(len(sums))[:, None]
    each = betting_upper(
        draws[:, None],
        rivals[rows, top],
        squares[rows, top],
        np.broadcast_to(np.asarray(alpha), draws.shape)[:, None],
        denominator=denominator,
    )
    upper: Floats = each.max(axis=1)
    if rivals.shape[1] - 1 > exact:
        # ub(S, SS) ≤ ub(S, S), which grows with S: the next largest covers all the rest.
        rivals[rows, top] = -1
        rest = rivals.max(axis=1)
        cover = betting_upper(draws, rest, rest * denominator, alpha, denominator=denominator)
        upper = np.maximum(upper, cover)
    return upper

"""What is fixed before the first counted draw: the division of α, and the looks.

α = 1 − η is the chance that anything in an answer is wrong. Nine tenths go to the certificate, one
tenth to the intervals that are shown.

Two events make the certificate: the label's lower bound holds, and so does the upper bound of the
true runner-up, one fixed label even if unknown (the largest of all rivals' upper bounds is then at
least its expected score); no union over the labels is needed. Two further bounds on the rivals cost
nothing: 1 − pA, because the scores of a draw sum to at most 1, and the intervals that are shown,
which hold for all labels anyway. If these suffice, α for the rivals' own bound would be wasted, and
goes to the label. They always suffice if there are two labels; and for betting, they suffice if in
the pilot one rival has every score that the label has not. Only the pilot's draws decide this. They
are independent of the counted draws, so given the pilot, the division is fixed before the first
counted draw. (If the counted draws chose, this would take half as much α again.) Otherwise each
gets half, and for votes without a target the label gets four fifths. On recorded votes of the
CIFAR-10 model this saves 1 to 2 draws of 257 to 477 at targets of ½σ to 1.5σ, and 1 to 7 with looks
every 8 draws. It takes 1 to 9 draws more if the other scores are scattered over a thousand labels.

A picture may have to begin again, because its worker died or its passes became smaller. The reason
may depend on the draws. Also, a picture begins again only if it was not answered before. So each
run is a further chance to be wrong, and has its own share of α, which is fixed beforehand
(:func:`share_of_run`).

For votes, the certificate's part is divided once more, between betting at every look and one
Clopper-Pearson look at a number of counted draws that is fixed when the pilot ends.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np

from models.certification.names import Bound, Scoring
from models.certification.tally import Tally

CERTIFICATE_SHARE = 0.9
# The share of the certificate's α that betting gets for votes, with a target and without.
BETTING_SHARE_TARGET = 0.3
BETTING_SHARE_SIZE = 0.1

# The share of each bound's α that goes to the label's event.
LABEL_SHARE = 0.5
LABEL_SHARE_SIZE = 0.8

PILOT_BLOCK = 32
PILOT_LIMIT = 128
LOOK_BLOCK = 32
LOOK_GROWTH = 0.15
# One block of pilot draws and the first look: a smaller budget gives no answer.
LEAST_DRAWS = PILOT_BLOCK + LOOK_BLOCK


# The share of α for pictures that begin again: so little that others do not notice it. A picture
# that begins again needs at worst five times the draws.
RESTARTS_SHARE = 2.0**-20


def share_of_run(restarts: int) -> float:
    """Return the share of α of a run before which the picture began again ``restarts`` times.

    A picture begins again on another worker (i times so far), or on the same one in smaller passes
    (j times on this worker), and ``restarts`` = i + j. No pair (i, j) occurs twice, and n + 1 pairs
    have the sum n; so with r = ``RESTARTS_SHARE``, all runs together have

        1 − r + Σ_{n≥1} (n + 1)·2⁻ⁿ·r/3 = 1

    of α, as Σ_{n≥1} (n + 1)·2⁻ⁿ = 3. Each run draws fresh noise, whatever came before, and given
    that it is wrong with probability at most its share. So any of them is wrong with probability at
    most α.
    """
    return 1 - RESTARTS_SHARE if restarts == 0 else RESTARTS_SHARE / 3 * 2.0**-restarts


@dataclass(frozen=True)
class Division:
    """The division of an answer's α. Every entry is the chance of one one-sided event."""

    betting_label: float
    betting_rival: float
    fixed_label: float
    fixed_rival: float
    scores: float

    def of(self, bound: Bound) -> tuple[float, float]:
        """The chances that the label's and the rivals' own bound may miss."""
        if bound == "betting":
            return self.betting_label, self.betting_rival
        return self.fixed_label, self.fixed_rival


@lru_cache(1024)
def divide(
    confidence: float,
    scoring: Scoring,
    targeted: bool,
    *,
    alone: bool = False,
    pair: bool = False,
    restarts: int = 0,
) -> Division:
    """Divide 1 − ``confidence``.

    Args:
        confidence: η in (0, 1).
        scoring: soft scores have no exact bound at a fixed n, so all of α goes to betting.
        targeted: whether the request has a target, and may therefore end at any look.
        alone: whether the rivals need no bound of their own for betting (:func:`stands_alone`).
        pair: whether there are two labels.
        restarts: how often the picture has begun again.

    Raises:
        ValueError: ``confidence`` is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, not {confidence}")
    alpha = share_of_run(restarts) * (1 - confidence)
    part = BETTING_SHARE_TARGET if targeted else BETTING_SHARE_SIZE
    if scoring != "votes":
        part = 1.0
    label = LABEL_SHARE if targeted or scoring != "votes" else LABEL_SHARE_SIZE
    betting_label = 1.0 if alone or pair else label
    fixed_label = 1.0 if pair else label
    certificate = CERTIFICATE_SHARE * alpha
    betting, fixed = part * certificate, (1 - part) * certificate
    return Division(
        betting_label=betting_label * betting,
        betting_rival=(1 - betting_label) * betting,
        fixed_label=fixed_label * fixed,
        fixed_rival=(1 - fixed_label) * fixed,
        scores=(1 - CERTIFICATE_SHARE) * alpha,
    )


def stands_alone(pilot: Tally) -> bool:
    """Say whether in the pilot one rival has every score that the leader has not."""
    label = pilot.leader
    rest = pilot.draws * pilot.denominator - int(pilot.sums[label])
    return int(np.delete(pilot.sums, label).max()) >= rest


def pilot_ends(tally: Tally, max_draws: int) -> bool:
    """Say whether the pilot's draws so far decide which label is to be certified.

    32 draws, and 32 more while the lead is below two standard errors, at most 128; the first look
    must still fit into ``max_draws``. Only further draws certify the leader: with those that chose
    it, the answer would be wrong far more often than α.
    """
    if tally.draws < PILOT_BLOCK or tally.draws % PILOT_BLOCK:
        return False
    if tally.draws >= PILOT_LIMIT or tally.draws + LEAST_DRAWS > max_draws:
        return True
    first = tally.leader
    second = tally.rival(first)
    lead = float(tally.sums[first] - tally.sums[second]) / tally.denominator
    spread = float(tally.squares[first] + tally.squares[second]) / tally.denominator**2
    # The scores of a draw are never negative, so omitting their covariance only widens this.
    return lead > 2 * sqrt(max(spread - lead * lead / tally.draws, 0.0))


@lru_cache(1024)
def looks(counted: int) -> tuple[int, ...]:
    """Return the numbers of counted draws at which there are looks; the last is ``counted``.

    They are multiples of 32, first in steps of 32, then growing by a factor of 1.15.
    """
    schedule = [min(LOOK_BLOCK, counted)]
    while schedule[-1] < counted:
        step = max(LOOK_BLOCK, int(LOOK_GROWTH * schedule[-1]) // LOOK_BLOCK * LOOK_BLOCK)
        schedule.append(min(schedule[-1] + step, counted))
    return tuple(schedule)

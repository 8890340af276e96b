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

A picture may have to begin again, because its job was killed, its worker died or its passes became
smaller. The reason may depend on the draws. Also, a picture begins again only if it was not
answered before. So each run is a further chance to be wrong, and has its own share of α, which is
fixed beforehand (:func:`share_of_run`).

For votes, the certificate's part is divided once more before the first draw, among betting at every
look, one Clopper-Pearson look at a number of counted draws that is fixed when the pilot ends, and,
with a target, the majority (:mod:`models.certification.majority`). The majority answers the easy
pictures, without a pilot. Betting answers those of which no label has half of the votes. The look
at the end answers those that are near the target. The shares were chosen on recorded votes of the
models in the zoo: from 0.3 to 0.5 for the majority and from 0.4 to 0.6 for the look at the end, the
draws at a target of ½σ differ by 3 %, and the pictures certified by 0.1 points.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import sqrt

from models.certification.names import GROUNDS, Ground, Scoring
from models.certification.tally import Tally

CERTIFICATE_SHARE = 0.9
# The share of each bound's α that goes to the label's event.
LABEL_SHARE = 0.5
LABEL_SHARE_SIZE = 0.8


@dataclass(frozen=True)
class Shares:
    """The shares of the certificate's α, by what the certificate can rest on."""

    majority: float
    betting: float
    fixed: float


SHARES_TARGET = Shares(majority=0.4, betting=0.1, fixed=0.5)
# Without a target the last look nearly always certifies most.
SHARES_SIZE = Shares(majority=0.0, betting=0.1, fixed=0.9)
# Soft scores have no exact bound at a fixed n, and only votes have a majority.
SHARES_SCORES = Shares(majority=0.0, betting=1.0, fixed=0.0)


@dataclass(frozen=True)
class Steps:
    """How long the pilot is, and at which numbers of draws there are looks.

    Attributes:
        pilot: the draws in a block of the pilot.
        longest_pilot: the most draws that a pilot can have.
        first: the counted draws at the first look.
        step: between two looks there is a multiple of this many draws.
        growth: the draws between two looks, as a share of those counted so far.
    """

    pilot: int
    longest_pilot: int
    first: int
    step: int
    growth: float

    @property
    def least(self) -> int:
        """One block of pilot draws, and those of the first look."""
        return self.pilot + self.first


STEPS_SIZE = Steps(pilot=32, longest_pilot=128, first=32, step=32, growth=0.15)
# With a target, most pictures end early, so steps are fine. A longer pilot would not pay: pictures
# without a clear leader after 64 draws are hardly ever certified.
STEPS_TARGET = Steps(pilot=16, longest_pilot=64, first=8, step=8, growth=1 / 16)
# No smaller budget is allowed, with a target or without.
LEAST_DRAWS = STEPS_SIZE.least


# The share of α for pictures that begin again: so little that others do not notice it. A picture
# that begins again needs at worst five times the draws.
RESTARTS_SHARE = 2.0**-20


def share_of_run(restarts: int) -> float:
    """Return the share of α of a run before which the picture began again ``restarts`` times.

    A picture begins again in another engine (k times so far, in a bulk certification), on another
    worker (i times in this engine), or on the same one in smaller passes (j times on this worker),
    and ``restarts`` = k + i + j. No triple (k, i, j) occurs twice, and (n + 1)(n + 2)/2 triples
    have the sum n; so with r = ``RESTARTS_SHARE``, all runs together have

        1 − r + Σ_{n≥1} (n + 1)(n + 2)/2·2⁻ⁿ·r/7 = 1

    of α, as Σ_{n≥0} (n + 1)(n + 2)/2·2⁻ⁿ = (1 − ½)⁻³ = 8. Each run draws fresh noise, whatever came
    before, and given that it is wrong with probability at most its share. So any of them is wrong
    with probability at most α.
    """
    return 1 - RESTARTS_SHARE if restarts == 0 else RESTARTS_SHARE / 7 * 2.0**-restarts


@dataclass(frozen=True)
class Division:
    """The division of an answer's α. Every entry is the chance of one one-sided event."""

    betting_label: float
    betting_rival: float
    fixed_label: float
    fixed_rival: float
    majority: float
    scores: float

    def of(self, ground: Ground) -> tuple[float, float]:
        """The chances that the label's and the rivals' own bound fail.

        For the majority it is the chance of one label; all labels together have twice as much.
        """
        return self._chances[ground]

    @cached_property
    def _chances(self) -> dict[Ground, tuple[float, float]]:
        return {
            "betting": (self.betting_label, self.betting_rival),
            "clopper-pearson": (self.fixed_label, self.fixed_rival),
            "majority": (self.majority, 0.0),
        }

    @cached_property
    def grounds(self) -> tuple[Ground, ...]:
        """The grounds for which there is α."""
        return tuple(ground for ground in GROUNDS if self.of(ground)[0] > 0)

    def whole(self, ground: Ground) -> float:
        """The chance that anything that rests on ``ground`` is wrong, apart from the intervals."""
        return 2 * self.majority if ground == "majority" else sum(self.of(ground))


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
        scoring: ``votes`` or ``softmax``.
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
    shares = SHARES_SCORES
    if scoring == "votes":
        shares = SHARES_TARGET if targeted else SHARES_SIZE
    label = LABEL_SHARE if targeted or scoring != "votes" else LABEL_SHARE_SIZE
    betting_label = 1.0 if alone or pair else label
    fixed_label = 1.0 if pair else label
    certificate = CERTIFICATE_SHARE * alpha
    betting, fixed = shares.betting * certificate, shares.fixed * certificate
    return Division(
        betting_label=betting_label * betting,
        betting_rival=(1 - betting_label) * betting,
        fixed_label=fixed_label * fixed,
        fixed_rival=(1 - fixed_label) * fixed,
        majority=shares.majority * certificate / 2,
        scores=(1 - CERTIFICATE_SHARE) * alpha,
    )


def stands_alone(pilot: Tally) -> bool:
    """Say whether in the pilot one rival has every score that the leader has not."""
    label = pilot.leader
    rest = pilot.draws * pilot.denominator - int(pilot.sums[label])
    return int(pilot.sums[pilot.second]) >= rest


def pilot_ends(tally: Tally, max_draws: int, steps: Steps) -> bool:
    """Say whether the pilot's draws so far decide which label is to be certified.

    One block, and further blocks while the lead is below two standard errors, up to the longest
    pilot; the first look must still fit into ``max_draws``. Betting and Clopper-Pearson certify the
    leader by further draws only: with those that chose it, they would fail far more often than α.
    """
    if tally.draws < steps.pilot or tally.draws % steps.pilot:
        return False
    longer = tally.draws + steps.pilot
    if longer > steps.longest_pilot or longer + steps.first > max_draws:
        return True
    first = tally.leader
    second = tally.second
    lead = float(tally.sums[first] - tally.sums[second]) / tally.denominator
    spread = float(tally.squares[first] + tally.squares[second]) / tally.denominator**2
    # The scores of a draw are never negative, so omitting their covariance only widens this.
    return lead > 2 * sqrt(max(spread - lead * lead / tally.draws, 0.0))


@lru_cache(1024)
def looks(counted: int, steps: Steps) -> tuple[int, ...]:
    """Return the numbers of counted draws at which there are looks; the last is ``counted``."""
    schedule = [min(steps.first, counted)]
    while schedule[-1] < counted:
        further = int(steps.growth * schedule[-1]) // steps.step * steps.step
        schedule.append(min(schedule[-1] + max(steps.step, further), counted))
    return tuple(schedule)

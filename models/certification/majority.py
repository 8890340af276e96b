"""A certificate without a pilot: whatever label has more than half of the votes for sure.

At every number n of draws, the first included, let lb_c(n) be the lower bound by betting on the
expected votes p_c of label c, with the chance α'. Certify the label that has lb_c(n) > ½, if one
has, with pA = lb_c(n) and pB = 1 − lb_c(n). No pilot chose the label, and all draws count. But the
draws that certify it have chosen it, too, and so α' is not what that takes:

    **All certificates at all n are true together with probability at least 1 − 2·α'** (α' ≤ ½).

Proof. If lb_c(n) ≤ p_c, then what is said of c at n is true: every rival i has p_i ≤ 1 − p_c ≤
1 − lb_c(n), as Σ p ≤ 1 (a draw votes for one label or for none). So let E_c be the event that at
some n lb_c(n) > max(p_c, ½). It will do to show that P(E_c) ≤ 2·p_c·α' for every label: their sum
is at most 2·α'·Σ p_c ≤ 2·α', whatever label is certified, at whatever n, by whatever rule the draws
stop.

*p_c > ½.* By Ville's inequality (1939) lb_c(n) > p_c at some n with probability at most α' <
2·p_c·α'; see :func:`models.certification.bounds.betting_lower`.

*p_c ≤ ½.* Then E_c is that lb_c(n) > ½ at some n: that the mixture of bets against a mean of ½ has
more than 1/α' at some n. (What is served for lb_c(n) is at most its root, which only makes E_c
smaller.) A vote for c multiplies every bet by 1 + c > 1 and any other draw by 1 − c < 1, so that
E_c is increasing: it is not left when a draw that did not vote for c is made to. Were p_c = ½, it
would have probability at most α' (Ville). Let γ = log₂(1/p_c) ≥ 1, so that p_c = ½^γ. For an
increasing event A of independent draws with the same probability of a vote

    P_{p^γ}(A) ≤ P_p(A)^γ      (Grimmett, Percolation, 2nd ed. 1999, theorem 2.38)

hence P(E_c) ≤ α'^γ = α'·α'^(γ−1) ≤ α'·½^(γ−1) = 2·p_c·α', as α' ≤ ½. For p_c = 0 there is no vote.
∎

The theorem's proof is short. With one draw both sides are equal, whichever A. With more, let a ≥ b
be the probabilities at p of A given a vote in the first draw, and given none (A is increasing). By
induction P_{p^γ}(A) ≤ p^γ·a^γ + (1 − p^γ)·b^γ, which is at most (p·a + (1 − p)·b)^γ: they are equal
at a = b, and in a the left grows by γ·p·(p·a)^(γ−1), the right by no less,
γ·p·(p·a + (1 − p)·b)^(γ−1). For draws without an end take the limit: "at some n ≤ N" grows to "at
some n", and both sides converge.

Ties do no harm: lb_c(n) never exceeds the share of votes, so that at any n one label at most has
more than ½; and if at two n two labels had, one of both statements is false, which is in E.

Twice α' is what it takes: of two labels with p = ½ either may be certified, each with a probability
not far below α'. The draws must be votes, as the theorem speaks of draws that are 0 or 1.
"""

from functools import lru_cache
from math import ceil, log

import numpy as np

from models.certification.bounds import BETS, LOG_KEEP, LOG_WEIGHTS, vote_lower

# A label must have more than so much of the votes.
HALF = 0.5


def majority_pair(draws: int, votes: int, alpha: float) -> tuple[float, float]:
    """Return pA and pB of the label with the most votes among all draws from the first on.

    If its lower bound is not above ½ nothing is claimed: 0 and 1.

    Args:
        draws: their number.
        votes: those of that label.
        alpha: α'; all that is ever said is true with probability at least 1 − 2·α'.
    """
    lower = vote_lower(draws, votes, alpha)
    return (lower, 1 - lower) if lower > HALF else (0.0, 1.0)


@lru_cache(2**16)
def further_votes(draws: int, votes: int, lower: float, alpha: float) -> int:
    """Return how many draws that all vote for a label bring its lower bound to ``lower``.

    The logarithm of the mixture of bets against ``lower`` grows with each vote, and ever faster. So
    Newton's method, begun where a single bet has 1/α', comes down to the root and never below.
    """
    gains = np.log1p(BETS * (1 / lower - 1))
    logs = LOG_WEIGHTS + votes * gains + (draws - votes) * LOG_KEEP
    goal = -np.log(alpha)
    more = max(float(((goal - logs) / gains).min()), 0.0)
    for _ in range(2):
        ahead = logs + more * gains
        shares = np.exp(ahead - ahead.max())
        total = float(shares.sum())
        excess = float(ahead.max()) + log(total) - goal
        more = max(more - excess * total / float(shares @ gains), 0.0)
    return ceil(more)

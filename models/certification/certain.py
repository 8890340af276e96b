"""Certain sets: the labels that may be first under some change of the picture up to the target.

An answer bounds the expected scores of all labels at the picture x at once, each from below and
from above: l_i ≤ E_x y_i ≤ u_i. The bounds are the intervals that are shown, met with pA and pB
(:func:`models.certification.attack_bounds.known`). For every x' within the target T

    low_i(T) ≤ E_x' y_i ≤ high_i(T),

which is what an attack can reach, with m the number of steps of 1/255 in T, and μ = (ΔT + ρ)/scale:

- additive noise (:func:`models.certification.certificates.attacked`): G(G⁻¹(l_i − τ) − μ) − τ and
  G(G⁻¹(u_i + τ) + μ) + τ, with G the law's distribution function. For Gaussian noise this is the
  most that the likelihood ratio of the two Gaussians allows (Neyman and Pearson), for other
  log-concave laws the theorem of :mod:`models.certification.laws.log_concave`, applied to y_i and
  to 1 − y_i. Of several bounds on how far g moves each gives such an interval, and all hold.
- split noise (:mod:`models.certification.laws.split`): l_i − m/N and u_i + m/N, with certainty, as
  at most m of the N draws change.

*Theorem.* A label j with high_j(T) < low_i(T) for some label i is first for no x' within T. If all
l_i and u_i hold, the labels that are left therefore contain the label of every such x'.

*Proof.* E_x' y_j ≤ high_j(T) < low_i(T) ≤ E_x' y_i. So j does not have the largest expected score
at x', whatever the ties. The label with the largest low_i(T) excludes every label that any label
excludes, so one comparison with it suffices; and it is never excluded itself, as low ≤ high. ∎

The set rests on no event that an answer did not state before: nothing is to be paid for it, nor for
looking at it again and again, as the intervals hold at every number of draws at once. If the
certified size reaches the target, the set has the label alone. The weaker conditions, the paper's
(ε, δ) and Rényi's divergence, bound the same expected scores, and exclude no label more: between
Neyman and Pearson's two ends every score is attained.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from models.certification.arrays import Floats
from models.certification.attack_bounds import Known, known
from models.certification.names import Norm
from models.certification.question import Question
from models.certification.tally import Tally
from models.certification.terms import Terms

# Far above the rounding errors of two bounds: a label that is excluded by less is kept.
NEARLY = 1e-9


class Found(Protocol):
    """What is known of a picture: findings of any kind."""

    @property
    def question(self) -> Question:
        """The question."""

    @property
    def terms(self) -> Terms:
        """What turns bounds into sizes for the picture."""

    @property
    def total(self) -> Tally:
        """All draws."""

    @property
    def leads(self) -> bool:
        """Whether the certified label leads among them."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds pA and pB."""

    @property
    def size(self) -> float:
        """The certified size as the answer states it."""

    def intervals(self, labels: Sequence[int]) -> tuple[Floats, Floats]:
        """Bound the expected scores of labels, of all at once."""


def certain_labels(found: Found) -> tuple[int, ...] | None:
    """Return the labels that may be first up to the target, by falling mean score.

    None without a target.
    """
    question, total, target = found.question, found.total, found.question.target
    if target is None:
        return None
    if found.size > 0 and found.size >= target:
        return (total.leader,)
    labels = np.argsort(-total.sums, kind="stable").tolist()
    pair = found.bounds if found.leads else (0.0, 1.0)
    scores = known(labels, *found.intervals(labels), len(labels), pair, found.size)
    return not_excluded(scores, found.terms, question.norm, target)


def not_excluded(known: Known, terms: Terms, norm: Norm, target: float) -> tuple[int, ...]:
    """Return the labels of ``known`` that may be first under a change up to ``target``.

    Args:
        known: bounds on the expected scores of all labels.
        terms: what turns bounds into sizes for the picture.
        norm: of ``target``.
        target: T, above 0.
    """
    low, high = terms.attacked(known.lower[:-1], known.upper[:-1], [target], norm)
    least = float(low.max())
    ends = zip(known.shown, high[:, 0].tolist(), strict=True)
    return tuple(label for label, most in ends if most >= least - NEARLY)

"""Other procedures on the same draws, for comparison; the service does not use them."""

import numpy as np

from models.certification.bounds import (
    clopper_pearson_lower,
    empirical_bernstein_radius,
    hoeffding_radius,
)
from models.certification.certificates import PAPER, size
from models.certification.tally import Tally
from models.certification.terms import Terms


def paper_size(tally: Tally, terms: Terms, confidence: float) -> float:
    """Return the size by the paper's own procedure at one fixed n.

    Lécuyer et al. 2019, §III-C: two-sided bounds on all K labels with Bonferroni (α/2K a side),
    then the paper's condition. The larger size of Hoeffding's and the empirical Bernstein bound is
    used, a choice by the data that favours the paper.

    Args:
        tally: all n draws; the paper has no pilot.
        terms: what the picture's certificates are worth.
        confidence: η.
    """
    labels = len(tally.sums)
    alpha = (1 - confidence) / (2 * labels)
    radii = (
        np.broadcast_to(hoeffding_radius(tally.draws, alpha), labels),
        empirical_bernstein_radius(
            tally.draws, tally.sums, tally.squares, alpha, denominator=tally.denominator
        ),
    )
    label, best = tally.leader, 0.0
    for radius in radii:
        lower = np.clip(tally.means - radius, 0.0, 1.0)
        upper = np.clip(tally.means + radius, 0.0, 1.0)
        upper[label] = 0.0
        found = size(
            PAPER[terms.mechanism], lower[label], upper.max(), terms.scale, terms.sensitivity
        )
        best = max(best, float(found))
    return best


def cohen_size(selection: Tally, tally: Tally, terms: Terms, confidence: float) -> float:
    """Return the size by Cohen et al. 2019, CERTIFY: 100 draws choose, n certify, pB = 1 − pA.

    Args:
        selection: the draws that choose the label.
        tally: n further draws, by votes.
        terms: what the picture's certificates are worth; Gaussian noise.
        confidence: η.
    """
    lower = clopper_pearson_lower(tally.draws, tally.sums[selection.leader], 1 - confidence)
    return float(size("gaussian", lower, 1 - lower, terms.scale, terms.sensitivity))

"""How often a certain set misses the label of an altered picture: simulated worst cases.

Label 0 has the draws below one point of a line, label 1 those above another, and label 2 what lies
between. An attack of the target's size moves the mean so far that label 1 leads by a hair: every
set without label 1 is wrong. The question allows labels 0 and 2, so that the draws end as soon as
such a set is claimed, and go on as long as none is.
"""

import numpy as np
import pytest
from scipy import stats

from models.certification.inquiry import Inquiry
from models.certification.laws import LAWS
from models.certification.names import MECHANISM_NORMS, Mechanism
from models.certification.question import Question
from models.certification.terms import Terms
from tests.soundness.forms import LONG

PICTURES = 5_000 if LONG else 300
ALPHA = 0.3
TARGET = 0.5
# The least score of label 0 after the attack; label 1 has a little more.
AFTER = 0.4
HAIR = 1e-9


def misses(mechanism: Mechanism, claimed: float, pictures: int) -> int:
    """In how many pictures label 1 is excluded, if the scale is said to be ``claimed``; it is 1."""
    law = LAWS[mechanism].module
    moved = float(law.cdf(law.quantile(np.array(AFTER)) + TARGET))
    shares = [moved, float(law.cdf(law.quantile(np.array(AFTER)) - TARGET)) + HAIR]
    shares.append(1 - sum(shares))
    terms = Terms(mechanism, claimed, 1.0, MECHANISM_NORMS[mechanism], 784)
    question = Question(1 - ALPHA, 1000, TARGET, MECHANISM_NORMS[mechanism], allow=(0, 2))
    rng, missed = np.random.default_rng(8), 0
    for _ in range(pictures):
        inquiry = Inquiry(question, terms, 3, "votes")
        inquiry.add(rng.choice(3, 1000, p=shares))
        findings = inquiry.findings
        assert findings is not None
        assert findings.certain is not None
        missed += 1 not in findings.certain
    return missed


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "uniform"])
def test_sets_miss_a_label_no_more_often_than_alpha_allows(mechanism: Mechanism) -> None:
    missed = misses(mechanism, 1.0, PICTURES)
    print(f"{mechanism}: {missed} of {PICTURES} sets are wrong, at most {ALPHA:.0%} may be")
    assert stats.binomtest(missed, PICTURES, ALPHA, alternative="greater").pvalue > 1e-6


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace", "uniform"])
def test_a_wrong_constant_would_show(mechanism: Mechanism) -> None:
    """With a scale that is said to be a third larger, nearly all sets are wrong."""
    missed = misses(mechanism, 4 / 3, 100)
    print(f"{mechanism}, scale 4/3: {missed} of 100 sets are wrong")
    assert stats.binomtest(missed, 100, ALPHA, alternative="greater").pvalue < 1e-6

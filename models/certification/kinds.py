"""The kinds of terms, findings and inquiries, by the noise law.

Most laws add noise, and expected scores are estimated. By split noise draws are counted, and by
intervals boxes are proven: these two have numbers that say what a draw is. Discrete laws certify
whole steps of 1/255.
"""

from models.certification.inquiry import Findings, Inquiry
from models.certification.interval import PARTS, IntervalFindings, IntervalInquiry, IntervalTerms
from models.certification.laws import LAWS
from models.certification.laws.interval import ROUND
from models.certification.names import Mechanism
from models.certification.question import Question
from models.certification.split import STEPS_SPLIT, SplitFindings, SplitInquiry, SplitTerms
from models.certification.terms import StepTerms, Terms

# Into how far a picture may change; those into stickers are of another kind.
SizeInquiry = Inquiry | SplitInquiry | IntervalInquiry
AnyFindings = Findings | SplitFindings | IntervalFindings


def terms_kind(mechanism: Mechanism) -> type[Terms]:
    """Return the kind of terms that a law needs."""
    kinds: dict[Mechanism, type[Terms]] = {"split": SplitTerms, "interval": IntervalTerms}
    return kinds.get(mechanism, StepTerms if LAWS[mechanism].discrete else Terms)


def first_look(question: Question, mechanism: Mechanism) -> int:
    """Return how many draws a question's first look takes, at least if that depends on the picture.

    Where a few agreeing draws certify a small target, the answer may come before. For intervals it
    is the most, as small radii may coincide.
    """
    if question.masks:
        return question.masks**2
    if mechanism == "interval":
        return ROUND if question.target is None else len(PARTS)
    return (STEPS_SPLIT if mechanism == "split" else question.steps).least

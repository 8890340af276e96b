"""Computing an answer again, from nothing but its own JSON.

Whoever receives an answer with its evidence can check that everything in it follows from the
tallies: the division of α, the bounds, the size in every norm, the scores and what an attacker
could make of them. What no arithmetic can check is that the draws were made as they should be: by
that model, with that noise.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from models.certification.answer import paper_condition, show_scores
from models.certification.attacks import attacks
from models.certification.certificates import DEFAULT, PAPER
from models.certification.division import (
    LOOK_BLOCK,
    PILOT_BLOCK,
    PILOT_LIMIT,
    Division,
    divide,
    looks,
)
from models.certification.norms import NORMS, check_norm
from models.certification.procedure import Question, Terms, certify
from models.certification.reach import SMALLEST_SIZE, reachable_size
from models.certification.rounding import round_down, round_up
from models.certification.tally import DENOMINATORS, Scoring, Tally

# Numbers of an answer have six digits or are float64 in full; both survive JSON exactly. α is
# divided in floating point, which may differ in its last digit.
_ALPHA_TOLERANCE = 1e-12


class MalformedAnswerError(ValueError):
    """The document is not an answer with evidence."""


def verify(answer: Mapping[str, Any]) -> list[str]:
    """Compute an answer again and say where it differs.

    Args:
        answer: the JSON of ``POST /predict`` with ``evidence=true``.

    Returns:
        A sentence for each thing that does not follow from the evidence; none if all does.

    Raises:
        MalformedAnswerError: something needed is missing, or of the wrong kind.
    """
    if not answer.get("evidence"):
        raise MalformedAnswerError("the answer has no evidence; ask for it with evidence=true")
    try:
        return list(_differences(answer))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise MalformedAnswerError(f"not an answer that can be read: {error!r}") from None


def _differences(answer: Mapping[str, Any]) -> Iterator[str]:
    evidence, certificate = answer["evidence"], answer["certificate"]
    noise, picture = answer["noise"], answer["picture"]
    scoring: Scoring = noise["scoring"]
    question = Question(
        answer["confidence"],
        answer["budget"]["granted"],
        answer["target"],
        check_norm(answer["norm"]),
    )
    terms = Terms(
        mechanism=noise["mechanism"],
        scale=noise["scale"],
        sensitivity=noise["sensitivity"] * answer["preprocessing"]["sensitivity"],
        norm=check_norm(noise["norm"]),
        values=picture["width"] * picture["height"] * len(picture["mode"]),
        tau=evidence["tau"],
        rho=evidence["rho"],
    )
    division = divide(question.confidence, scoring, question.target is not None)
    tally = _tally(evidence, scoring)
    total = _tally(evidence["total"], scoring)
    yield from _check_alphas(evidence, division)
    yield from _check_draws(answer, tally, total)

    def compare(name: str, stated: object, computed: object) -> Iterator[str]:
        if stated != computed:
            yield f"{name} is {stated!r}, but follows as {computed!r}"

    lower, upper = certify(
        evidence["bound"],
        [tally],
        evidence["label"],
        evidence["alpha_label"],
        evidence["alpha_rival"],
    )
    leads = total.leader == evidence["label"]
    raw = float(terms.sizes(lower, upper)[0])
    sizes = {norm: terms.answered(raw, norm) if leads else 0.0 for norm in NORMS}
    certified = sizes[question.norm]
    yield from compare("label.index", answer["label"]["index"], total.leader)
    shown_lower, shown_upper = round_down(float(lower[0])), round_up(float(upper[0]))
    yield from compare("certificate.lower", certificate["lower"], shown_lower if leads else 0.0)
    yield from compare("certificate.upper", certificate["upper"], shown_upper if leads else 1.0)
    yield from compare("certificate.method", certificate["method"], DEFAULT[terms.mechanism])
    yield from compare("certified_size", answer["certified_size"], certified)
    for norm in NORMS:
        yield from compare(f"certificate.sizes.{norm}", certificate["sizes"][norm], sizes[norm])
    paper = PAPER[terms.mechanism]
    paper_size = paper_condition(terms, float(lower[0]), float(upper[0]))
    shown = terms.answered(paper_size, question.norm) if certified > 0 else 0.0
    yield from compare("certificate.paper.method", certificate["paper"]["method"], paper)
    yield from compare("certificate.paper.size", certificate["paper"]["size"], shown)
    target = question.target
    robust = None if target is None else certified > 0 and certified >= target
    yield from compare("robust", answer["robust"], robust)
    reachable = reachable_size(question, terms, scoring) >= (target or SMALLEST_SIZE)
    yield from compare("budget.reachable", answer["budget"]["reachable"], reachable)
    computed = show_scores(total, division.scores, terms, question, len(answer["scores"]))
    for stated, score in zip(answer["scores"], computed, strict=True):
        name = f"scores[{stated['index']}]"
        yield from compare(f"{name}.index", stated["index"], score.index)
        for member in ("expected", "lower", "upper"):
            yield from compare(f"{name}.{member}", stated[member], getattr(score, member))
        attacked = score.attacked and {
            "lower": score.attacked.lower,
            "upper": score.attacked.upper,
        }
        yield from compare(f"{name}.attacked", stated["attacked"], attacked)
    told = answer.get("attacks")
    if told:
        again = attacks(
            computed[: len(told["scores"])],
            total.leader,
            *((shown_lower, shown_upper) if leads else (0.0, 1.0)),
            len(total.sums),
            terms,
            question.norm,
            [float(size) for size in told["sizes"]],
        )
        yield from compare("attacks", told, asdict(again))


def _tally(part: Mapping[str, Any], scoring: Scoring) -> Tally:
    sums, squares = (np.array(part[name]) for name in ("sums", "sums_of_squares"))
    if sums.dtype != np.int64 or squares.dtype != np.int64 or sums.shape != squares.shape:
        raise ValueError("the tallies must be lists of integers of equal length")
    return Tally(part["draws"], sums, squares, DENOMINATORS[scoring])


def _check_alphas(evidence: Mapping[str, Any], division: Division) -> Iterator[str]:
    pairs = {
        "betting": (division.betting_label, division.betting_rival),
        "clopper-pearson": (division.fixed_label, division.fixed_rival),
    }
    label, rival = pairs[evidence["bound"]]
    expected = {
        "alpha_label": label,
        "alpha_rival": rival,
        "alpha_certificate": label + rival,
        "alpha_scores": division.scores,
    }
    for name, value in expected.items():
        if not abs(evidence[name] - value) <= _ALPHA_TOLERANCE * value:
            yield f"evidence.{name} is {evidence[name]!r}, but the confidence allows {value!r}"


def _check_draws(answer: Mapping[str, Any], tally: Tally, total: Tally) -> Iterator[str]:
    """Check that the tallies can be what they say: draws with scores in [0, 1] and sum ≤ 1."""
    evidence, budget = answer["evidence"], answer["budget"]["granted"]
    if evidence["denominator"] != tally.denominator:
        yield f"evidence.denominator is {evidence['denominator']!r}, not {tally.denominator}"
    for name, one in (("evidence", tally), ("evidence.total", total)):
        unit = one.denominator
        possible = (
            (one.sums >= 0).all()
            and (one.squares >= 0).all()
            and one.sums.sum() <= one.draws * unit
            and (one.squares <= one.sums * unit).all()
            # By Cauchy and Schwarz; in Python's integers, which do not overflow.
            and all(
                int(s) ** 2 <= one.draws * int(ss)
                for s, ss in zip(one.sums, one.squares, strict=True)
            )
            and (unit > 1 or (one.sums == one.squares).all())
        )
        if not possible:
            yield f"{name} holds sums that no draws can have"
    pilot = evidence["pilot_draws"]
    if pilot not in range(PILOT_BLOCK, PILOT_LIMIT + 1, PILOT_BLOCK):
        yield f"evidence.pilot_draws is {pilot!r}, which no pilot has"
    elif pilot + LOOK_BLOCK > budget or tally.draws not in looks(budget - pilot):
        yield f"evidence.draws is {tally.draws}, which is no look"
    elif evidence["bound"] == "clopper-pearson" and tally.draws != budget - pilot:
        yield "evidence.bound is clopper-pearson at a look for which it was not reserved"
    if answer["draws"] != total.draws:
        yield f"draws is {answer['draws']}, but the tally has {total.draws}"
    if not pilot + tally.draws <= total.draws <= budget:
        yield f"the tallies' draws do not fit each other and the budget of {budget}"
    if (tally.sums > total.sums).any() or (tally.squares > total.squares).any():
        yield "evidence.total holds less than the certificate's tally"

"""Computing an answer again, from its own JSON alone.

Anybody who receives an answer with its evidence can check that everything in it follows from the
tallies: the label, the division of α, the bounds, the size in every norm, the scores and the ranges
that attacks can reach, and why the draws ended. The same function that concludes an answer computes
it again. No arithmetic can check that the draws were made as they should be, by that model and with
that noise: those members are ``WORD``.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from models.bundle import RowsBasis
from models.certification.answer import Conclusion, follow
from models.certification.certificates import DEFAULTS
from models.certification.division import LEAST_DRAWS, looks, pilot_ends
from models.certification.inquiry import Findings
from models.certification.interval import IntervalFindings, IntervalTerms
from models.certification.kinds import AnyFindings, terms_kind
from models.certification.laws.interval import BOXES
from models.certification.names import (
    CONTINUOUS,
    GROUNDS,
    MECHANISM_NORMS,
    MECHANISMS,
    NORMS,
    SCORINGS,
    Counting,
    Scoring,
)
from models.certification.question import Question
from models.certification.rounding import LEAST_NUMBER, MOST_NUMBER
from models.certification.split import SplitFindings, SplitTerms, schedule
from models.certification.stickers import (
    MOST,
    NOT_MADE,
    Masks,
    StickerConclusion,
    StickerFindings,
)
from models.certification.tally import DENOMINATORS, NO_VOTE, Tally
from models.certification.terms import Delta, StepTerms, Terms
from models.execution import FORMATS, Provider
from models.masking import reached
from models.preprocessing import (
    CHANNELS,
    DEPTHS,
    LARGEST_SIDE,
    CannotCertify,
    Preprocessing,
    plan,
)

# What only the service can know, and the question; everything else follows. The names of labels
# must differ, ``label.name`` must be that of its index, and ``granted`` must not exceed ``asked``.
WORD = (
    "model",
    "the number of scores and of attacks.sizes",
    "scores[].name",
    "norm",
    "target",
    "confidence",
    "budget.asked",
    "budget.granted",
    "noise",
    "picture",
    "compute",
    "timing_ms",
    "certain.labels[].name",
    "evidence.restarts",
    "evidence.allow",
    "evidence.sums",
    "evidence.sums_of_squares",
    "evidence.bound",
    "evidence.draws",
    "evidence.pilot",
    "evidence.total",
    "evidence.votes",
    "evidence.tau",
    "evidence.rho",
    "evidence.sensitivities",
    "evidence.input_shape",
    "evidence.rows",
    "evidence.columns",
    "evidence.labels",
)
# Up to this many draws, sums do not overflow, even in the units of soft scores.
MOST_DRAWS = 2**23 - 1
MOST_RESTARTS = 500
_HUGE = sys.float_info.max
# The most sizes that the option ``attacks`` may ask for.
MOST_SIZES = 200
# For Δ of preprocessing, an eigenvalue whose last digits differ between machines.
_TOLERANCE = 1e-9


class MalformedAnswerError(ValueError):
    """The document is not an answer with evidence."""


def parse(document: str | bytes) -> Any:
    """Read a document's JSON.

    Raises:
        MalformedAnswerError: it is not JSON, or an object has a name twice: readers differ in which
            of the two they show.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise MalformedAnswerError("an object has a member twice")
        return members

    try:
        return json.loads(document, object_pairs_hook=once)
    except MalformedAnswerError:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedAnswerError(f"not JSON ({error})") from None


def verify(answer: Any) -> list[str]:
    """Compute an answer again, and say where it differs.

    Args:
        answer: the JSON of ``POST /predict`` with ``evidence=true``.

    Returns:
        A sentence for each member that does not follow from the evidence; none if all follow.

    Raises:
        MalformedAnswerError: a member is missing, of the wrong kind, or unknown.
    """
    if not isinstance(answer, dict):
        raise MalformedAnswerError(f"expected the JSON object of one answer, not {_short(answer)}")
    if not answer.get("evidence"):
        raise MalformedAnswerError("the answer has no evidence; ask for it with evidence=true")
    stickers = answer.get("threat") == "sticker"
    for sentence in _misfits(answer, _STICKER_ANSWER if stickers else _ANSWER, ""):
        raise MalformedAnswerError(f"not an answer that can be read: {sentence}")
    try:
        if stickers:
            return list(_differing_about_stickers(answer))
        findings = _findings(answer)
        return list(_impossible(answer, findings)) or list(_differing(answer, findings))
    except (ValueError, OverflowError, IndexError) as error:
        raise MalformedAnswerError(f"not an answer that can be read: {error}") from None


def _differing(answer: Mapping[str, Any], findings: AnyFindings) -> Iterator[str]:
    """Compute every member that follows, and compare."""
    attacks = answer["attacks"]
    conclusion = follow(findings, len(answer["scores"]), attacks and len(attacks["sizes"]))
    yield from _compare(answer, _expected(answer, conclusion), "")
    yield from _preprocessing(answer)


def _differing_about_stickers(answer: Mapping[str, Any]) -> Iterator[str]:
    """Do the same for an answer about stickers; first say what is impossible."""
    evidence = answer["evidence"]
    channels, height, width = evidence["input_shape"]
    try:
        preparation = plan(**answer["picture"], shape=(channels, height, width))
    except CannotCertify as error:
        yield f"picture cannot be what the model answered for: {error}"
        return
    masks = Masks(*(tuple(map(tuple, evidence[name])) for name in ("rows", "columns")))
    uncovered = list(_uncovered(masks, preparation, evidence["side"]))
    votes = [NOT_MADE if vote is None else vote for vote in evidence["votes"]]
    if uncovered or len(votes) != len(masks.pairs) or max(votes) >= evidence["labels"]:
        yield from uncovered or ["evidence.votes has not a label, or null, for each view"]
        return
    findings = StickerFindings(
        evidence["side"], masks, np.array(votes, np.int64), evidence["labels"]
    )
    shown = len(answer["scores"])
    if findings.label is None:
        yield "evidence.votes decides on no label"
        return
    if not 1 <= shown <= evidence["labels"]:
        yield f"scores has {shown} entries; there are {evidence['labels']} labels"
    if len({score["name"] for score in answer["scores"]}) < shown:
        yield "scores has labels of the same name"
    expected = _expected_about_stickers(answer, findings.conclude(shown), preparation)
    yield from _compare(answer, expected, "")


def _uncovered(masks: Masks, preparation: Preprocessing, side: int) -> Iterator[str]:
    """Say on which axis no mask hides a sticker at some place."""
    sides = preparation.shape[1:]
    axes = zip((preparation.height, preparation.width), preparation.resized, sides, strict=True)
    for name, spans, axis in zip(
        ("rows", "columns"), (masks.rows, masks.columns), axes, strict=True
    ):
        if not all(0 <= start < end <= axis[2] for start, end in spans):
            yield f"evidence.{name} has a span that is not of the input"
        for start, end in dict.fromkeys(reached(*axis, side)):
            if start < end and not any(first <= start and end <= last for first, last in spans):
                yield f"evidence.{name} does not cover {start} to {end}, which a sticker reaches"
                break


def _expected_about_stickers(
    answer: Mapping[str, Any], conclusion: StickerConclusion, preparation: Preprocessing
) -> dict[str, Any]:
    evidence = conclusion.evidence
    names = {score["index"]: score["name"] for score in answer["scores"]}
    # A label that is not among the scores shown has the name that the answer gives it.
    name = names.get(conclusion.label, answer["label"]["name"])
    label = {"index": conclusion.label, "name": name}
    views = len(evidence.votes)
    return {
        "label": label,
        "robust": conclusion.certified,
        "sticker": {"certified": conclusion.certified, "label": label, "side": evidence.side},
        "target": evidence.side,
        "confidence": 1,
        "draws": conclusion.draws,
        "budget": {"asked": views, "granted": views, "reachable": True},
        "stopped": conclusion.stopped,
        "scores": [{**asdict(score), "attacked": None} for score in conclusion.scores],
        "certificate": {
            "method": "two-masks",
            "masks": {
                "rows": list(map(list, evidence.rows)),
                "columns": list(map(list, evidence.columns)),
            },
            "views": views,
        },
        "preprocessing": {"steps": list(preparation.steps)},
    }


def _findings(answer: Mapping[str, Any]) -> AnyFindings:
    evidence, noise, picture = answer["evidence"], answer["noise"], answer["picture"]
    scoring: Scoring = noise["scoring"]
    question = Question(
        answer["confidence"],
        answer["budget"]["granted"],
        answer["target"],
        answer["norm"],
        evidence["restarts"],
        allow=None if evidence["allow"] is None else tuple(evidence["allow"]),
    )
    terms = terms_kind(noise["mechanism"])(
        mechanism=noise["mechanism"],
        scale=noise["scale"],
        sensitivity=noise["sensitivity"] * answer["preprocessing"]["sensitivity"],
        norm=noise["norm"],
        values=picture["width"] * picture["height"] * CHANNELS[picture["mode"]],
        tau=evidence["tau"],
        rho=evidence["rho"],
        further=tuple(Delta(**further) for further in evidence["sensitivities"][1:]),
    )
    if isinstance(terms, SplitTerms):
        votes = tuple(evidence["votes"] or ())
        counted, total = _tally(evidence, scoring), _tally(evidence["total"], scoring)
        return SplitFindings(question, terms, counted, total, votes)
    if isinstance(terms, IntervalTerms):
        labels = len(evidence["total"]["sums"])
        return IntervalFindings(question, terms, labels, tuple(evidence["votes"] or ()))
    return Findings(
        question=question,
        terms=terms,
        scoring=scoring,
        pilot=_tally(evidence["pilot"], scoring),
        counted=_tally(evidence, scoring),
        ground=evidence["bound"],
        total=_tally(evidence["total"], scoring),
    )


def _tally(part: Mapping[str, Any], scoring: Scoring) -> Tally:
    sums, squares = (np.array(part[name], np.int64) for name in ("sums", "sums_of_squares"))
    return Tally(part["draws"], sums, squares, DENOMINATORS[scoring])


def _impossible(answer: Mapping[str, Any], findings: AnyFindings) -> Iterator[str]:
    """Say what is impossible for any draws, budget and bounds of g."""
    counted, total = findings.counted, findings.total
    pilot = _tally(answer["evidence"]["pilot"], findings.scoring)
    tallies = pilot, counted, total
    if len({len(part) for tally in tallies for part in (tally.sums, tally.squares)}) > 1:
        yield "the evidence's tallies have different numbers of labels"
        return
    if len(pilot.sums) < 2:
        yield f"the evidence's tallies have {len(pilot.sums)} labels; expected at least 2"
        return
    rest = total - pilot - counted
    for name, tally in (
        ("evidence.pilot", pilot),
        ("evidence", counted),
        ("evidence.total", total),
        ("evidence.total less the pilot and the counted draws", rest),
    ):
        if not _possible(tally):
            yield f"{name} holds sums that no draws can have"
    budget = findings.question.max_draws
    if isinstance(findings, SplitFindings):
        yield from _impossible_split(answer, findings)
    elif isinstance(findings, IntervalFindings):
        yield from _impossible_interval(answer, findings)
    else:
        if answer["confidence"] == 1 or answer["evidence"]["votes"] is not None:
            yield "confidence is 1, or evidence.votes is not null, which this noise does not allow"
            return
        yield from _impossible_steps(findings)
        if isinstance(findings.terms, StepTerms):
            yield from _impossible_discrete(answer, findings.terms)
        yield from _impossible_moves(findings)
    if total.draws > budget:
        yield f"evidence.total.draws is {total.draws}, beyond the budget of {budget}"
    if answer["budget"]["asked"] < budget:
        yield f"budget.granted is {budget}, more than was asked"
    if max(findings.question.allow or [0]) >= len(total.sums):
        yield f"evidence.allow is not among the {len(total.sums)} labels"
    if not 1 <= len(answer["scores"]) <= len(total.sums):
        yield f"scores has {len(answer['scores'])} entries; there are {len(total.sums)} labels"
    names = [score["name"] for score in answer["scores"]]
    if len(set(names)) < len(names):
        yield "scores has labels of the same name"
    if answer["attacks"] and not 2 <= len(answer["attacks"]["sizes"]) <= MOST_SIZES:
        yield f"attacks.sizes has not 2 to {MOST_SIZES} entries"


def _impossible_discrete(answer: Mapping[str, Any], terms: Terms) -> Iterator[str]:
    """Say what is impossible for noise on the pixels' grid, where pixels stay as they are."""
    noise = answer["noise"]
    if (noise["placement"], noise["norm"]) != ("image", "l1"):
        yield f"noise is not in the image and in l1, which {noise['mechanism']} noise needs"
    if (noise["sensitivity"], terms.sensitivity, terms.rho) != (1, 1, 0):
        yield "noise, preprocessing or evidence has a sensitivity or rho that this noise bars"
    if terms.further:
        yield "evidence.sensitivities has more than one entry, which this noise bars"


def _impossible_split(answer: Mapping[str, Any], findings: SplitFindings) -> Iterator[str]:
    """Say what is impossible for split noise: its sensitivity, budget, looks and votes."""
    terms, total, counted = findings.terms, findings.total, findings.counted
    noise = answer["noise"]
    try:
        draws = terms.draws
    except ValueError as error:
        yield f"noise.scale: {error}"
        return
    if (noise["scoring"], noise["placement"], noise["norm"]) != ("votes", "image", "l1"):
        yield "noise is not by votes, in the image and in l1, which split noise needs"
    # Not their product alone: what preprocessing gains must not make up for what g would lose.
    if (noise["sensitivity"], terms.sensitivity, terms.tau, terms.rho) != (1, 1, 0, 0):
        yield "noise, preprocessing or evidence has a sensitivity, tau or rho that split noise bars"
    if answer["picture"]["bits"] != 8 or terms.further:
        yield "picture or evidence.sensitivities is not one for split noise"
    if findings.question.max_draws != draws or answer["budget"]["asked"] != draws:
        yield f"budget is not {draws}, the number of all draws of this noise"
    if counted.draws not in schedule(terms):
        yield f"evidence.draws is {counted.draws}, which is no look"
    votes, labels = findings.votes, len(total.sums)
    if len(votes) != draws or not all(vote is None or vote < labels for vote in votes):
        yield f"evidence.votes is not a list of {draws} labels"
        return
    made = [vote for vote in votes if vote is not None]
    if [made.count(label) for label in range(labels)] != total.sums.tolist():
        yield "evidence.votes does not have the votes of evidence.total"
    if len(made) != total.draws:
        yield f"evidence.votes has {len(made)} draws, and evidence.total {total.draws}"


def _impossible_interval(answer: Mapping[str, Any], findings: IntervalFindings) -> Iterator[str]:
    """Say what is impossible for intervals: their sensitivity, budget, rounds and votes."""
    terms, noise, votes = findings.within, answer["noise"], findings.votes
    try:
        search = findings.search
    except ValueError as error:
        yield f"noise.scale: {error}"
        return
    if (noise["scoring"], noise["placement"], noise["norm"]) != ("votes", "image", "linf"):
        yield "noise is not by votes, in the image and in linf, which intervals need"
    if (noise["sensitivity"], terms.sensitivity, terms.tau, terms.rho) != (1, 1, 0, 0):
        yield "noise, preprocessing or evidence has a sensitivity, tau or rho that intervals bar"
    if answer["picture"]["bits"] != 8 or terms.further:
        yield "picture or evidence.sensitivities is not one for intervals"
    if findings.question.max_draws != BOXES or answer["budget"]["asked"] != BOXES:
        yield f"budget is not {BOXES}, the most boxes of a picture"
    if len(votes) != BOXES or not all(vote is None or vote < findings.labels for vote in votes):
        yield f"evidence.votes is not a list of {BOXES} labels"
        return
    made = [vote for vote in votes if vote is not None]
    if votes[: len(made)] != tuple(made) or len(made) != search.taken or not search.rounds:
        yield "evidence.votes are not those of a search, from the first round on"
    if len(set(made) - {NO_VOTE}) > 1:
        yield "evidence.votes has two labels, which no two boxes around one picture can have"


def _impossible_steps(findings: Findings) -> Iterator[str]:
    """Say which pilot, look and ground of the certificate the question does not have."""
    pilot, counted, question = findings.pilot, findings.counted, findings.question
    budget, steps, ground = question.max_draws, question.steps, findings.ground
    if ground not in GROUNDS:
        yield f"evidence.bound is {ground}, which is not for this noise"
    elif pilot.draws not in range(steps.pilot, steps.longest_pilot + 1, steps.pilot):
        yield f"evidence.pilot.draws is {pilot.draws}, which no pilot has"
    elif not pilot_ends(pilot, budget, steps):
        yield "evidence.pilot does not settle which label to certify"
    elif counted.draws not in looks(budget - pilot.draws, steps) and not (
        ground == "majority" and counted.draws == findings.total.draws - pilot.draws
    ):
        yield f"evidence.draws is {counted.draws}, which is no look"
    elif not findings.division.of(ground)[0]:
        yield f"evidence.bound is {ground}, for which no α was reserved"
    elif ground == "clopper-pearson" and counted.draws != budget - pilot.draws:
        yield "evidence.bound is clopper-pearson at a look for which it was not reserved"


def _impossible_moves(findings: Findings) -> Iterator[str]:
    """Say which bounds on how far g moves are impossible."""
    norms, own = DEFAULTS[findings.terms.mechanism], MECHANISM_NORMS[findings.terms.mechanism]
    for number, delta in enumerate(findings.terms.deltas):
        if delta.target not in norms:
            yield f"evidence.sensitivities[{number}].target is {delta.target!r}, not the noise's"
        elif delta.target == own and delta.rho != findings.terms.rho:
            yield f"evidence.sensitivities[{number}].rho is {delta.rho!r}, not evidence.rho"
    ways = [(delta.source, delta.target) for delta in findings.terms.deltas]
    if len(set(ways)) < len(ways):
        yield "evidence.sensitivities has two entries of the same source and target"


def _possible(tally: Tally) -> bool:
    """Whether draws with scores in [0, 1] and a sum of at most 1 can have this tally."""
    unit, n = tally.denominator, tally.draws
    sums, squares = tally.sums.tolist(), tally.squares.tolist()
    return (
        n >= 0
        and sum(sums) <= n * unit
        and all(
            0 <= square <= own * unit and own * own <= n * square and (unit > 1 or own == square)
            for own, square in zip(sums, squares, strict=True)  # by Cauchy and Schwarz
        )
    )


def _expected(answer: Mapping[str, Any], conclusion: Conclusion) -> dict[str, Any]:
    """Return every member that follows, with its right value."""
    names = {score["index"]: score["name"] for score in answer["scores"]}
    certain = conclusion.certain and {
        "labels": [
            {"index": index, **({"name": names[index]} if index in names else {})}
            for index in conclusion.certain.labels
        ],
        "within_allowed": conclusion.certain.within_allowed,
    }
    return {
        "label": {"index": conclusion.label, "name": names.get(conclusion.label)},
        "robust": conclusion.robust,
        "certain": certain,
        "certified_size": conclusion.certified_size,
        "draws": conclusion.draws,
        "budget": {"reachable": conclusion.reachable},
        "stopped": conclusion.stopped,
        "scores": [asdict(score) for score in conclusion.scores],
        "certificate": {
            "method": conclusion.method,
            "lower": conclusion.lower,
            "upper": conclusion.upper,
            "sizes": conclusion.sizes,
            "paper": {"method": conclusion.paper, "size": conclusion.paper_size},
        },
        "attacks": conclusion.attacks and asdict(conclusion.attacks),
        "evidence": asdict(conclusion.evidence),
    }


def _compare(stated: Any, expected: Any, path: str) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(stated, dict):
        for name, value in expected.items():
            yield from _compare(stated[name], value, f"{path}.{name}" if path else name)
    elif isinstance(expected, list) and isinstance(stated, list) and len(stated) == len(expected):
        for number, (one, value) in enumerate(zip(stated, expected, strict=True)):
            yield from _compare(one, value, f"{path}[{number}]")
    elif isinstance(stated, bool) != isinstance(expected, bool) or stated != expected:
        yield f"{path} is {stated!r}, but follows as {expected!r}"


def _preprocessing(answer: Mapping[str, Any]) -> Iterator[str]:
    preprocessing, norm = answer["preprocessing"], answer["noise"]["norm"]
    channels, height, width = answer["evidence"]["input_shape"]
    try:
        preparation = plan(**answer["picture"], shape=(channels, height, width))
    except CannotCertify as error:
        yield f"picture cannot be what the model answered for: {error}"
        return
    if answer["noise"]["mechanism"] not in CONTINUOUS and not preparation.selects:
        yield "picture cannot be what the model answered for: its model takes pixels as they are"
    yield from _compare(preprocessing["steps"], list(preparation.steps), "preprocessing.steps")
    stated, computed = preprocessing["sensitivity"], preparation.sensitivity(norm, norm)
    if not abs(stated - computed) <= _TOLERANCE * computed:
        yield f"preprocessing.sensitivity is {stated!r}, but follows as {computed!r}"


# The structure of an answer: a dictionary is an object with exactly these members, and a list
# stands for any number of its only entry.


@dataclass(frozen=True)
class _Kind:
    """A value that is neither an object nor a list."""

    words: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class _Maybe:
    """A part that may be null."""

    part: Any


def _misfits(stated: Any, part: Any, path: str) -> Iterator[str]:
    """Say what is missing, unknown, or of the wrong kind."""
    if isinstance(part, _Maybe):
        if stated is not None:
            yield from _misfits(stated, part.part, path)
    elif isinstance(part, _Kind):
        if not part.fits(stated):
            yield f"{path} is {_short(stated)}; expected {part.words}"
    elif type(stated) is not type(part):
        kind = "an object" if isinstance(part, dict) else "a list"
        yield f"{path or 'the document'} is {_short(stated)}; expected {kind}"
    elif isinstance(part, list):
        for number, entry in enumerate(stated):
            yield from _misfits(entry, part[0], f"{path}[{number}]")
    else:
        for name in (*part, *(name for name in stated if name not in part)):
            inner = f"{path}.{name}" if path else str(name)
            if name not in stated:
                yield f"{inner} is missing"
            elif name not in part:
                yield f"{inner} is not a member of an answer"
            else:
                yield from _misfits(stated[name], part[name], inner)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _among(*values: str | int) -> _Kind:
    return _Kind(
        f"one of {', '.join(map(str, values))}",
        lambda value: type(value) is type(values[0]) and value in values,
    )


def _text(words: str, pattern: str) -> _Kind:
    whole = re.compile(pattern, re.DOTALL)
    return _Kind(words, lambda value: type(value) is str and whole.fullmatch(value) is not None)


def _integer(least: int, most: int) -> _Kind:
    return _Kind(
        f"an integer from {least} to {most}",
        lambda value: type(value) is int and least <= value <= most,
    )


def _number(words: str, fits: Callable[[float], bool]) -> _Kind:
    return _Kind(
        f"a number {words}",
        lambda value: type(value) in (int, float) and fits(value),
    )


# Members that are only the service's word, or the question, have a range. Of members that follow,
# only the type matters, because they are compared.
_TEXT, _WORD = _text("text", ".+"), _text("text", ".*")
_FLAG = _Kind("true or false", lambda value: type(value) is bool)
_NUMBER = _Kind("a number", lambda value: type(value) in (int, float) and abs(value) <= _HUGE)
_INTEGER = _Kind("an integer", lambda value: type(value) is int)
_AMOUNT = _number("of at least 0", lambda value: 0 <= value <= MOST_NUMBER)
_POSITIVE = _number("above 0", lambda value: LEAST_NUMBER <= value <= MOST_NUMBER)
_COUNT, _SUM = _integer(0, MOST_DRAWS), _integer(0, 2**63 - 1)
_SIDE = _integer(1, LARGEST_SIDE)
_SHAPE = _Kind(
    "a list of three integers from 1 to 4096",
    lambda value: (
        type(value) is list
        and len(value) == 3
        and all(type(entry) is int and 1 <= entry <= 4096 for entry in value)
    ),
)
_PLACEMENT = _text("image, or the path of a layer", r"[^.]+(\.[^.]+)*")
_DEVICE = _text("a device as cpu or cuda:0", r"[a-z]+(:[0-9]+)?")
_RANGE = {"lower": _NUMBER, "upper": _NUMBER}
_SUMS = {"draws": _COUNT, "sums": [_SUM], "sums_of_squares": [_SUM]}
_ANSWER = {
    "model": {
        "name": _TEXT,
        "version": _TEXT,
        "digest": _TEXT,
        "rows": _among(*get_args(RowsBasis)),
    },
    "label": {"index": _INTEGER, "name": _WORD},
    "robust": _Maybe(_FLAG),
    "certain": _Maybe(
        {"labels": [{"index": _INTEGER, "name": _WORD}], "within_allowed": _Maybe(_FLAG)}
    ),
    "certified_size": _NUMBER,
    "norm": _among(*NORMS),
    "target": _Maybe(_number("above 0", lambda value: 0 < value <= MOST_NUMBER)),
    "confidence": _number("above 0 and at most 1", lambda value: 0 < value <= 1),
    "draws": _INTEGER,
    "budget": {
        "asked": _integer(LEAST_DRAWS, 2**53),
        "granted": _integer(LEAST_DRAWS, MOST_DRAWS),
        "reachable": _FLAG,
    },
    "stopped": _WORD,
    "scores": [
        {
            "index": _INTEGER,
            "name": _WORD,
            "expected": _NUMBER,
            **_RANGE,
            "attacked": _Maybe(_RANGE),
        }
    ],
    "certificate": {
        "method": _WORD,
        **_RANGE,
        "sizes": dict.fromkeys(NORMS, _NUMBER),
        "paper": {"method": _WORD, "size": _NUMBER},
    },
    "noise": {
        "mechanism": _among(*MECHANISMS),
        "scale": _POSITIVE,
        "sensitivity": _POSITIVE,
        "norm": _among(*NORMS),
        "placement": _PLACEMENT,
        "scoring": _among(*SCORINGS),
    },
    "picture": {
        "width": _SIDE,
        "height": _SIDE,
        "mode": _among(*CHANNELS),
        "bits": _among(*DEPTHS),
    },
    "preprocessing": {"steps": [_WORD], "sensitivity": _POSITIVE},
    "compute": {
        "device": _DEVICE,
        "provider": _among(*get_args(Provider)),
        "precision": _among(*FORMATS),
        "pass_size": _integer(1, 2**31 - 1),
        "compiled": _FLAG,
    },
    "timing_ms": dict.fromkeys(("decode", "queue", "compute", "total"), _AMOUNT),
    "attacks": _Maybe(
        {
            "sizes": [_NUMBER],
            "scores": [{"index": _INTEGER, "lower": [_NUMBER], "upper": [_NUMBER]}],
            "others": _Maybe([_NUMBER]),
        }
    ),
    "evidence": {
        "label": _INTEGER,
        "pilot_draws": _INTEGER,
        "denominator": _INTEGER,
        **_SUMS,
        "bound": _among(*GROUNDS, *get_args(Counting)),
        "alpha_certificate": _NUMBER,
        "alpha_label": _NUMBER,
        "alpha_rival": _NUMBER,
        "alpha_scores": _NUMBER,
        "restarts": _integer(0, MOST_RESTARTS),
        "allow": _Maybe([_integer(0, 2**31 - 1)]),
        "tau": _number("from 0 to below 0.5", lambda value: 0 <= value < 0.5),
        "rho": _AMOUNT,
        "sensitivities": [
            {"source": _among(*NORMS), "target": _among(*NORMS), "value": _POSITIVE, "rho": _AMOUNT}
        ],
        "pilot": _SUMS,
        "total": _SUMS,
        "votes": _Maybe([_Maybe(_integer(NO_VOTE, 2**31 - 1))]),
        "input_shape": _SHAPE,
    },
}
_SPANS = _Kind(
    f"a list of 1 to {MOST} pairs of integers from 0 to 4096",
    lambda value: (
        type(value) is list
        and 1 <= len(value) <= MOST
        and all(
            type(span) is list
            and len(span) == 2
            and all(type(end) is int and 0 <= end <= 4096 for end in span)
            for span in value
        )
    ),
)
_LABEL = {"index": _INTEGER, "name": _WORD}
_STICKER_ANSWER = {
    **{
        name: _ANSWER[name]
        for name in (
            *("model", "label", "target", "confidence", "draws", "stopped", "scores"),
            *("picture", "compute", "timing_ms"),
        )
    },
    "threat": _among("sticker"),
    "robust": _FLAG,
    "sticker": {"certified": _FLAG, "label": _LABEL, "side": _INTEGER},
    "budget": {"asked": _INTEGER, "granted": _INTEGER, "reachable": _FLAG},
    "certificate": {
        "method": _WORD,
        "masks": {"rows": [[_INTEGER]], "columns": [[_INTEGER]]},
        "views": _INTEGER,
    },
    "preprocessing": {"steps": [_WORD]},
    "evidence": {
        "threat": _among("sticker"),
        "side": _SIDE,
        "rows": _SPANS,
        "columns": _SPANS,
        "votes": [_Maybe(_integer(NO_VOTE, 2**31 - 1))],
        "labels": _integer(2, 2**20),
        "input_shape": _SHAPE,
    },
}

"""Verification accepts the service's answers, and notices every alteration that matters."""

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict
from decimal import Decimal
from typing import Any, get_args

import numpy as np
import pytest

from models.certification.answer import Conclusion, conclude
from models.certification.inquiry import Inquiry
from models.certification.interval import IntervalInquiry, IntervalTerms
from models.certification.kinds import terms_kind
from models.certification.laws import LAWS
from models.certification.names import (
    BOUNDS,
    CERTIFICATES,
    GROUNDS,
    MECHANISMS,
    NORMS,
    SCORINGS,
    Mechanism,
    Norm,
    Scoring,
    Stopped,
)
from models.certification.question import Question
from models.certification.rounding import MOST_NUMBER
from models.certification.split import SplitInquiry, SplitTerms
from models.certification.tally import DENOMINATORS
from models.certification.terms import Delta
from models.preprocessing import Preprocessing, plan
from models.verification import WORD, MalformedAnswerError, verify

LABELS = 6
# Targets of which products, quotients or squares may overflow.
EXTREMES = (1e-320, 1e16, MOST_NUMBER)


def answer(
    scoring: Scoring = "votes",
    target: float | None = 0.3,
    mechanism: Mechanism = "gaussian",
    norm: Norm = "l2",
    share: float = 0.97,
    max_draws: int = 1000,
    seed: int = 0,
    labels: int = LABELS,
    cut: int | None = None,
    attacks: int | None = 5,
    picture: tuple[int, int, str] = (40, 30, "RGB"),
    shape: tuple[int, int, int] = (1, 28, 28),
    shown: int | None = None,
    restarts: int = 0,
    confidence: float = 0.999,
    allow: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """The JSON of an answer, as the service composes it, from simulated draws.

    With ``allow`` its first label has half of the draws that else go to the label.
    """
    rng = np.random.default_rng(seed)
    own: Norm = "l2" if mechanism == "gaussian" else "l1"
    discrete = LAWS[mechanism].discrete
    width, height, mode = (28, 35, "L") if discrete else picture
    preparation = plan(width, height, mode, 8, shape)
    further = [Delta("linf", own, 29.0 if own == "l2" else 700.0, 1e-3)]
    if mechanism == "laplace":
        further = [Delta("linf", "l2", 29.0, 2e-3), Delta("l2", "l2", 0.5, 2e-3)]
    sensitivity = 1.0 if discrete else 0.8
    terms = terms_kind(mechanism)(
        mechanism,
        0.5,
        sensitivity * preparation.sensitivity(own, own),
        own,
        width * height * (3 if mode == "RGB" else 1),
        tau=1e-4,
        rho=0.0 if discrete else 1e-3,
        further=() if discrete else tuple(further),
    )
    question = Question(confidence, max_draws, target, norm, restarts, allow)
    inquiry = Inquiry(question, terms, labels, scoring)
    unit = DENOMINATORS[scoring]
    while not inquiry.stopped:
        votes = np.where(rng.random(50) < share, labels // 2, rng.integers(0, labels, 50))
        if allow:
            votes[::2][votes[::2] == labels // 2] = allow[0]
        scores = np.eye(labels, dtype=np.int64)[votes] * (unit if unit == 1 else unit * 7 // 8)
        inquiry.add(scores)
        if cut and inquiry.total.draws >= cut and inquiry.look:
            inquiry.cut()
    conclusion = conclude(inquiry, shown or labels, attacks)
    assert inquiry.stopped == conclusion.stopped
    noise = {
        "mechanism": mechanism,
        "scale": 0.5,
        "sensitivity": sensitivity,
        "norm": own,
        "placement": "image" if discrete else "layer1",
        "scoring": scoring,
    }
    budget = max_draws + 10, max_draws
    return written(conclusion, labels, question, budget, noise, preparation)


def split_answer(
    target: float | None = 0.2,
    norm: Norm = "l1",
    share: float = 0.97,
    seed: int = 0,
    labels: int = LABELS,
    cut: int | None = None,
    attacks: int | None = 5,
    shown: int | None = None,
    restarts: int = 0,
    confidence: float = 1.0,
    scale: float = 0.5,
    picture: tuple[int, int] = (28, 28),
    allow: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """The same for split noise."""
    rng = np.random.default_rng(seed)
    preparation = plan(*picture, "L", 8, (1, 28, 28))
    terms = SplitTerms("split", scale, 1.0, "l1", picture[0] * picture[1])
    question = Question(confidence, 64, target, norm, restarts, allow)
    inquiry = SplitInquiry(question, terms, labels, lambda draws: rng.permutation(draws))
    votes = np.where(
        rng.random(terms.draws) < share, labels // 2, rng.integers(0, labels, terms.draws)
    )
    if allow:
        votes[::2][votes[::2] == labels // 2] = allow[0]
    votes[-1] = -1  # for no label
    while not inquiry.stopped:
        numbers = inquiry.numbers(inquiry.total.draws, 50)
        inquiry.add(votes[numbers])
        if cut and inquiry.total.draws >= cut and inquiry.look:
            inquiry.cut()
    conclusion = conclude(inquiry, shown or labels, attacks)
    assert inquiry.stopped == conclusion.stopped
    noise = {
        "mechanism": "split",
        "scale": scale,
        "sensitivity": 1.0,
        "norm": "l1",
        "placement": "image",
        "scoring": "votes",
    }
    budget = terms.draws, terms.draws
    return written(conclusion, labels, question, budget, noise, preparation)


def interval_answer(
    target: float | None = None,
    norm: Norm = "linf",
    radius: int = 3000,
    labels: int = LABELS,
    cut: int | None = None,
    attacks: int | None = 5,
    shown: int | None = None,
    restarts: int = 0,
    confidence: float = 1.0,
    scale: float = 0.1,
    picture: tuple[int, int] = (28, 28),
    allow: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """The same by intervals: boxes up to ``radius`` are proven; below 0, not even the label."""
    preparation = plan(*picture, "L", 8, (1, 28, 28))
    terms = IntervalTerms("interval", scale, 1.0, "linf", picture[0] * picture[1])
    question = Question(confidence, 64, target, norm, restarts, allow)
    inquiry = IntervalInquiry(question, terms, labels)
    while not inquiry.stopped:
        radii = inquiry.numbers(inquiry.draws, min(inquiry.wanted, 5))
        inquiry.add(np.where(radii <= radius, labels // 2, -1))
        if cut and inquiry.draws >= cut and inquiry.look:
            inquiry.cut()
    conclusion = conclude(inquiry, shown or labels, attacks)
    assert inquiry.stopped == conclusion.stopped
    noise = {
        "mechanism": "interval",
        "scale": scale,
        "sensitivity": 1.0,
        "norm": "linf",
        "placement": "image",
        "scoring": "votes",
    }
    return written(conclusion, labels, question, (64, 64), noise, preparation)


def written(
    conclusion: Conclusion,
    labels: int,
    question: Question,
    budget: tuple[int, int],
    noise: dict[str, Any],
    preparation: Preprocessing,
) -> dict[str, Any]:
    """The JSON of an answer."""
    names = [f"label {index}" for index in range(labels)]
    own: Norm = noise["norm"]
    document = {
        "model": {"name": "m", "version": "1", "digest": "sha256:0", "rows": "built-in"},
        "label": {"index": conclusion.label, "name": names[conclusion.label]},
        "robust": conclusion.robust,
        "certain": conclusion.certain
        and {
            "labels": [{"index": i, "name": names[i]} for i in conclusion.certain.labels],
            "within_allowed": conclusion.certain.within_allowed,
        },
        "certified_size": conclusion.certified_size,
        "norm": question.norm,
        "target": question.target,
        "confidence": question.confidence,
        "draws": conclusion.draws,
        "budget": {
            "asked": budget[0],
            "granted": budget[1],
            "reachable": conclusion.reachable,
        },
        "stopped": conclusion.stopped,
        "scores": [{"name": names[score.index], **asdict(score)} for score in conclusion.scores],
        "certificate": {
            "method": conclusion.method,
            "lower": conclusion.lower,
            "upper": conclusion.upper,
            "sizes": conclusion.sizes,
            "paper": {"method": conclusion.paper, "size": conclusion.paper_size},
        },
        "noise": noise,
        "picture": {
            "width": preparation.width,
            "height": preparation.height,
            "mode": preparation.mode,
            "bits": 8,
        },
        "preprocessing": {
            "steps": list(preparation.steps),
            "sensitivity": preparation.sensitivity(own, own),
        },
        "compute": {
            "device": "cpu",
            "provider": "pytorch",
            "precision": "float32",
            "pass_size": 64,
            "compiled": False,
        },
        "timing_ms": {"decode": 0.1, "queue": 0.1, "compute": 1.0, "total": 1.5},
        "attacks": conclusion.attacks and asdict(conclusion.attacks),
        "evidence": {**asdict(conclusion.evidence), "input_shape": list(preparation.shape)},
    }
    parsed: dict[str, Any] = json.loads(json.dumps(document))
    return parsed


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
@pytest.mark.parametrize("target", [None, 0.3, 3.0, *EXTREMES])
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_answers_verify(
    scoring: Scoring, target: float | None, mechanism: Mechanism, norm: Norm
) -> None:
    for share, seed in ((1.0, 0), (0.9, 1), (0.3, 2)):
        assert verify(answer(scoring, target, mechanism, norm, share, seed=seed)) == []


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
@pytest.mark.parametrize("labels", [2, 6])
def test_answers_that_end_in_every_way_verify(scoring: Scoring, labels: int) -> None:
    ways = set()
    for target, cut in ((None, None), (0.2, None), (0.4, 150), (0.4, 160), (0.9, None), (None, 70)):
        for share in (1.0, 0.9, 0.6, 0.2):
            for seed in range(3):
                document = answer(
                    scoring, target, share=share, labels=labels, cut=cut, seed=seed, max_draws=400
                )
                assert verify(document) == []
                ways.add(document["stopped"])
    assert ways == {"target_certified", "max_draws", "target_out_of_reach", "deadline"}


SETS: list[tuple[Scoring, float, float, tuple[int, ...], int | None]] = [
    ("votes", 0.1, 1.0, (1, 3), None),
    ("softmax", 0.1, 1.0, (1, 3), None),
    ("votes", 0.1, 0.9, (0, 2), None),
    ("votes", 0.1, 0.95, (2, 4), 150),
    ("softmax", 0.3, 0.9, (3,), None),
]


@pytest.mark.parametrize(("scoring", "target", "share", "allow", "cut"), SETS)
@pytest.mark.parametrize("shown", [2, 6])
def test_answers_about_a_set_verify(
    scoring: Scoring,
    target: float,
    share: float,
    allow: tuple[int, ...],
    cut: int | None,
    shown: int,
) -> None:
    for seed in range(3):
        document = answer(
            scoring, target, share=share, allow=allow, cut=cut, shown=shown, seed=seed
        )
        assert verify(document) == []
        split = split_answer(0.1, share=share, allow=allow, cut=cut, shown=shown, seed=seed)
        assert verify(split) == []
        for one in (document, split):
            altered = copy.deepcopy(one)
            altered["certain"]["within_allowed"] = not one["certain"]["within_allowed"]
            assert verify(altered) != []
            altered = copy.deepcopy(one)
            altered["evidence"]["allow"] = [5]
            assert verify(altered) != [] or one["certain"]["within_allowed"] is False


def leaves(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(part, dict):
        for name, value in part.items():
            yield from leaves(value, (*path, name))
    elif isinstance(part, list):
        for index, value in enumerate(part):
            yield from leaves(value, (*path, index))
    else:
        yield path


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        document = document[name]
    return document


def others(value: Any) -> Iterator[Any]:
    """Replacements for ``value``: the last digit changed, far away, of other types."""
    yield from (None, [], {}, "", "other", True, False, -1, 0, 1, 0.5, float("nan"), str(value))
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int):
        yield from (value + 1, value - 1, value + 32, -value, float(value) + 0.5)
    elif isinstance(value, float):
        last = Decimal(1).scaleb(Decimal(repr(value)).as_tuple().exponent)  # type: ignore[arg-type]
        yield from (float(Decimal(repr(value)) + sign * last) for sign in (1, -1))
        yield from (value * 1.001, value * 1.5, value / 2, -value)
    else:
        words = (
            *CERTIFICATES,
            *MECHANISMS,
            *NORMS,
            *SCORINGS,
            *BOUNDS,
            *GROUNDS,
            *get_args(Stopped),
        )
        yield from (word for word in (*words, "L") if word != value)
        yield from (value[:-1], value + "x")


def alterations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Copies of ``document`` with one value altered, and its path."""
    for path in leaves(document):
        value = at(document, path)
        for other in others(value):
            same = type(other) is type(value) or {type(other), type(value)} == {int, float}
            if same and other == value:
                continue
            copied = copy.deepcopy(document)
            at(copied, path[:-1])[path[-1]] = other
            yield named(path), copied
    for path, kind in containers(document):
        value = at(document, path)
        for name in list(value) if kind is dict else range(len(value)):
            copied = copy.deepcopy(document)
            del at(copied, path)[name]
            yield named((*path, name)), copied
        copied = copy.deepcopy(document)
        if kind is dict:
            at(copied, path)["further"] = 1
        else:
            at(copied, path).append(value[-1] if value else 1)
        yield named((*path, "further")), copied
        if kind is list and len(value) > 1:
            copied = copy.deepcopy(document)
            at(copied, path).reverse()
            if copied != document:
                yield named(path), copied


def containers(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], type]]:
    if isinstance(part, dict | list):
        yield path, type(part)
        for name, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from containers(value, (*path, name))


def named(path: tuple[Any, ...]) -> str:
    """A path as ``WORD`` has it: without the indices of entries."""
    return "".join("[]" if isinstance(name, int) else f".{name}" for name in path).lstrip(".")


def is_word(name: str) -> bool:
    """Whether a member is, or belongs to, one that is only the service's word."""
    return any(name == word or name.startswith((f"{word}.", f"{word}[")) for word in WORD)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scoring", "target", "mechanism", "share", "labels"),
    [
        ("votes", 0.3, "gaussian", 0.97, 6),
        ("votes", None, "laplace", 1.0, 2),
        ("softmax", 0.3, "laplace", 0.95, 3),
        ("softmax", None, "gaussian", 0.6, 6),
        ("votes", 0.9, "gaussian", 0.8, 3),
    ],
)
def test_what_can_be_computed_cannot_be_altered_unnoticed(
    scoring: Scoring, target: float | None, mechanism: Mechanism, share: float, labels: int
) -> None:
    document = answer(scoring, target, mechanism, "l2", share, labels=labels, max_draws=300)
    assert verify(document) == []
    tried, unnoticed = 0, set()
    for name, copied in alterations(document):
        tried += 1
        try:
            found = verify(copied)
        except MalformedAnswerError:
            continue
        if not found:
            unnoticed.add(name)
    assert tried > 1500
    assert {name for name in unnoticed if not is_word(name)} == set()
    # No more can be altered than is necessary.
    assert not {name for name in unnoticed if name.endswith("further")}


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("confidence", [1.0, 0.99])
@pytest.mark.parametrize("target", [None, 0.2, 0.49, 3.0, *EXTREMES])
def test_answers_by_split_noise_verify(target: float | None, confidence: float, norm: Norm) -> None:
    if target and norm != "l1":
        target /= 28 if norm == "l2" else 784
    for share, seed, cut in ((1.0, 0, None), (0.9, 1, 100), (0.3, 2, None)):
        document = split_answer(target, norm, share, seed, confidence=confidence, cut=cut)
        assert verify(document) == []


@pytest.mark.parametrize("labels", [2, 6])
def test_answers_by_split_noise_end_in_every_way(labels: int) -> None:
    ways = set()
    for target, cut in ((None, None), (0.2, None), (0.4, 150), (0.45, None), (None, 70)):
        for share in (1.0, 0.9, 0.2):
            for confidence in (1.0, 0.9):
                document = split_answer(
                    target, share=share, labels=labels, cut=cut, confidence=confidence
                )
                assert verify(document) == []
                ways.add(document["stopped"])
    assert ways == {"target_certified", "max_draws", "target_out_of_reach", "deadline"}


@pytest.mark.parametrize(
    ("target", "confidence"), [(0.2, 1.0), pytest.param(None, 0.9, marks=pytest.mark.slow)]
)
def test_what_follows_from_split_noise_cannot_be_altered_unnoticed(
    target: float | None, confidence: float
) -> None:
    document = split_answer(target, confidence=confidence, labels=2, picture=(28, 30), attacks=2)
    votes = document["evidence"]["votes"]
    assert verify(document) == []
    document["evidence"]["votes"] = []
    unnoticed = set()
    for name, copied in alterations(document):
        evidence = copied.get("evidence")
        if isinstance(evidence, dict) and evidence.get("votes") == []:
            evidence["votes"] = votes
        try:
            found = verify(copied)
        except MalformedAnswerError:
            continue
        if not found:
            unnoticed.add(name)
    assert {name for name in unnoticed if not is_word(name)} == set()
    # Of the noise and the evidence, none may be exchanged: they fit together.
    assert not {name for name in unnoticed if name.startswith(("noise", "evidence.votes"))}


@pytest.mark.parametrize(
    ("width", "height", "mode"), [(56, 56, "L"), (14, 14, "L"), (28, 28, "RGB"), (56, 30, "RGB")]
)
def test_split_noise_takes_pixels_as_they_are(width: int, height: int, mode: str) -> None:
    """No sensitivity of the noise makes up for preprocessing that computes new pixels."""
    preparation = plan(width, height, mode, 8, (1, 28, 28))
    document = split_answer(None, picture=(width * len(mode), height))
    document["picture"].update(width=width, mode=mode)
    moved = preparation.sensitivity("l1", "l1")
    document["preprocessing"] = {"steps": list(preparation.steps), "sensitivity": moved}
    document["noise"]["sensitivity"] = 1 / moved
    assert any("sensitivity" in sentence for sentence in verify(document))
    document["noise"]["sensitivity"] = document["preprocessing"]["sensitivity"] = 1
    assert any("takes pixels as they are" in sentence for sentence in verify(document))


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("target", [None, 0.0123456, 0.05, 0.3, 3.999999, *EXTREMES])
def test_answers_by_intervals_verify(target: float | None, norm: Norm) -> None:
    for radius, cut in ((-1, None), (0, None), (1, None), (2550, 20), (5100, None), (5101, 50)):
        document = interval_answer(target, norm, radius, cut=cut, labels=3)
        assert verify(document) == []
        if target is None and cut is None:
            proven = max(min(radius, 5100), 0)
            assert document["certified_size"] <= proven / 51_000 < document["certified_size"] + 1e-6


@pytest.mark.parametrize("target", [0.05, pytest.param(None, marks=pytest.mark.slow)])
def test_what_follows_from_intervals_cannot_be_altered_unnoticed(target: float | None) -> None:
    document = interval_answer(target, labels=2, picture=(28, 30), attacks=2)
    assert verify(document) == []
    unnoticed = set()
    for name, copied in alterations(document):
        try:
            found = verify(copied)
        except MalformedAnswerError:
            continue
        if not found:
            unnoticed.add(name)
    assert {name for name in unnoticed if not is_word(name)} == set()
    assert not {name for name in unnoticed if name.startswith("evidence.votes")}


def test_two_labels_in_boxes_around_one_picture_are_noticed() -> None:
    document = interval_answer(labels=3)
    votes = document["evidence"]["votes"]
    votes[votes.index(-1)] = 2
    for part in (document["evidence"], document["evidence"]["total"]):
        part["sums"][2] = part["sums_of_squares"][2] = 1
    assert any("two labels" in sentence for sentence in verify(document))


def test_a_vote_that_was_not_cast_is_noticed() -> None:
    for cut, change in ((None, 0), (None, -1), (None, None), (100, 0)):
        document = split_answer(None, cut=cut)
        votes = document["evidence"]["votes"]
        votes[votes.index(None if cut else 3)] = change
        assert any("evidence.votes" in sentence for sentence in verify(document))


def test_a_label_is_never_another_than_its_scores_say() -> None:
    document = answer()
    document["label"]["name"] = "another"
    assert any(sentence.startswith("label.name") for sentence in verify(document))
    document = answer()
    document["scores"][1]["name"] = document["scores"][0]["name"]
    assert verify(document) == ["scores has labels of the same name"]


def test_claims_that_the_service_cannot_have_made_are_refused() -> None:
    for change, said in (
        (lambda d: d["budget"].update(asked=500), "more than was asked"),
        (lambda d: d["evidence"]["pilot"].update(draws=40), "no pilot has"),
        (lambda d: d["evidence"].update(draws=63), "no look"),
        (lambda d: d["picture"].update(width=41), "preprocessing.steps"),
        (lambda d: d["preprocessing"].update(sensitivity=0.1), "preprocessing.sensitivity"),
        (lambda d: d["evidence"].update(input_shape=[1, 28, 29]), "preprocessing.steps"),
        (lambda d: d.update(stopped="deadline"), "stopped is 'deadline'"),
    ):
        document = answer()
        change(document)
        assert any(said in sentence for sentence in verify(document)), said

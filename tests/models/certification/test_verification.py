"""Verification: what was answered passes, and nothing that matters can be altered unnoticed."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from models.certification.answer import conclude
from models.certification.certificates import Mechanism
from models.certification.norms import Norm
from models.certification.procedure import Inquiry, Question, Terms
from models.certification.tally import DENOMINATORS, Scoring
from models.certification.verification import MalformedAnswerError, verify

LABELS = 6


def answer(
    scoring: Scoring = "votes",
    target: float | None = 0.3,
    mechanism: Mechanism = "gaussian",
    norm: Norm = "l2",
    share: float = 0.97,
    max_draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The JSON of an answer, as the service puts it together, over simulated draws."""
    rng = np.random.default_rng(seed)
    own: Norm = "l2" if mechanism == "gaussian" else "l1"
    terms = Terms(mechanism, 0.5, 0.8 * 0.75, own, 28 * 28 * 3, tau=1e-4, rho=1e-3)
    question = Question(0.999, max_draws, target, norm)
    inquiry = Inquiry(question, terms, LABELS, scoring)
    unit = DENOMINATORS[scoring]
    while not inquiry.stopped:
        votes = np.where(rng.random(256) < share, 2, rng.integers(0, LABELS, 256))
        scores = np.eye(LABELS, dtype=np.int64)[votes] * (unit if unit == 1 else unit * 7 // 8)
        inquiry.add(scores)
    conclusion = conclude(inquiry, LABELS)
    document = {
        "label": {"index": conclusion.label, "name": "c"},
        "robust": conclusion.robust,
        "certified_size": conclusion.certified_size,
        "norm": norm,
        "target": target,
        "confidence": 0.999,
        "draws": conclusion.draws,
        "budget": {"asked": max_draws, "granted": max_draws, "reachable": conclusion.reachable},
        "stopped": conclusion.stopped,
        "scores": [
            {
                **vars(score),
                "attacked": vars(score.attacked) if score.attacked else None,
            }
            for score in conclusion.scores
        ],
        "certificate": {
            "method": conclusion.method,
            "lower": conclusion.lower,
            "upper": conclusion.upper,
            "sizes": conclusion.sizes,
            "paper": {"method": conclusion.paper, "size": conclusion.paper_size},
        },
        "noise": {
            "mechanism": mechanism,
            "scale": 0.5,
            "sensitivity": 0.8,
            "norm": own,
            "placement": "layer1",
            "scoring": scoring,
        },
        "picture": {"width": 28, "height": 28, "mode": "RGB", "bits": 8},
        "preprocessing": {"steps": ["greyscale"], "sensitivity": 0.75},
        "evidence": {**vars(conclusion.evidence), "total": vars(conclusion.evidence.total)},
    }
    parsed: dict[str, Any] = json.loads(json.dumps(document))
    return parsed


@pytest.mark.parametrize("scoring", ["votes", "softmax"])
@pytest.mark.parametrize("target", [None, 0.3, 3.0])
@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_answers_verify(
    scoring: Scoring, target: float | None, mechanism: Mechanism, norm: Norm
) -> None:
    for share, seed in ((1.0, 0), (0.9, 1), (0.3, 2)):
        assert verify(answer(scoring, target, mechanism, norm, share, seed=seed)) == []


def leaves(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(part, dict):
        for name, value in part.items():
            yield from leaves(value, (*path, name))
    elif isinstance(part, list):
        for index, value in enumerate(part):
            yield from leaves(value, (*path, index))
    else:
        yield path


def altered(document: dict[str, Any], path: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Copies of ``document`` in which the value at ``path`` is another, in the asker's favour."""
    part: Any = document
    for name in path[:-1]:
        part = part[name]
    value = part[path[-1]]
    others: list[Any]
    if isinstance(value, bool) or value is None:
        others = [True, False, None]
    elif isinstance(value, int):
        others = [value + 1, value + 32] + ([value - 1] if value else [])
    elif path[-1] in ("tau", "rho"):
        others = [value * 2, 0.0]
    elif isinstance(value, float):
        others = [value * 1.001, value * 1.5, value / 2] if value else [0.1]
    else:
        others = {
            "gaussian": ["laplace"],
            "betting": ["clopper-pearson"],
            "clopper-pearson": ["betting"],
            "pixeldp-gaussian": ["pixeldp-laplace"],
            "votes": ["softmax"],
            "l2": ["linf"],  # in L1 this size is the same, and as true
            "RGB": ["L"],
        }.get(value, [])
    for other in others:
        if other is value or (other == value and type(other) is type(value)):
            continue
        copied = copy.deepcopy(document)
        part = copied
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = other
        yield copied


# What no arithmetic can tie to the tallies, or what does not matter to the certificate.
FREE = {
    ("label", "name"),
    ("budget", "asked"),
    ("stopped",),
    ("noise", "placement"),
    ("picture", "bits"),
    ("preprocessing", "steps", 0),
}


@pytest.mark.parametrize(("target", "share"), [(0.3, 0.97), (None, 1.0)])
def test_no_field_that_matters_can_be_altered(target: float | None, share: float) -> None:
    document = answer(target=target, share=share)
    assert document["certified_size"] > 0
    assert verify(document) == []
    tried = 0
    for path in leaves(document):
        if path in FREE or (target and path == ("budget", "granted")):
            continue  # a certificate by betting holds whatever the budget
        for copied in altered(document, path):
            tried += 1
            try:
                found = verify(copied)
            except MalformedAnswerError:
                continue
            assert found, f"{path} was altered unnoticed"
    assert tried > 150


def test_missing_members_are_noticed() -> None:
    document = answer()
    for path in leaves(document):
        if path in FREE or isinstance(path[-1], int):
            continue
        copied = copy.deepcopy(document)
        part: Any = copied
        for name in path[:-1]:
            part = part[name]
        del part[path[-1]]
        try:
            assert verify(copied), f"{path} was removed unnoticed"
        except MalformedAnswerError:
            continue

"""The second verifier knows nothing of the project, and judges as the first does."""

import ast
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import verification
from models.certification.answer import conclude, follow
from models.certification.names import ADDITIVE, NORMS
from models.certification.question import Question
from models.certification.stickers import StickerInquiry
from models.masking import masks_for
from models.preprocessing import CannotCertify, plan
from models.verification import MalformedAnswerError
from service.http.api.answers import Answer, StickerAnswer
from tests.models.test_verification import (
    EXTREMES,
    answer,
    at,
    containers,
    interval_answer,
    is_word,
    leaves,
    named,
    others,
    split_answer,
)
from tools import second_verifier

FILE = Path(second_verifier.__file__)
ALTERED = 10_000
Way = tuple[Any, ...]


def genuine() -> Iterator[dict[str, Any]]:
    """Answers of every kind."""
    kinds = product(("votes", "softmax"), (None, 0.3), ("gaussian", "laplace"))
    for seed, (scoring, target, mechanism) in enumerate(kinds):
        norm = ("l2", "linf", "l1")[seed % 3]
        yield answer(scoring, target, mechanism, norm, (0.97, 0.8)[seed % 2], 300, seed)
    yield answer(labels=2, max_draws=200, attacks=None)
    yield answer("softmax", labels=2, max_draws=64, target=None, attacks=2)
    yield answer(labels=10, shown=3, picture=(28, 28, "L"), attacks=7)
    yield answer("softmax", 0.2, labels=10, shown=1, picture=(9, 70, "L"), shape=(3, 32, 32))
    yield answer(labels=1000, shown=5, target=0.6, share=0.9, restarts=1)
    yield answer("softmax", None, labels=1000, shown=2, max_draws=200, attacks=3)
    yield answer(target=0.9, share=0.8, max_draws=400)  # given up
    yield answer("softmax", 0.5, share=0.8, max_draws=400, picture=(60, 45, "RGB"))
    yield answer(target=0.4, share=0.9, cut=150, max_draws=400, seed=1)
    yield answer(target=None, share=0.6, cut=70, confidence=0.9, picture=(200, 31, "RGB"))
    yield answer(target=None, share=0.1, max_draws=200)  # another label leads
    yield answer(target=0.05, share=0.35, max_draws=400, seed=3)  # without half the votes
    yield answer(target=0.4, share=0.75, max_draws=300, labels=3, seed=5)
    yield answer("votes", 0.1, "laplace", "l1", 1.0, shape=(3, 7, 90))
    yield answer("votes", 0.1, share=1.0, allow=(1, 3), attacks=None)
    yield answer("softmax", 0.1, share=0.95, allow=(0, 3), shown=2, max_draws=300)
    yield answer("votes", 0.1, share=0.95, allow=(2, 4), cut=150, labels=30, shown=5)
    laws = ("logistic", "uniform", "generalised-normal", "exponential", "discrete-laplace")
    for seed, mechanism in enumerate(laws):
        yield answer("votes", 0.2, mechanism, "l1", 0.9, 300, seed)
        yield answer("softmax", None, mechanism, "l1", 0.7, 200, seed)
    for target, norm in product(EXTREMES, NORMS):
        yield answer("votes", target, norm=norm)


GENUINE = list(genuine())


def by_splitting() -> Iterator[dict[str, Any]]:
    """Answers by split noise."""
    for seed, (target, confidence) in enumerate(product((None, 0.2, 0.45), (1.0, 0.99))):
        norm = ("l1", "l2", "linf")[seed % 3]
        size = target and target / (1, 28, 784)[seed % 3]
        yield split_answer(size, norm, (0.97, 0.85)[seed % 2], seed, confidence=confidence)
    yield split_answer(None, labels=2, attacks=None, picture=(28, 40))
    yield split_answer(0.3, share=0.9, cut=100, shown=3)
    yield split_answer(0.3, share=0.9, cut=200, confidence=0.9, restarts=2)
    yield split_answer(None, share=0.0, scale=1.0)
    yield split_answer(0.6, share=0.99, scale=1.0, confidence=0.999)
    yield split_answer(0.1, share=1.0, allow=(1, 3))
    yield split_answer(0.1, share=0.95, allow=(2, 4), shown=2, confidence=0.99)
    for target, norm in product(EXTREMES, NORMS):
        yield split_answer(target, norm)


def by_boxes() -> Iterator[dict[str, Any]]:
    """Answers by intervals."""
    yield interval_answer()
    yield interval_answer(0.05, "l2", confidence=0.9)
    yield interval_answer(0.1, "l1", shown=2)
    yield interval_answer(radius=10**6, labels=2, picture=(28, 40), restarts=3)
    yield interval_answer(radius=-1, attacks=None)
    yield interval_answer(0.2, radius=0)
    yield interval_answer(0.1, allow=(1, 2))
    for target, norm in product((3.9, 1e6 / 3, *EXTREMES), NORMS):
        yield interval_answer(target, norm)
    yield interval_answer(0.1, labels=2, allow=(0, 1))
    yield interval_answer(0.05, allow=(3,))
    yield interval_answer(radius=77, cut=17, scale=1.0)


def first(document: Any) -> str:
    """The verdict of ``pixeldp verify``."""
    try:
        return "differs" if verification.verify(document) else "accepted"
    except MalformedAnswerError:
        return "malformed"


def second(document: Any) -> str:
    """The verdict of the second verifier."""
    try:
        return "differs" if second_verifier.verify(document) else "accepted"
    except second_verifier.MalformedError:
        return "malformed"


def replaced(part: Any, path: Way, change: Callable[[Any], Any]) -> Any:
    """A copy of ``part`` with one member changed; everything else is shared."""
    if not path:
        return change(part)
    copied = part.copy()
    copied[path[0]] = replaced(part[path[0]], path[1:], change)
    return copied


def without(name: Any) -> Callable[[Any], Any]:
    """Drop one member or entry."""

    def change(part: Any) -> Any:
        copied = part.copy()
        del copied[name]
        return copied

    return change


def single(document: Any, rng: random.Random) -> list[tuple[str, Any]]:
    """All alterations at one place: other values for every kind of leaf; removals, additions."""
    by_name: dict[str, list[Way]] = {}
    for path in leaves(document):
        by_name.setdefault(named(path), []).append(path)
    found: list[tuple[str, Any]] = []
    for name, paths in by_name.items():
        path = rng.choice(paths)
        value = at(document, path)
        for other in (*others(value), 10**400, 1e300, float("inf")):
            if type(other) is type(value) and other == value:
                continue
            if {type(other), type(value)} == {int, float} and other == value:
                continue
            found.append((name, (path, lambda _, other=other: other)))
    by_name.clear()
    for path, _ in containers(document):
        by_name.setdefault(named(path), []).append(path)
    for paths in by_name.values():
        path = rng.choice(paths)
        found += list(contents(at(document, path), path))
    return found


def contents(part: Any, path: Way) -> Iterator[tuple[str, Any]]:
    """Removals, additions and swaps in an object or a list."""
    if isinstance(part, dict):
        for key in part:
            yield named((*path, key)), (path, without(key))
        yield named((*path, "further")), (path, lambda value: value | {"further": 1})
        return
    if part:
        yield named((*path, 0)), (path, without(0))
        yield named((*path, 0)), (path, lambda value: value[:-1])
        yield named((*path, 0)), (path, lambda value: [*value, value[-1]])
    if part != part[::-1]:
        yield named((*path, 0)), (path, lambda value: value[::-1])
        yield named((*path, 0)), (path, lambda value: [*value[1:], value[0]])


def several(document: Any, rng: random.Random) -> Any:
    """Alter several leaves at once."""
    paths = list(leaves(document))
    for path in rng.sample(paths, rng.randint(2, 4)):
        other = rng.choice(list(others(at(document, path))))
        document = replaced(document, path, lambda _, other=other: other)
    return document


def counted_otherwise(document: Any, rng: random.Random) -> Any:
    """Move scores from one label to another, in all tallies that hold them or only in one."""
    evidence = document["evidence"]
    unit = evidence["denominator"]
    tallies = [("evidence",), ("evidence", "pilot"), ("evidence", "total")]
    chosen = rng.choice([[tallies[0], tallies[2]], [tallies[1], tallies[2]], [tallies[2]], tallies])
    labels = len(evidence["sums"])
    top = sorted(range(labels), key=lambda label: -evidence["total"]["sums"][label])[:4]
    giver, taker = rng.sample(top, 2)
    amount = rng.choice((1, 2, 5, 20))
    for tally in chosen:
        for kind in ("sums", "sums_of_squares"):
            much = amount * unit * (unit if kind == "sums_of_squares" else 1)
            for label, sign in ((giver, -1), (taker, 1)):
                document = replaced(
                    document, (*tally, kind, label), lambda value, by=sign * much: value + by
                )
    return document


def asked_otherwise(document: Any, rng: random.Random) -> Any:
    """Alter some of the question, and some of what is only the service's word, within its range."""
    choices: dict[Way, tuple[Any, ...]] = {
        ("target",): (None, 0.05, 0.3, 1.0, 5.0),
        ("norm",): ("l1", "l2", "linf"),
        ("confidence",): (0.5, 0.9, 0.999999, 1 - 1e-12, 0.05),
        ("budget", "granted"): (64, 100, 160, 250, 1000, 8_000_000),
        ("noise", "scale"): (0.01, 0.3, 7.0, 1e6),
        ("noise", "sensitivity"): (0.003, 1.0, 40.0),
        ("noise", "norm"): ("l1", "l2", "linf"),
        ("noise", "mechanism"): ADDITIVE,
        ("picture", "width"): (1, 28, 29, 333, 16_384),
        ("picture", "height"): (1, 28, 29, 333, 1500),
        ("picture", "mode"): ("L", "RGB"),
        ("evidence", "input_shape"): ([1, 28, 28], [3, 32, 32], [3, 60, 7], [2, 28, 28], [1, 5, 9]),
        ("evidence", "restarts"): (0, 1, 2, 30),
        ("evidence", "allow"): (None, [0], [1, 3], [0, 2, 3], [3, 1], [], [0, 10**6]),
        ("evidence", "tau"): (0.0, 1e-9, 0.01, 0.3),
        ("evidence", "rho"): (0.0, 1e-6, 0.2),
        ("evidence", "bound"): ("betting", "clopper-pearson", "majority"),
        ("evidence", "sensitivities", -1, "value"): (0.1, 3.0, 500.0),
        ("evidence", "sensitivities", -1, "source"): ("l1", "linf"),
    }
    for path in rng.sample(list(choices), rng.randint(1, 3)):
        document = replaced(document, path, lambda _, path=path: rng.choice(choices[path]))
    budget = max(document["budget"]["asked"], document["budget"]["granted"])
    return replaced(document, ("budget", "asked"), lambda _: budget)


def as_it_follows(document: Any) -> Any:
    """Compute everything that follows again, where that is possible."""
    document = json.loads(json.dumps(document))
    picture, noise, evidence = document["picture"], document["noise"], document["evidence"]
    own = "l2" if noise["mechanism"] == "gaussian" else "l1"
    for entry in evidence["sensitivities"]:
        if entry["target"] == own:
            entry["rho"] = evidence["rho"]
    try:
        made = plan(
            *(picture[name] for name in ("width", "height", "mode", "bits")),
            tuple(evidence["input_shape"]),
        )
        document["preprocessing"] = {
            "steps": list(made.steps),
            "sensitivity": made.sensitivity(noise["norm"], noise["norm"]),
        }
        attacks = document["attacks"]
        count = attacks and len(attacks["sizes"])
        conclusion = follow(verification._findings(document), len(document["scores"]), count)
    except (CannotCertify, ValueError, KeyError):  # or the law has no such certificate
        return document
    names = {score["index"]: score["name"] for score in document["scores"]}
    for score in conclusion.scores:
        names.setdefault(score.index, f"label {score.index}")
    follows = verification._expected(document, conclusion)
    follows["label"]["name"] = names[conclusion.label]
    for score in follows["scores"]:
        score["name"] = names[score["index"]]
    for part in ("budget", "evidence"):
        follows[part] = document[part] | follows[part]
    parsed: Any = json.loads(json.dumps(document | follows))
    return parsed


def altered(rng: random.Random, many: int) -> Iterator[tuple[str | None, Any]]:
    """Altered answers, each with the altered member if there was only one."""
    each = many // len(GENUINE)
    for document in GENUINE:
        places = single(document, rng)
        chosen = rng.sample(places, min(len(places), each * 7 // 10))
        for name, (path, change) in chosen:
            yield name, replaced(document, path, change)
        for number in range(each - len(chosen)):
            if number % 4 == 0:
                yield None, several(document, rng)
            else:
                change = (counted_otherwise, asked_otherwise)[number % 2]
                moved = change(document, rng)
                yield None, moved if number % 4 == 1 else as_it_follows(moved)


def test_it_imports_nothing_of_the_project() -> None:
    tree = ast.parse(FILE.read_text())
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    tops = {name.split(".")[0] for name in imported}
    assert tops <= sys.stdlib_module_names | {"numpy", "scipy"}
    assert not {"importlib", "runpy", "subprocess"} & tops
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not {"exec", "eval", "__import__"} & called


def test_the_members_are_those_of_the_services_answers() -> None:
    def compare(schema: Any, model: Any) -> None:
        fields = getattr(model, "model_fields", None)
        if fields is None or not isinstance(schema, dict):
            return
        assert schema.keys() == fields.keys(), model
        for name, field in fields.items():
            compare(schema[name], field.annotation)

    compare(verification._ANSWER, Answer)
    compare(second_verifier.SCHEMA, Answer)
    compare(verification._STICKER_ANSWER, StickerAnswer)
    compare(second_verifier.STICKER_SCHEMA, StickerAnswer)


@pytest.mark.parametrize("make", [split_answer, interval_answer])
@pytest.mark.parametrize("sides", [(56, 56), (14, 14), (40, 29)])
def test_both_refuse_laws_without_added_noise_for_pictures_that_are_resized(
    make: Callable[..., dict[str, Any]], sides: tuple[int, int]
) -> None:
    document = make(picture=sides)
    assert first(document) == second(document) == "differs"
    document["noise"]["sensitivity"] = 1 / document["preprocessing"]["sensitivity"]
    assert first(document) == second(document) == "differs"
    document["noise"]["sensitivity"] = document["preprocessing"]["sensitivity"] = 1
    assert first(document) == second(document) == "differs"


def test_both_accept_answers_of_every_kind() -> None:
    ways = set()
    for document in GENUINE:
        assert verification.verify(document) == []
        assert second_verifier.verify(document) == []
        ways.add(document["stopped"])
    assert ways == {"target_certified", "max_draws", "target_out_of_reach", "deadline"}


@pytest.mark.slow
def test_both_judge_altered_answers_alike() -> None:
    verdicts: Counter[str] = Counter()
    for name, document in altered(random.Random(14), ALTERED):
        verdict = first(document)
        assert second(document) == verdict, (name, verdict, json.dumps(document))
        # The client asks for a number of scores, so fewer of them may be a valid answer, too.
        if name not in (None, "scores[]") and not is_word(name):
            assert verdict != "accepted", (name, json.dumps(document))
        verdicts[verdict] += 1
    assert verdicts.total() >= ALTERED - len(GENUINE)
    # Both verdicts are frequent: agreeing to refuse everything would show nothing.
    assert min(verdicts[verdict] for verdict in ("accepted", "differs", "malformed")) > 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"evidence": null}',
        '{"a": 1, "a": 1}',
        "[" * 100_000,
        "1" * 5000,
        b"\xff\x00",
    ],
)
def test_both_refuse_files_that_are_not_answers(text: str | bytes) -> None:
    for parse, verify, error in (
        (verification.parse, verification.verify, MalformedAnswerError),
        (second_verifier.parse, second_verifier.verify, second_verifier.MalformedError),
    ):
        with pytest.raises(error):
            verify(parse(text))


def test_a_repeated_member_is_refused() -> None:
    text = json.dumps(GENUINE[0])
    twice = text[:-1] + ', "robust": true}'
    assert second_verifier.verify(second_verifier.parse(text)) == []
    for parse, error in (
        (verification.parse, MalformedAnswerError),
        (second_verifier.parse, second_verifier.MalformedError),
    ):
        with pytest.raises(error, match="twice"):
            parse(twice)


def test_its_command_line(tmp_path: Path) -> None:
    file = tmp_path / "answer.json"

    def run(text: str) -> tuple[int, str, str]:
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-P", str(FILE), str(file)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        return done.returncode, done.stdout, done.stderr

    status, out, _ = run(json.dumps(GENUINE[0]))
    assert (status, "only the service's word" in out) == (0, True)
    status, out, _ = run(json.dumps(GENUINE[0] | {"draws": 1}))
    assert (status, "draws: it says 1" in out) == (1, True)
    status, _, err = run("{}")
    assert (status, err.count("\n")) == (2, 1)


def sticker_answer(
    agree: float,
    seed: int,
    made: int | None = None,
    side: int = 5,
    picture: tuple[int, int, str] = (28, 28, "L"),
    shape: tuple[int, int, int] = (1, 28, 28),
    shown: int = 4,
) -> dict[str, Any]:
    """The JSON of an answer about stickers, from made-up views."""
    rng = random.Random(seed)
    preparation = plan(*picture, 8, shape)
    masks = masks_for(preparation, side, 2)
    inquiry = StickerInquiry(Question(1.0, 64, float(side), "l2", masks=2), masks, 4)
    while not inquiry.stopped:
        numbers = inquiry.numbers(inquiry.draws, max(inquiry.wanted, 1))
        votes = [2 if rng.random() < agree else rng.randrange(-1, 4) for _ in numbers]
        inquiry.add(np.array(votes[: made and made - inquiry.draws]))
        if made and inquiry.draws >= made:
            inquiry.cut()
    found = conclude(inquiry, shown)
    names = ["zero", "one", "two", "three"]
    label = {"index": found.label, "name": names[found.label]}
    evidence, rest = asdict(found.evidence), answer(max_draws=64)
    masked = {name: evidence[name] for name in ("rows", "columns")}
    document = {
        **{name: rest[name] for name in ("model", "compute", "timing_ms")},
        "threat": "sticker",
        "label": label,
        "robust": found.certified,
        "sticker": {"certified": found.certified, "label": label, "side": side},
        "target": side,
        "confidence": 1,
        "draws": found.draws,
        "budget": {"asked": 10, "granted": 10, "reachable": True},
        "stopped": found.stopped,
        "scores": [
            {"name": names[one.index], **asdict(one), "attacked": None} for one in found.scores
        ],
        "certificate": {"method": "two-masks", "masks": masked, "views": 10},
        "picture": {"width": picture[0], "height": picture[1], "mode": picture[2], "bits": 8},
        "preprocessing": {"steps": list(preparation.steps)},
        "evidence": {**evidence, "input_shape": list(shape)},
    }
    parsed: dict[str, Any] = json.loads(json.dumps(document))
    return parsed


def about_stickers() -> Iterator[dict[str, Any]]:
    """Answers about stickers: certified, refuted in either round, cut short; resized, cropped."""
    yield sticker_answer(1.0, 0)
    yield sticker_answer(1.0, 0, made=4, shown=2)
    yield from (sticker_answer(0.8, seed, shown=1 + seed % 4) for seed in range(1, 5))
    yield sticker_answer(1.0, 5, picture=(63, 50, "RGB"))
    yield sticker_answer(0.7, 6, side=2, picture=(14, 40, "L"), shape=(3, 28, 20))


def test_both_judge_answers_about_stickers_alike() -> None:
    rng = random.Random(2)
    verdicts, ways = Counter[str](), set()
    for document in about_stickers():
        assert (first(document), second(document)) == ("accepted", "accepted")
        ways.add(document["stopped"])
        for name, (path, change) in rng.sample(single(document, rng), 150):
            altered = replaced(document, path, change)
            verdict = first(altered)
            assert second(altered) == verdict, (name, json.dumps(altered))
            if not is_word(name) and name != "scores[]":
                assert verdict != "accepted", (name, json.dumps(altered))
            verdicts[verdict] += 1
    assert ways == {"target_certified", "target_out_of_reach", "deadline"}
    assert min(verdicts["malformed"], verdicts["differs"], verdicts["accepted"]) > 20


def test_threats_are_not_mixed() -> None:
    """An answer about one threat is none about the other, and masks must cover every place."""
    document = sticker_answer(1.0, 0)
    for mixed in (
        document | {"threat": "norm"},
        document | {"certified_size": 0.5, "norm": "l2"},
        GENUINE[0] | {"threat": "sticker"},
        GENUINE[0] | {"sticker": document["sticker"]},
    ):
        assert first(mixed) == second(mixed) == "malformed"
    larger = replaced(document, ("evidence", "side"), lambda _: 6)
    for path in (("target",), ("sticker", "side")):
        larger = replaced(larger, path, lambda _: 6)
    assert first(larger) == second(larger) == "differs"


@pytest.mark.parametrize("answers", [by_splitting, by_boxes])
def test_both_judge_answers_without_added_noise_alike(
    answers: Callable[[], Iterator[dict[str, Any]]],
) -> None:
    rng = random.Random(1)
    verdicts = Counter[str]()
    for document in answers():
        assert (first(document), second(document)) == ("accepted", "accepted")
        for name, (path, change) in rng.sample(single(document, rng), 150):
            altered = replaced(document, path, change)
            verdict = first(altered)
            assert second(altered) == verdict, (name, json.dumps(altered)[:2000])
            verdicts[verdict] += 1
    assert min(verdicts["malformed"], verdicts["differs"], verdicts["accepted"]) > 20

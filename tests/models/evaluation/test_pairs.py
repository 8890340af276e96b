"""Pairs of h's: what int8 costs beside float32, and how often two h's disagree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.answering import answer_all
from models.bundle import read_bundle
from models.certification.question import Question
from models.data.datasets import DataSet
from models.evaluation.evaluate import Running, evaluate, record
from models.evaluation.figures import interval
from models.evaluation.pairs import certify, compare_int8, disagreements, run_as
from models.execution import Execution, ProviderError
from models.loaded import load_model
from tests.conftest import HAS_COMPILER

RADII = (0.05, 0.15, 0.3)
DRAWS, SEED, ROWS = 128, 5, 64


def test_each_share_is_that_of_an_evaluation_in_its_format(
    bundle: Path, digits: DataSet, tmp_path: Path
) -> None:
    read = read_bundle(bundle)
    question = Question(0.99, DRAWS, None, "l2")
    spec = compare_int8(
        load_model(read),
        digits,
        question,
        RADII,
        dataset="digits",
        pass_size=ROWS,
        seed=SEED,
    )
    found = spec.record
    assert found is not None
    assert (found.dataset, found.pictures, found.norm) == ("digits", len(digits), "l2")
    assert (found.max_draws, found.confidence) == (DRAWS, 0.99)
    assert 0 <= found.labels_differ < 0.2
    assert not spec.serves, "so few pictures say too little"
    options = {"max_draws": DRAWS, "confidence": 0.99, "radii": RADII}
    plain = evaluate(
        read, digits, running=Running("cpu", "float32", ROWS, SEED, "openvino"), **options
    )
    before = read.manifest
    try:
        record(bundle, plain, spec)
        with_scales = read_bundle(bundle)
        assert with_scales.manifest.int8 == spec
        assert evaluate(with_scales, digits, **options, running=Running(pass_size=ROWS)).precision
        rounded = evaluate(
            with_scales, digits, running=Running("cpu", "int8", ROWS, SEED), **options
        )
        record(bundle, rounded)
        assert read_bundle(bundle).manifest.int8 == spec, "other figures leave the record"
    finally:
        from models.bundle import write_manifest

        write_manifest(bundle, before)
    assert (rounded.provider, rounded.precision) == ("openvino", "int8")
    for index, at in enumerate(found.certified):
        assert at.radius == RADII[index]
        assert at.float32 == pytest.approx(plain.certified[index].accuracy)
        assert at.int8 == pytest.approx(rounded.certified[index].accuracy)
    assert found.lost == pytest.approx(max(at.float32 - at.int8 for at in found.certified))


def test_disagreements_are_those_of_answers_one_by_one(bundle: Path, digits: DataSet) -> None:
    few, question = digits.every(2), Question(0.99, DRAWS, None, "l2")
    model = load_model(bundle)
    smaller = Execution("pytorch", "float32", 32, False)
    other = Execution("openvino", "float32", ROWS, False)
    evaluated = run_as(model, "cpu", Execution("pytorch", "float32", ROWS, False), SEED)
    answers = certify(evaluated, few.images, question, "")
    found = disagreements(
        model, evaluated, answers, few.images, question, RADII, [other, smaller, other], SEED
    )
    names = [(pair.one, pair.other, pair.same_noise) for pair in found]
    own = evaluated.execution
    assert names == [
        (own.name, own.name, False),
        (own.name, other.name, True),
        (own.name, smaller.name, False),
        (other.name, smaller.name, False),
    ]
    # The same network with the same noise: only the last bits of sums differ.
    assert found[1].labels <= 0.05
    assert found[0].robust[1].share > 0, "other noise moves some pictures over the threshold"
    for pair, way in zip(found[1:3], (other, smaller), strict=True):
        predictor = run_as(model, "cpu", way, SEED)
        drawn = dict(answer_all(predictor, few.images, question))
        leaders = np.array([drawn[index].total.leader for index in range(len(few))])
        robust = np.array([drawn[index].size >= RADII[1] for index in range(len(few))])
        differ = int((leaders != answers.leaders).sum())
        assert pair.labels == differ / len(few)
        assert pair.labels_interval == interval(differ, len(few))
        assert pair.robust[1].share == (robust != (answers.sizes >= RADII[1])).mean()


@pytest.mark.slow
def test_a_compiled_h_draws_the_same_noise(bundle: Path, digits: DataSet) -> None:
    """This holds although its trial takes other draws."""
    model = load_model(bundle)
    way = Execution("pytorch", "float32", 32, True)
    if not HAS_COMPILER:
        with pytest.raises(ProviderError, match="pytorch/float32/32/true: "):
            run_as(model, "cpu", way, SEED)
        return
    eager, compiled = (
        run_as(model, "cpu", replace(way, compiled=one), SEED) for one in (False, True)
    )
    features = [eager.encode(digits.images[0]).features]
    rows = np.zeros(32, dtype=np.intp)
    assert torch.equal(eager.noisy(features, rows), compiled.noisy(features, rows))

"""int8 is compared with float32 in pairs."""

from pathlib import Path

import pytest

from models.bundle import read_bundle
from models.certification.question import Question
from models.data.datasets import DataSet
from models.evaluation.evaluate import Running, evaluate, record
from models.evaluation.pairs import compare_int8
from models.loaded import load_model

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

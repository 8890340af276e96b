"""Calibration chooses what is asked for, and otherwise what measures best."""

from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, Manifest, read_bundle
from models.calibration import PASS_SIZES, calibrate
from models.pixeldp import build_network, save_network
from models.precision import PRECISIONS
from models.predictor import Predictor
from tests.models.test_bundle import DESCRIPTION


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))
    return read_bundle(tmp_path)


def test_what_is_asked_for_is_kept(bundle: Bundle) -> None:
    predictor, calibration = calibrate(bundle, "cpu", "bfloat16", 96)
    assert (calibration.precision, calibration.pass_size) == ("bfloat16", 96)
    assert (predictor.precision, predictor.pass_size) == ("bfloat16", 96)
    assert calibration.draws_per_second > 0


def test_the_fastest_is_chosen(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {
        ("float32", 256): 100.0,
        ("bfloat16", 128): 940.0,
        ("bfloat16", 256): 960.0,
        ("bfloat16", 512): 1000.0,
    }

    def measure(self: Predictor, seconds: float) -> float:
        return speeds[self.precision, self.pass_size]

    monkeypatch.setattr(Predictor, "measure", measure)
    predictor, calibration = calibrate(bundle, "cpu", None, None)
    # 960 is within 5 % of the best; 940 is not.
    assert (calibration.precision, calibration.pass_size) == ("bfloat16", 256)
    assert calibration.draws_per_second == 960.0
    assert predictor.pass_size == 256


def test_by_measuring(bundle: Bundle) -> None:
    predictor, calibration = calibrate(bundle, "cpu", None, None)
    assert calibration.precision in PRECISIONS
    assert calibration.pass_size in PASS_SIZES["cpu"]
    features = predictor.encode(np.zeros((8, 8, 1), np.uint8)).features
    scores = predictor.run([features], np.zeros(calibration.pass_size, dtype=np.intp))
    assert len(scores) == calibration.pass_size

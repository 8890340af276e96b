"""A model is loaded once, whatever is then made from it."""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.bundle import BundleError, Manifest, read_bundle
from models.calibration import calibrate
from models.execution import PRECISIONS
from models.loaded import load_model
from models.network import build_network, save_network
from models.predictor import Predictor
from tests.models.test_bundle import DESCRIPTION, RESIDUAL


@pytest.fixture(params=[DESCRIPTION, RESIDUAL], ids=["image", "residual"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    manifest = Manifest.model_validate(request.param)
    save_network(tmp_path / "model", manifest, build_network(manifest))
    return tmp_path / "model"


class Opened:
    """Records which files this process opens, by any function."""

    def __init__(self) -> None:
        self.files: Counter[str] | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.files is not None and event == "open":
            self.files[os.path.basename(str(arguments[0]))] += 1


OPENED = Opened()


def test_each_file_is_read_once(folder: Path) -> None:
    OPENED.files = found = Counter()
    try:
        calibrate(load_model(folder), "cpu", None, 8)
    finally:
        OPENED.files = None
    assert found["model.json"] == found["weights.safetensors"] == 1


def test_everything_is_made_from_the_loaded_model(folder: Path) -> None:
    model = load_model(folder)
    shutil.rmtree(folder)
    predictor, found = calibrate(model, "cpu", None, None)
    channels, height, width = model.manifest.input.shape
    features = predictor.encode(np.zeros((height, width, channels), np.uint8)).features
    assert predictor.run([features], np.zeros(found.pass_size, np.intp)).shape[0] > 0


def test_predictors_do_not_share_h(folder: Path) -> None:
    model = load_model(folder)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    noisy = torch.zeros(8, *model.feature_shape)
    expected = Predictor(model, 8).logits(noisy)
    spoilt = Predictor(model, 8)
    for tensor in spoilt.resident.network.parameters():  # type: ignore[attr-defined]
        tensor.zero_()
    for precision in PRECISIONS:
        Predictor(model, 8, precision=precision).logits(noisy)
    assert torch.equal(Predictor(model, 8).logits(noisy), expected)
    after = model.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert {value.dtype for value in after.values()} <= {torch.float32, torch.int64}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_regular_files_are_read(folder: Path, name: str, kind: str) -> None:
    """A pipe would block its reader for ever, and /dev/zero would fill its memory."""
    file = folder / name
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")
    reason = "is a link that leads out" if kind == "device" else "is not a regular file"
    for read in (load_model, read_bundle):
        with pytest.raises(BundleError, match=rf"{name}: file: {reason}"):
            read(folder)

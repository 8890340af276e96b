"""A device proves that it draws the right noise, and fresh noise, before it serves."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.bundle import Bundle
from models.device import Device, DeviceError
from models.loaded import load_model
from models.predictor import Predictor
from models.torch_device import CpuDevice
from service.engine import worker
from tests.models.faulty import FaultyDevice, Varied
from tests.models.test_predictor import SLOTS, make
from tests.service.engine.test_worker import bundle as bundle
from tests.service.engine.test_worker import model, pinned

FORMS: dict[str, dict[str, Any]] = {
    "in the image": {},
    "after a layer": {"placement": "layer1"},
    "laplace": {"mechanism": "laplace"},
}


def on(device: Device, folder: Path, **noise: Any) -> Predictor:
    make(folder, **noise)
    return Predictor(load_model(folder), SLOTS, device)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [CpuDevice, FaultyDevice])
def test_a_sound_device_proves_itself(tmp_path: Path, form: str, kind: Any) -> None:
    on(kind(), tmp_path, **FORMS[form]).prove()


@pytest.mark.parametrize("form", FORMS)
def test_wrong_noise_in_one_coordinate_is_found(tmp_path: Path, form: str) -> None:
    device = FaultyDevice()

    def alter(noisy: torch.Tensor) -> None:
        step = predictor.noise.step
        noisy.view(-1)[-1] += step

    predictor = on(device, tmp_path, **FORMS[form])
    device.alter = alter
    with pytest.raises(DeviceError, match="other noise than it should, in 1 of"):
        predictor.prove()


def test_a_wrong_table_is_found(tmp_path: Path) -> None:
    """As after a flip of a bit in the memory of a device: the reference uses no table."""
    predictor = on(CpuDevice(), tmp_path)
    predictor.noise.on_grid[2**15 + 2**12] ^= 1
    with pytest.raises(DeviceError, match="other noise than it should"):
        predictor.prove()


@pytest.mark.parametrize("fault", ["repeats_noise", "repeats_passes"])
def test_repeated_noise_is_found(tmp_path: Path, fault: str) -> None:
    device = FaultyDevice()
    predictor = on(device, tmp_path)
    setattr(device, fault, True)
    with pytest.raises(DeviceError, match="repeated an earlier pass, or its noise"):
        predictor.prove()


def test_draws_of_other_noise_than_the_key_makes_are_found(tmp_path: Path) -> None:
    """A pass draws otherwise than what is compared with the reference."""
    device = FaultyDevice()
    predictor = on(device, tmp_path)
    predictor.resident.network = Varied(predictor)
    made: list[int] = []

    def alter(noisy: torch.Tensor) -> None:
        made.append(len(noisy))
        if made.count(SLOTS) == 2:  # the second pass, which has fewer rows than what is compared
            noisy.neg_()

    device.alter = alter
    with pytest.raises(DeviceError, match="not those of the noise by its key"):
        predictor.prove()


def test_a_worker_serves_nothing_on_a_device_that_fails(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: CpuDevice) -> None:
        raise DeviceError("AES-256 is wrong")

    monkeypatch.setattr(CpuDevice, "check", fail)
    for asked in (model(bundle, 64), pinned(bundle, "pytorch", "float32", 16, False)):
        with pytest.raises(DeviceError, match="AES-256 is wrong"):
            worker.load("cpu", asked)

"""Tests that need a GPU; collected only if there is one."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import ZOO
from models.cuda.device import CudaDevice, CudaResident
from models.device import DeviceError, open_device
from models.loaded import load_model
from models.noise import Features, GridNoise
from models.predictor import Predictor
from tests.models.cuda.test_tables import GRIDS, IDS
from tests.models.test_predictor import make, pixels

pytestmark = pytest.mark.cuda
GPU = "cuda:0"


@pytest.fixture(scope="module")
def device() -> CudaDevice:
    found = open_device(GPU)
    assert isinstance(found, CudaDevice)
    return found


def test_a_gpu_passes_its_own_check(device: CudaDevice) -> None:
    device.check()


@pytest.mark.parametrize("law", GRIDS, ids=IDS)
@pytest.mark.parametrize("bits", [8, 16])
def test_the_kernel_draws_what_the_reference_draws(
    device: CudaDevice, law: tuple[str, float, float, float], bits: int
) -> None:
    noise = GridNoise(*law)  # type: ignore[arg-type]
    resident = Predictor(load_model(ZOO / "cifar10-resnet"), 256, device).resident
    assert isinstance(resident, CudaResident)
    resident.noise = resident._grid = noise
    resident._laid = device.lay(noise)
    picture = Features(np.arange(3072, dtype=np.int32) % 256, on_grid=bits == 8)
    rows = np.zeros(256, np.intp)
    key = os.urandom(32)
    noisy = resident.noisy([picture], rows, key).cpu().numpy().reshape(256, -1)
    steps = resident.reference([picture], rows, key)
    assert np.array_equal(noisy, steps.astype(np.float32) * np.float32(noise.step))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mnist-cnn", "cifar10-resnet"])
def test_rows_are_independent_in_the_graph_that_serves(
    device: CudaDevice, name: str, precision: str
) -> None:
    for rows in (8, 256, 1024):
        predictor = Predictor(load_model(ZOO / name), rows, device, precision)  # type: ignore[arg-type]
        predictor.try_rows(alone=4)
        assert not predictor.resident.launched  # type: ignore[attr-defined]


def test_passes_are_h_of_the_noise_of_their_key_and_number(
    device: CudaDevice, tmp_path: Path
) -> None:
    make(tmp_path)
    predictor = Predictor(load_model(tmp_path), 64, device)
    resident = predictor.resident
    assert isinstance(resident, CudaResident)
    pictures = [predictor.encode(pixels(seed)).features for seed in range(3)]
    rows = np.arange(64) % 3
    flying = [resident.submit(pictures, rows, os.urandom(32)) for _ in range(20)]
    for one in flying:
        votes = one.votes()
        number = one._issued.result().number  # type: ignore[attr-defined]
        steps = torch.from_numpy(resident._steps_of(pictures, rows, one.key, number)).float()
        noisy = (steps * predictor.noise.step).reshape(64, 1, 8, 8)
        assert np.array_equal(votes, resident.logits(noisy.to(GPU)).argmax(1).numpy())


def test_a_thousand_passes_with_one_key_all_differ(device: CudaDevice) -> None:
    predictor = Predictor(load_model(ZOO / "mnist-cnn"), 8, device)
    resident = predictor.resident
    black = Features(np.zeros(784, np.int32), on_grid=True)
    seen = set()
    for _ in range(1000):
        resident.submit([black], np.zeros(8, np.intp), bytes(32)).votes()
        graphed = resident._sizes.find(8)  # type: ignore[attr-defined]
        seen.add(graphed.noisy.cpu().numpy().tobytes())
    assert len(seen) == 1000


def test_a_submission_waits_for_nothing(device: CudaDevice) -> None:
    """PyTorch itself raises if anything synchronises."""
    predictor = Predictor(load_model(ZOO / "mnist-cnn"), 64, device, "bfloat16")
    black = Features(np.zeros(784, np.int32), on_grid=True)
    rows = np.zeros(64, np.intp)
    for _ in range(3):
        predictor.run([black], rows)

    def submit() -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            predictor.submit([black], rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    before = torch.cuda.memory_stats(GPU)["allocation.all.allocated"]
    device.call(submit)
    assert torch.cuda.memory_stats(GPU)["allocation.all.allocated"] == before


def test_running_out_of_memory_leaves_the_device_usable(device: CudaDevice) -> None:
    predictor = Predictor(load_model(ZOO / "cifar10-resnet"), 64, device)
    with pytest.raises(torch.OutOfMemoryError):
        predictor.resident.prepare(1 << 25)
    device.free()
    black = Features(np.zeros(3072, np.int32), on_grid=True)
    assert len(predictor.run([black], np.zeros(64, np.intp))) == 64


def test_a_copy_that_never_arrived_is_noticed(device: CudaDevice) -> None:
    predictor = Predictor(load_model(ZOO / "mnist-cnn"), 16, device)
    black = Features(np.zeros(784, np.int32), on_grid=True)
    rows = np.zeros(16, np.intp)
    predictor.run([black], rows)
    graphed = predictor.resident._sizes.find(16)  # type: ignore[attr-defined]
    graphed._given = graphed._given.clone()
    with pytest.raises(DeviceError, match="repeated an earlier pass"):
        predictor.run([black], rows)

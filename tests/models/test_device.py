"""Devices: passes in order, in a separate thread, and what they leave behind."""

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.device import DeviceError, Submitted, open_device
from models.predictor import Predictor
from models.torch_device import CpuDevice
from tests.models.test_predictor import SLOTS, make, pixels

ROWS = np.zeros(SLOTS, dtype=np.intp)


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return make(tmp_path)


class Watched(nn.Module):
    """h that calls ``before`` with each noisy pass."""

    def __init__(self, network: nn.Module, before: Any) -> None:
        super().__init__()
        self.network, self.before = network, before

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        self.before(noisy)
        logits: torch.Tensor = self.network(noisy)
        return logits


def test_a_device_has_one_object_in_a_process() -> None:
    cpu = open_device("cpu")
    assert open_device("cpu") is cpu
    assert open_device(cpu) is cpu
    assert cpu.name == "cpu"


def test_passes_are_made_in_the_order_of_submission_in_one_thread(predictor: Predictor) -> None:
    go_on, seen, threads = threading.Event(), [], set()

    def before(noisy: torch.Tensor) -> None:
        assert go_on.wait(60)
        seen.append(len(seen))
        threads.add(threading.current_thread())

    predictor.resident.network = Watched(predictor.resident.network, before)
    features = [predictor.encode(pixels(1)).features]
    flying = [predictor.submit(features, ROWS) for _ in range(3)]
    assert not any(one.handle.done for one in flying)
    called: list[int] = []
    meanwhile = threading.Thread(target=lambda: predictor.on.call(lambda: called.extend(seen)))
    go_on.set()
    flying[-1].votes()
    assert all(one.handle.done for one in flying)
    meanwhile.start()
    meanwhile.join(60)
    assert called == seen == [0, 1, 2], "what is done between passes comes after those before it"
    assert threads.isdisjoint({threading.current_thread(), meanwhile})
    assert len(threads) == 1


def test_passes_may_be_made_inside_the_thread(predictor: Predictor) -> None:
    features = [predictor.encode(pixels(1)).features]
    votes = predictor.on.call(lambda: predictor.run(features, ROWS))
    assert (votes == predictor.run(features, ROWS)).all(), "the key is the same"


def test_the_thread_computes_with_as_many_threads_as_its_maker() -> None:
    before = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert CpuDevice().call(torch.get_num_threads) == number
    finally:
        torch.set_num_threads(before)


def test_a_pass_that_did_not_fit_keeps_no_memory(predictor: Predictor) -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def full(noisy: torch.Tensor) -> None:
        kept.append(weakref.ref(noisy))
        raise torch.OutOfMemoryError("out of memory")

    predictor.resident.network = Watched(predictor.resident.network, full)
    submitted = predictor.submit([predictor.encode(pixels(1)).features], ROWS)
    with pytest.raises(torch.OutOfMemoryError):
        submitted.votes()
    predictor.on.free()
    gc.collect()
    assert kept[0]() is None


def test_a_pass_of_another_key_is_refused(predictor: Predictor) -> None:
    given = predictor.submit([predictor.encode(pixels(1)).features], ROWS)
    given.votes()
    with pytest.raises(DeviceError, match="repeated an earlier pass"):
        Submitted(given.handle, bytes(32)).votes()


def test_only_a_failed_pass_is_repeated(predictor: Predictor) -> None:
    submitted = predictor.submit([predictor.encode(pixels(1)).features], ROWS)
    submitted.votes()
    with pytest.raises(ValueError, match="only a pass in which h has failed"):
        submitted.handle.again(slice(0, 8))


def test_a_device_that_cannot_draw_noise_has_failed(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("tables are gone")

    monkeypatch.setattr(predictor.noise, "draw", fail)
    with pytest.raises(DeviceError, match="ZeroDivisionError: tables are gone"):
        predictor.run([predictor.encode(pixels(1)).features], ROWS)


def test_the_arithmetic_behind_noise_is_checked() -> None:
    CpuDevice().check()


def test_a_processor_says_how_much_memory_it_has() -> None:
    used, total = open_device("cpu").memory()
    assert 2**24 < used < total

"""Networks run while PyTorch traces another one in another thread."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import undisturbed
from models.loaded import load_model
from models.predictor import Predictor
from tests.service.engine.test_loop import load


class Waiting(nn.Module):
    """A network whose tracing lasts until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()

    def forward(self, given: Tensor) -> Tensor:
        self.begun.set()
        assert self.may_end.wait(60)
        return given


@pytest.fixture
def traced() -> Iterator[Waiting]:
    """Another network that is being traced."""
    network = Waiting()
    thread = threading.Thread(target=torch.fx.symbolic_trace, args=[network])
    thread.start()
    assert network.begun.wait(60)
    yield network
    network.may_end.set()
    thread.join()


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(tmp_path_factory.mktemp("undisturbed"))


def draw(predictor: Predictor) -> Callable[[], object]:
    shape = predictor.manifest.input.shape
    encoded = predictor.encode(np.zeros((shape[1], shape[2], shape[0]), np.uint8))
    features, rows = [encoded.features], np.zeros(predictor.pass_size, dtype=np.intp)
    return lambda: predictor.run(features, rows)


def encode(predictor: Predictor) -> Callable[[], object]:
    shape = predictor.manifest.input.shape
    prepared = np.zeros(shape)
    preparation = predictor.plan((shape[1], shape[2], shape[0]), 8)
    return lambda: predictor.encode_prepared(prepared, preparation)


def load_again(predictor: Predictor) -> Callable[[], object]:
    path: Path = predictor.bundle.path
    return lambda: load_model(path)


@pytest.mark.parametrize("work", [draw, encode, load_again])
def test_what_needs_a_network_waits_for_the_end_of_the_trace(
    predictor: Predictor,
    traced: Waiting,
    work: Callable[[Predictor], Callable[[], object]],
) -> None:
    do = work(predictor)
    with ThreadPoolExecutor() as pool:
        done = pool.submit(do)
        with pytest.raises(TimeoutError):
            done.result(0.3)
        traced.may_end.set()
        assert done.result(60) is not None


def test_it_does_not_wait_for_ever(traced: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undisturbed, "_LONGEST_SECONDS", 0.01)
    with pytest.raises(NameError, match="not installed as a submodule"):
        undisturbed.call(nn.Linear(2, 2), torch.zeros(1, 2))


def test_its_own_errors_come_at_once() -> None:
    class Wrong(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return given + unknown  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NameError, match="unknown"):
        undisturbed.call(Wrong(), torch.zeros(1))

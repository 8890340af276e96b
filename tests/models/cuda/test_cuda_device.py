"""Passes on a GPU, with the processor in its place: only the driver's own functions differ."""

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.bundle import ZOO
from models.calibration import calibrate
from models.certification.tally import NO_VOTE, draw_scores
from models.cuda.card import check_formats, use_exact_formats
from models.cuda.device import CudaDevice, CudaHandle
from models.cuda.passes import channels_first, channels_last
from models.device import DeviceError
from models.loaded import LoadedModel, load_model
from models.noise import Features
from models.predictor import Predictor
from tests.models.cuda.host import HostCard
from tests.models.test_device import Watched
from tests.models.test_predictor import SLOTS, make, pixels

ROWS = np.arange(SLOTS) % 3


class Passes:
    """A predictor on the processor in place of a GPU."""

    def __init__(self, model: LoadedModel, precision: Any = "float32", rows: int = SLOTS) -> None:
        self.card = HostCard()
        self.device = CudaDevice("cpu", self.card)  # type: ignore[arg-type]
        self.predictor = Predictor(model, rows, self.device, precision)
        self.resident: Any = self.predictor.resident
        self.resident.prepare(rows)

    def pictures(self, count: int = 3, bits: int = 8) -> list[Features]:
        return [self.predictor.encode(pixels(seed, bits)).features for seed in range(count)]

    @property
    def graphed(self) -> Any:
        return self.resident._sizes.find(self.predictor.pass_size)


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    make(tmp_path)
    return load_model(tmp_path)


@pytest.fixture
def passes(model: LoadedModel) -> Passes:
    return Passes(model)


def expected(passes: Passes, pictures: list[Features], key: bytes, number: int) -> torch.Tensor:
    """h on the noise of a key and a number, run by plain PyTorch."""
    resident = passes.resident
    steps = torch.from_numpy(resident._steps_of(pictures, ROWS, key, number)).float()
    noisy = (steps * passes.predictor.noise.step).reshape(SLOTS, *resident._shape)
    with torch.inference_mode():
        logits: torch.Tensor = resident.network(noisy.to(resident._dtype)).float()
    return logits


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_votes_are_those_of_h_on_the_noise_of_key_and_number(
    model: LoadedModel, precision: str, bits: int
) -> None:
    passes = Passes(model, precision)
    pictures = passes.pictures(bits=bits)
    for seed in range(3):
        key = np.random.default_rng(seed).bytes(32)
        handle = passes.resident.submit(pictures, ROWS, key)
        votes = handle.votes()
        assert handle.key == key
        number = handle._issued.result().number
        assert votes.dtype == np.int16
        assert np.array_equal(votes, expected(passes, pictures, key, number).argmax(1).numpy())
    assert isinstance(handle, CudaHandle)
    assert handle.done


def test_it_proves_itself(passes: Passes) -> None:
    passes.predictor.prove()


def test_whoever_waits_is_told_the_end_of_a_pass(passes: Passes) -> None:
    told = threading.Event()
    handle = passes.resident.submit(passes.pictures(1), ROWS * 0, bytes(32))
    handle.when_done(told.set)
    assert told.wait(60)
    assert handle.done


def test_the_same_key_never_gives_the_same_noise(passes: Passes) -> None:
    """The graph itself counts passes, and the number is the nonce."""
    pictures, seen = passes.pictures(1), set()
    for _ in range(200):
        passes.resident.submit(pictures, ROWS * 0, bytes(32)).votes()
        seen.add(passes.graphed.noisy.numpy().tobytes())
    assert len(seen) == 200


class Operators(TorchDispatchMode):
    """Records the operators that run inside."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def what_a_submit_does(passes: Passes, pictures: list[Features]) -> list[str]:
    """Operators and calls of the GPU, in order."""
    rows = np.arange(SLOTS) % len(pictures)
    passes.card.did.clear()
    waits = passes.card.waits

    def submit() -> None:
        with Operators(passes.card.did):
            handle = passes.resident.submit(pictures, rows, bytes(32))
        assert handle.done

    passes.device.call(submit)
    assert passes.card.waits == waits, "a submit waits for nothing"
    return passes.card.did.copy()


def test_a_submission_does_the_same_for_all_data(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No synchronisation, no allocation, no operator that depends on data."""
    pictures = passes.pictures(3) + passes.pictures(3, bits=16)
    slots = [passes.graphed._new_slot() for _ in range(4)]
    for one in pictures:
        passes.resident.submit([one], ROWS * 0, bytes(32)).votes()
    monkeypatch.setattr(passes.graphed, "_replay", lambda: passes.card.did.append("graph"))
    passes.graphed._free.extend(slots)
    for count in (1, 2, 6):
        assert what_a_submit_does(passes, pictures[:count]) == [
            "aten.copy_.default",
            "draw",
            "graph",
            "aten.copy_.default",
            "event",
        ]


DEPEND_ON_DATA = ("nonzero", "item", "local_scalar", "masked_select", "unique", "is_nonzero")


@pytest.mark.parametrize("name", ["mnist-cnn", "cifar10-resnet"])
def test_no_operator_of_the_graph_depends_on_data(name: str) -> None:
    passes = Passes(load_model(ZOO / name), rows=8)
    names: list[str] = []
    with Operators(names):
        passes.graphed._work()
    assert len(names) > 10
    assert not [one for one in names if any(word in one for word in DEPEND_ON_DATA)]


def test_a_picture_is_uploaded_once_and_freed_when_nothing_needs_it(passes: Passes) -> None:
    before = len(passes.resident._shelf)
    pictures = passes.pictures(1) + passes.pictures(1, bits=16)
    for _ in range(3):
        passes.resident.submit(pictures, ROWS % 2, bytes(32)).votes()
    assert len(passes.resident._shelf) == before + 2
    held = [passes.resident._shelf.place(one)[0] for one in pictures]
    assert [one.dtype for one in held] == [torch.uint8, torch.int32]
    assert passes.card.did.count("send") - len(pictures) < 20
    del pictures, held
    gc.collect()
    assert len(passes.resident._shelf) == before


def test_slots_are_reused(passes: Passes) -> None:
    pictures = passes.pictures()
    for _ in range(5):
        flying = [passes.resident.submit(pictures, ROWS, bytes(32)) for _ in range(2)]
        for one in flying:
            one.votes()
            one.votes()
    assert passes.card.did.count("pinned") == 4, "two passes were in flight, two buffers each"


def test_a_copy_that_never_arrived_is_noticed(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = passes.pictures()
    passes.predictor.run(pictures, ROWS)
    monkeypatch.setattr(passes.graphed, "_given", passes.graphed._given.clone())
    with pytest.raises(DeviceError, match="repeated an earlier pass, or its noise"):
        passes.predictor.run(pictures, ROWS)


def test_noise_that_was_not_drawn_is_noticed(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = passes.pictures()
    passes.predictor.run(pictures, ROWS)
    monkeypatch.setattr(passes.card, "draw", lambda _: None)
    with pytest.raises(DeviceError, match="drew the noise of pass"):
        passes.predictor.run(pictures, ROWS)


def test_a_gpu_that_draws_wrong_noise_does_not_serve(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes(model)
    passes.device.check()
    right = passes.card.draw
    monkeypatch.setattr(passes.card, "draw", lambda it: right(it._replace(lowest=it.lowest + 1)))
    with pytest.raises(DeviceError, match="does not draw the noise of RFC 8439's keystream"):
        passes.device.check()
    with pytest.raises(DeviceError, match="draws other noise than its key says"):
        passes.resident.prepare(16)


def test_the_noise_drawn_for_a_proof_is_the_reference(passes: Passes) -> None:
    pictures, key = passes.pictures(2) + passes.pictures(1, bits=16), bytes(range(32))
    noisy = passes.resident.noisy(pictures, ROWS, key)
    assert noisy.shape == (SLOTS, 1, 8, 8)
    steps = passes.resident.reference(pictures, ROWS, key)
    exact = torch.from_numpy(steps).float().mul_(passes.predictor.noise.step)
    assert torch.equal(noisy.reshape(SLOTS, -1), exact)


def test_rows_are_tried_through_the_graph_that_serves(passes: Passes) -> None:
    before = passes.card.did.count("graph")
    passes.predictor.try_rows()
    assert passes.card.did.count("graph") > before + 10
    assert passes.card.graphs == 1


def test_logits_that_are_not_finite_vote_for_nothing(passes: Passes) -> None:
    class Holes(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, noisy: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(noisy)
            return torch.where(torch.arange(len(noisy))[:, None] % 2 == 0, logits, torch.inf)

    passes.resident.network = Holes(passes.resident.network)
    votes = passes.predictor.run(passes.pictures(), ROWS)
    assert (votes[1::2] == NO_VOTE).all()
    assert (votes[::2] >= 0).all()


def test_softmax_scores_are_those_of_the_tally(passes: Passes) -> None:
    resident = passes.resident
    resident._scoring = "softmax"
    resident.prepare(2 * SLOTS)
    pictures, rows = passes.pictures(), np.arange(2 * SLOTS) % 3
    handle = resident.submit(pictures, rows, bytes(32))
    graphed = resident._sizes.find(2 * SLOTS)
    assert np.array_equal(handle.votes(), draw_scores(graphed.logits.numpy(), "softmax"))


def full_above(rows: int) -> Any:
    def before(noisy: torch.Tensor) -> None:
        if len(noisy) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    return before


def test_passes_that_do_not_fit_at_capture_are_halved(model: LoadedModel) -> None:
    class Small(CudaDevice):
        def load(self, *arguments: Any) -> Any:
            resident = super().load(*arguments)
            resident.network = Watched(resident.network, full_above(64))
            return resident

    device = Small("cpu", HostCard())  # type: ignore[arg-type]
    predictor, calibration = calibrate(model, device, "float32", 256, "pytorch")
    assert predictor.pass_size == calibration.pass_size == 64


def test_the_largest_size_that_fits_is_found(model: LoadedModel) -> None:
    device = CudaDevice("cpu", HostCard())  # type: ignore[arg-type]
    predictor, calibration = calibrate(model, device, None, None, "pytorch")
    assert calibration.pass_size in CudaDevice.pass_sizes
    resident: Any = predictor.resident
    assert len(resident._sizes._made) <= 2, "sizes that were only measured give back their memory"


def test_an_error_after_which_nothing_runs_is_a_device_error(passes: Passes) -> None:
    submitted = passes.predictor.submit(passes.pictures(), ROWS)
    passes.card.sick = True
    with pytest.raises(DeviceError, match="an illegal memory access"):
        submitted.votes()


def test_a_network_that_cannot_be_captured_runs_without_a_graph(model: LoadedModel) -> None:
    passes = Passes(model)
    passes.card.refuses = True
    resident = passes.resident
    resident.prepare(32)
    assert "not permitted when stream is capturing" in resident.launched[32]
    pictures, rows = passes.pictures(), np.arange(32) % 3
    network = resident.network

    def fail(noisy: torch.Tensor) -> None:
        raise ZeroDivisionError("of h itself")

    key = bytes(range(32))
    whole = resident.submit(pictures, rows, key).votes()
    resident.network = Watched(network, fail)
    failed = resident.submit(pictures, rows, key)
    with pytest.raises(ZeroDivisionError):
        failed.votes()
    resident.network = network
    # The same noise, and only the requested rows.
    assert np.array_equal(failed.again(slice(4, 12)), whole[4:12])


def test_float32_is_not_tf32() -> None:
    use_exact_formats()
    check_formats()
    for setting in ("cuda.matmul.allow_tf32", "cudnn.allow_tf32", "cudnn.benchmark"):
        *path, name = setting.split(".")
        owner = torch.backends
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, name, True)
        with pytest.raises(RuntimeError, match=r"allow_tf32|cudnn\.benchmark"):
            check_formats()
        setattr(owner, name, False)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 6, 6), (7,), (2, 3)])
def test_features_keep_their_places(shape: tuple[int, ...]) -> None:
    values = np.arange(2 * int(np.prod(shape))).reshape(2, -1)
    laid = channels_last(values, shape)
    assert np.array_equal(channels_first(laid, shape), values)
    if len(shape) == 3:
        pictures = torch.from_numpy(values).view(2, *shape)
        last = pictures.contiguous(memory_format=torch.channels_last)
        assert laid.ravel().tolist() == last.permute(0, 2, 3, 1).reshape(-1).tolist()


def test_a_compiled_network_is_traced_before_it_is_captured(
    passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's thread traces it, which takes minutes; the thread of passes only captures."""
    traced: list[int] = []

    def compiled(network: nn.Module, **_: Any) -> nn.Module:
        return Watched(network, lambda noisy: traced.append(len(noisy)))

    monkeypatch.setattr(torch, "compile", compiled)
    resident = passes.resident
    noisy = resident.noisy(passes.pictures(3), ROWS, bytes(32))
    other = resident.compile(noisy)
    assert traced == [SLOTS]
    other.prepare(SLOTS)
    assert other._sizes.find(SLOTS) is not resident._sizes.find(SLOTS)
    assert torch.equal(other.logits(noisy), resident.logits(noisy))

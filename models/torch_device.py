"""Devices whose passes PyTorch makes, in a thread of their own.

PyTorch and OpenVINO release Python's lock while they compute, so passes are planned and recorded
meanwhile.
"""

import copy
import gc
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from typing import Self, TypeVar

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor, nn

from models.bundle import Manifest
from models.certification.arrays import Draws
from models.certification.tally import make_draws
from models.compile_cache import keep_apart
from models.converted import Converted, check_likeness
from models.device import DeviceError, Handle
from models.execution import WAYS, Format, Provider, ProviderError
from models.loaded import LoadedModel
from models.memory import is_out_of_memory, process_memory
from models.noise import Features, Keystream
from models.quantised import Ranges
from models.undisturbed import call

T = TypeVar("T")

# The format of PyTorch's weights; OpenVINO makes its own from float32.
_DTYPES: dict[tuple[Provider, Format], torch.dtype] = {
    (by, kind): torch.bfloat16 if (by, kind) == ("pytorch", "bfloat16") else torch.float32
    for by, kind in WAYS
}
# Weights are constants, and there is no pool of helper processes, which could outlive a worker.
_COMPILE: dict[str, str | int | bool | Callable[..., object]] = {
    "freezing": True,
    "compile_threads": 1,
}
# A front's turns are short, and a client waits for each, so it need not wait for a pass.
_NICENESS = 5
# NIST SP 800-38A, F.5.5: CTR-AES256.Encrypt, key, first counter, and keystream of the first block.
_AES_KEY = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
_AES_STREAM = "0bdf7df1591716335e9a8b15c860c502"
_AES_COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"


class PassThread:
    """Does one piece of work after another, in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Have ``work`` done after all earlier work; inside the thread itself, at once."""
        outcome: Future[T] = Future()
        task = partial(_settle, outcome, work)
        if threading.current_thread() is self._thread:
            task()
            return outcome
        if self._thread is None:
            serve = partial(self._serve, torch.get_num_threads())
            # Nothing waits for it at the end: a pass may never end.
            self._thread = threading.Thread(target=serve, name=self._name, daemon=True)
            self._thread.start()
        self._work.put(task)
        return outcome

    def _serve(self, threads: int) -> None:
        # Each thread has its own number.
        torch.set_num_threads(threads)
        while True:
            self._work.get()()


def _settle(outcome: "Future[T]", work: Callable[[], T]) -> None:
    try:
        found = work()
    except BaseException as error:
        if isinstance(error, Exception) and is_out_of_memory(error):
            # The traceback would keep alive what the work had allocated.
            error = error.with_traceback(None)
            error.__context__ = None
        outcome.set_exception(error)
    else:
        outcome.set_result(found)


class TorchHandle:
    """A pass on its way through the thread of a device."""

    number = 0

    def __init__(
        self,
        resident: "TorchResident",
        pictures: Sequence[Features],
        rows: NDArray[np.intp],
        key: bytes,
    ) -> None:
        self._resident, self._pictures, self._rows, self.key = resident, pictures, rows, key
        self._noisy: Tensor | None = None
        self._votes = resident.device.thread.submit(self._make)

    @property
    def done(self) -> bool:
        """Whether it is made."""
        return self._votes.done()

    def votes(self) -> Draws:
        """Wait for its draws; see :class:`models.device.Handle`."""
        return self._votes.result()

    def when_done(self, call: Callable[[], None]) -> None:
        """Have ``call`` called when it is made."""
        self._votes.add_done_callback(lambda _: call())

    def again(self, own: slice) -> Draws:
        """Repeat some rows; see :class:`models.device.Handle`."""
        noisy = self._noisy
        if noisy is None:
            raise ValueError("only a pass in which h has failed can be repeated")
        count = own.stop - own.start
        repeated = own.start + (torch.arange(len(noisy)) - own.start) % count
        resident = self._resident
        return resident.device.call(lambda: resident.draws(noisy[repeated.to(noisy.device)])[own])

    def _make(self) -> Draws:
        try:
            noisy = self._resident.noisy(self._pictures, self._rows, self.key)
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, DeviceError):
                raise
            raise DeviceError(f"noise cannot be drawn: {type(error).__name__}: {error}") from error
        try:
            return self._resident.draws(noisy)
        except Exception as error:
            if not is_out_of_memory(error):
                self._noisy = noisy
            raise


class TorchResident:
    """One model on a device of PyTorch; see :class:`models.device.Resident`."""

    def __init__(
        self, device: "TorchDevice", model: LoadedModel, precision: Format, provider: Provider
    ) -> None:
        self.device, self._precision = device, precision
        self._dtype = _DTYPES[provider, precision]
        self.network: nn.Module = model.classifier(device.name, self._dtype)
        self._converted: Converted | None = None
        if provider == "openvino":
            ranges = _ranges(model.manifest) if precision == "int8" else None
            self._converted = Converted(
                self.network, torch.get_num_threads(), precision, ranges, model.bundle.digest
            )
        self.noise, self._shape = model.noise, model.seen_shape
        self._labels, self._scoring = len(model.manifest.labels), model.manifest.scoring
        # Compiled networks do not run in inference mode.
        self._without_gradients: Callable[[], AbstractContextManager[object]]
        self._without_gradients = torch.inference_mode

    def submit(self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes) -> Handle:
        """Submit a pass."""
        return TorchHandle(self, pictures, rows, key)

    def noisy(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes, number: int = 0
    ) -> Tensor:
        """Draw noise."""
        steps = self.noise.draw(pictures, rows, key)
        # Integers below 2²⁴ are exact in float32; everything after them is a function of them.
        unit = np.float32(self.noise.step)
        noisy = np.multiply(steps, unit, dtype=np.float32, casting="unsafe")
        return torch.from_numpy(noisy).reshape(len(rows), *self._shape)

    def reference(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes
    ) -> NDArray[np.int32]:
        """Return the noisy features that this device must draw."""
        stream = Keystream(key)
        words = stream.words(len(rows) * len(pictures[0].steps))
        return self.noise.reference(pictures, rows, words, stream)

    def draws(self, noisy: Tensor) -> Draws:
        """Return the draws of a pass."""
        return make_draws(self._logits(noisy).numpy(), self._scoring)

    def logits(self, noisy: Tensor) -> Tensor:
        """Run h."""
        return self.device.call(partial(self._logits, noisy))

    def written(self, noisy: Tensor) -> Tensor:
        """Return h as PyTorch runs it as it was written; as for :meth:`logits`."""
        return self.device.call(partial(self._as_written, noisy))

    def _logits(self, noisy: Tensor) -> Tensor:
        if self._converted is not None:
            return self._checked(self._converted(noisy), len(noisy))
        return self._as_written(noisy)

    def _as_written(self, noisy: Tensor) -> Tensor:
        noisy = noisy.to(self.device.name, self._dtype)
        if noisy.dim() == 4:
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        try:
            with self._without_gradients():
                logits = call(self.network, noisy)
        except torch.AcceleratorError as error:
            # Nothing runs on it until the process restarts.
            raise DeviceError(f"{self.device.name}: {error}") from error
        return self._checked(logits, len(noisy))

    def _checked(self, logits: object, rows: int) -> Tensor:
        return self._of_form(logits, rows).float().cpu()

    def _of_form(self, logits: object, rows: int) -> Tensor:
        expected = rows, self._labels
        if not isinstance(logits, Tensor) or logits.shape != expected:
            found = f"{list(logits.shape)}" if isinstance(logits, Tensor) else type(logits)
            raise ValueError(f"h returned {found}; expected logits {list(expected)} (rows, labels)")
        return logits

    def prepare(self, rows: int) -> None:
        """Convert h for passes of this size, if OpenVINO runs it."""
        if self._converted is not None:
            self._converted.prepare((rows, *self._shape))

    def compare(self, noisy: Tensor) -> None:
        """Compare OpenVINO's h with PyTorch's."""
        if self._converted is not None:
            check_likeness(self._converted(noisy), self._as_written(noisy), self._precision)

    def compile(self, noisy: Tensor) -> Self:
        """Compile h."""
        other = copy.copy(self)
        other._converted, other._without_gradients = None, torch.no_grad
        other._dtype = _DTYPES["pytorch", self._precision]
        keep_apart()
        with torch.no_grad():
            # The result for a module is a module.
            other.network = torch.compile(  # type: ignore[assignment]
                copy.deepcopy(self.network).to(other._dtype), dynamic=False, options=_COMPILE
            )
            other._as_written(noisy)
        return other


class TorchDevice:
    """A device of PyTorch; see :class:`models.device.Device`."""

    pass_sizes: tuple[int, ...] = (128, 256, 512)
    depth = 2

    def __init__(self, name: str) -> None:
        self.name = name
        self.thread = PassThread(f"passes-{name}")

    def load(self, model: LoadedModel, precision: Format, provider: Provider) -> TorchResident:
        """Load h of a model."""
        return TorchResident(self, model, precision, provider)

    def call(self, work: Callable[[], T]) -> T:
        """Do work between passes."""
        return self.thread.submit(work).result()

    def give_way(self) -> None:
        """Passes need little of the processor."""

    def free(self) -> None:
        """Give back memory."""
        gc.collect()


class CpuDevice(TorchDevice):
    """The processor: noise is drawn by numpy, with the keystream of AES-256."""

    def __init__(self) -> None:
        super().__init__("cpu")

    def check(self) -> None:
        """Check AES-256 in counter mode."""
        counter = modes.CTR(bytes.fromhex(_AES_COUNTER))
        cipher = Cipher(algorithms.AES256(bytes.fromhex(_AES_KEY)), counter)
        if cipher.encryptor().update(bytes(16)).hex() != _AES_STREAM:
            raise DeviceError("AES-256 does not compute the keystream of NIST SP 800-38A, F.5.5")

    def give_way(self) -> None:
        """Raise the niceness of both threads; on Linux each has its own."""
        for run in (lambda work: work(), self.call):
            run(lambda: os.setpriority(os.PRIO_PROCESS, 0, _NICENESS))

    def memory(self) -> tuple[int, int]:
        """Return the memory of this process, and all there is."""
        return process_memory()


def _ranges(manifest: Manifest) -> Ranges:
    """Return the ranges of a model's int8."""
    if manifest.int8 is None:
        raise ProviderError(
            f"{manifest.name} has no scales for int8: pixeldp evaluate --write finds them on "
            "pictures, and measures what int8 costs"
        )
    return manifest.int8.ranges

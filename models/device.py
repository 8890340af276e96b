"""The devices that run h: the one interface between planning passes and making them.

What plans passes, records them and certifies is the same on every device. What differs by kind of
device is behind :class:`Device`: how noise is drawn, how h is run and brought back, in which thread
this happens, what memory there is. A device makes passes one after another, in the order in which
they were submitted, so several may be in flight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.certification.arrays import Draws
from models.execution import Format, Provider
from models.noise import Features

if TYPE_CHECKING:
    from models.loaded import LoadedModel

T = TypeVar("T")


class DeviceError(RuntimeError):
    """A device does something else than it should: nothing of it may serve."""


class DeviceLostError(DeviceError):
    """Nothing runs on a device until the process restarts, perhaps because of what it computed."""


class Handle(Protocol):
    """A pass that was submitted to a device."""

    @property
    def done(self) -> bool:
        """Whether :meth:`votes` returns or raises at once."""

    def votes(self) -> Draws:
        """Wait for the pass, and return its draws.

        Returns:
            Votes [rows] or integer scores [rows, K] (see ``models.certification.tally``).

        Raises:
            RuntimeError, MemoryError: the pass does not fit into memory
                (:func:`models.memory.is_out_of_memory`); what it had allocated is free again.
            DeviceError: it has failed, or what it computes is wrong.
            Exception: whatever h raises; then :meth:`again` repeats parts of the pass.
        """

    def when_done(self, call: Callable[[], None]) -> None:
        """Have ``call`` called in any thread as soon as :attr:`done` is true."""

    @property
    def key(self) -> bytes:
        """The key by which the noise was drawn, as the device had it; known when it is done.

        A device that repeats an earlier pass, or its noise, returns that pass's key.
        """

    @property
    def number(self) -> int:
        """What its noise depends on besides the key: the device counts its passes, or has 0."""

    def again(self, own: slice) -> Draws:
        """Repeat a pass in which h has failed, with the same noise, for some rows alone.

        Args:
            own: the rows, which keep their places; each other row repeats one of them.

        Returns:
            The draws of these rows.

        Raises:
            Exception: as :meth:`votes`.
        """


@dataclass(frozen=True)
class Submitted:
    """A pass on its way, and the key that it was given."""

    handle: Handle
    key: bytes

    def votes(self) -> Draws:
        """Wait for the pass, and return its draws.

        Raises:
            DeviceError: they are of another pass, or by another pass's noise.
            Exception: as :meth:`Handle.votes`.
        """
        draws = self.handle.votes()
        if self.handle.key != self.key:
            raise DeviceError("the device has repeated an earlier pass, or its noise")
        return draws


class Resident(Protocol):
    """One model on a device: its noise, and its h in one number format by one provider.

    Attributes:
        network: the module that h runs.
    """

    network: nn.Module

    def submit(self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes) -> Handle:
        """Submit a pass, and return without waiting for it.

        Args:
            pictures: the features of the pictures in the pass.
            rows: [rows], the picture for which each row draws.
            key: 32 secret bytes, never used before.
        """

    def noisy(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes, number: int = 0
    ) -> Tensor:
        """Return what a pass gives to h, float32 [rows, …].

        Args:
            pictures, rows, key: as for :meth:`submit`.
            number: the pass's (:attr:`Handle.number`).
        """

    def reference(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes
    ) -> NDArray[np.int32]:
        """Return z/γ, [rows, m], as this device must draw it, computed by numpy in another way.

        Arguments as for :meth:`noisy`, for the number 0.
        """

    def logits(self, noisy: Tensor) -> Tensor:
        """Return h of noisy features [rows, …], float32 [rows, K] on the CPU.

        Raises:
            ValueError: h returns anything else.
            ProviderError: its provider cannot run it.
        """

    def prepare(self, rows: int) -> None:
        """Do what precedes the first pass of ``rows`` rows, which may take seconds."""

    def compare(self, noisy: Tensor) -> None:
        """Compare h as it runs here with h as it was written, if they are not the same.

        Raises:
            ProviderError: they compute different functions.
        """

    def compile(self, noisy: Tensor) -> Self:
        """Return the same model with h compiled for passes like ``noisy``, warm.

        It is traced in the caller's thread, while this one continues to make passes.

        Raises:
            RuntimeError: there is no working compiler here.
        """


class Device(Protocol):
    """A device, which makes passes one after another.

    Attributes:
        name: as PyTorch names it.
        pass_sizes: the numbers of rows a pass that are worth measuring, from the smallest.
        depth: the number of passes that should be in flight, so that it never waits for the next.
    """

    name: str
    pass_sizes: tuple[int, ...]
    depth: int

    def load(self, model: "LoadedModel", precision: Format, provider: Provider) -> Resident:
        """Load h of a model in one number format.

        Raises:
            ProviderError: the provider cannot run it so.
            RuntimeError, MemoryError: it does not fit into memory.
        """

    def call(self, work: Callable[[], T]) -> T:
        """Do ``work`` after the passes submitted so far and before those submitted later.

        Inside ``work`` passes may be submitted; they are made at once.
        """

    def check(self) -> None:
        """Check the device's arithmetic where noise rests on it.

        Raises:
            DeviceError: it is wrong.
        """

    def give_way(self) -> None:
        """Let other processes go first from now on, if passes need the processor.

        This holds for the caller's thread and the one that makes passes.
        """

    def memory(self) -> tuple[int, int]:
        """Return the bytes in use, and the bytes in all.

        On a GPU both are those of the whole device, whoever uses it. On the CPU they are the
        resident memory of this process, and the memory of the machine or the control group.
        """

    def free(self) -> None:
        """Give back the memory that nothing refers to."""


def open_device(device: str | Device) -> Device:
    """Return the device of a name; each has one object in a process."""
    return _open(device) if isinstance(device, str) else device


@cache
def _open(name: str) -> Device:
    if name.startswith("cuda"):
        from models.cuda.device import CudaDevice

        return CudaDevice(name)
    from models.torch_device import CpuDevice

    return CpuDevice()


def find_device(name: str | None) -> str:
    """Return the device named ``name``; by default CUDA's first one, or else the CPU.

    Raises:
        ValueError: it cannot be used here; says why.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try cpu") from None
    return name

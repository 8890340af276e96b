"""The devices that run h: the one interface between planning passes and making them.

What plans passes, records them and certifies is the same on every device. What differs by kind of
device is behind :class:`Device`: how noise is drawn, how h is run and brought back, in which thread
this happens, what memory there is. A device makes passes one after another, in the order in which
they were submitted, so several may be in flight.
"""

from collections.abc import Callable, Sequence
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
    """A device has failed, or does something else than it should: nothing of it may serve."""


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
            DeviceError: the device has failed.
            Exception: whatever h raises; then :meth:`again` repeats parts of the pass.
        """

    @property
    def key(self) -> bytes:
        """The key by which the noise was drawn, as the device had it; known when it is done.

        A device that repeats an earlier pass, or its noise, returns that pass's key.
        """

    def again(self, own: slice) -> Draws:
        """Repeat a pass in which h has failed, with the same noise, for some rows alone.

        Args:
            own: the rows, which keep their places; each other row repeats one of them.

        Returns:
            The draws of these rows.

        Raises:
            Exception: as :meth:`votes`.
        """


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

    def noisy(self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes) -> Tensor:
        """Return what a pass would give to h, float32 [rows, …]; arguments as for submit."""

    def reference(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes
    ) -> NDArray[np.int32]:
        """Return z/γ, [rows, m], as this device must draw it, computed by numpy in another way."""

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

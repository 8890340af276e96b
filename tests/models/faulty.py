"""A device with faults: the processor, which goes wrong in the way that a test asks for."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.certification.arrays import Draws
from models.device import DeviceLostError, Handle
from models.execution import Format, Provider
from models.loaded import LoadedModel
from models.noise import Features
from models.predictor import Predictor
from models.torch_device import CpuDevice, TorchResident


class FaultyDevice(CpuDevice):
    """A processor with faults.

    Attributes:
        room: the largest pass that its memory holds.
        loads: whether a model fits into its memory.
        before: called in its thread before each pass, with the number of rows.
        alter: changes the noisy features of each pass in place.
        repeats_noise: whether it draws every pass by its first key.
        repeats_passes: whether it returns its first pass again and again.
        lost: whether nothing runs on it any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.room = 2**31
        self.loads = True
        self.before: Callable[[int], object] = lambda rows: None
        self.alter: Callable[[torch.Tensor], object] = lambda noisy: None
        self.repeats_noise = self.repeats_passes = self.lost = False

    def load(self, model: LoadedModel, precision: Format, provider: Provider) -> TorchResident:
        if not self.loads:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return FaultyResident(self, model, precision, provider)


class FaultyResident(TorchResident):
    device: FaultyDevice
    _key: bytes | None = None
    _first: Handle | None = None

    def submit(self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes) -> Handle:
        self._key = self._key or key
        if self.device.repeats_noise:
            key = self._key
        handle = super().submit(pictures, rows, key)
        self._first = self._first or handle
        return self._first if self.device.repeats_passes else handle

    def noisy(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes, number: int = 0
    ) -> torch.Tensor:
        noisy = super().noisy(pictures, rows, key)
        self.device.alter(noisy)
        return noisy

    def draws(self, noisy: torch.Tensor) -> Draws:
        self.device.before(len(noisy))
        if self.device.lost:
            raise DeviceLostError("CUDA error: uncorrectable ECC error encountered")
        if len(noisy) > self.device.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().draws(noisy)


class Varied(nn.Module):
    """h whose votes for each picture vary with the noise: a projection of it for each label."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        labels, values = len(predictor.manifest.labels), prod(predictor.manifest.input.shape)
        weights = torch.randn(values, labels, generator=torch.Generator().manual_seed(0))
        self.weights = nn.Parameter(weights - weights.mean(0), requires_grad=False)

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        return noisy.flatten(1) @ self.weights

"""The layers around a classifier made elsewhere, so that it can be h."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Self

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(x − mean)/std for each channel of [batch, channels, height, width].

    Both come from the bundle's description and are not weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            column = torch.tensor(values, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, column, persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the normalised pictures."""
        return (pictures - self.mean) / self.std


class Frozen(nn.Sequential):
    """Modules that stay in evaluation mode and are not trained, whatever contains them."""

    def __init__(self, modules: "OrderedDict[str, nn.Module]") -> None:
        super().__init__(modules)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Leave the modules in evaluation mode."""
        return super().train(False)


class Contiguous(nn.Module):
    """Runs a network that needs its tensors in the plain memory layout, even after it is moved."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = self.network(_plain(pictures))
        return logits

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Contiguous":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.data = _plain(tensor.data)
        return self


def _plain(tensor: Tensor) -> Tensor:
    """Copy ``tensor``: with one channel the other layout looks like this one, but is passed on."""
    return tensor.clone(memory_format=torch.contiguous_format)


def normalised(
    network: nn.Module,
    shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    contiguous: bool = False,
) -> nn.Sequential:
    """Return ``network`` behind its normalisation, which comes after the noise.

    Args:
        network: normalised pictures to logits.
        shape: (channels, height, width) of the pictures.
        mean: of each channel.
        std: of each channel, > 0.
        contiguous: whether it needs the plain memory layout, which is slower.

    Raises:
        ValueError: not one finite mean and one positive std for each channel.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != shape[0] or not all(isfinite(value) for value in values):
            raise ValueError(
                f"{name} {list(values)}: expected one number for each of {shape[0]} channels"
            )
    if min(std) <= 0:
        raise ValueError(f"std {list(std)}: must be above 0")
    network.requires_grad_(False).eval()
    network = Contiguous(network) if contiguous else network
    return nn.Sequential(OrderedDict(normalise=Normalise(mean, std), network=network))

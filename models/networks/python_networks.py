"""Classifiers that a Python function builds.

A bundle that names one runs code of the machine that loads it. So it may name only a function
without arguments, from modules that whoever runs the machine has listed in ``PIXELDP_BUILDERS``:
a bundle by itself runs nothing.
"""

import os
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.imported import normalised

ALLOWED = "PIXELDP_BUILDERS"
# Packages of this project, whose names others use, too.
OURS = ("models", "service")
PATTERN = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


class Contiguous(nn.Module):
    """Runs a network that needs its tensors in the plain layout, however it is moved."""

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
    """Copy ``tensor``: of one channel, the other layout passes for this one, but is passed on."""
    return tensor.clone(memory_format=torch.contiguous_format)


def allow(builder: str) -> str:
    """Allow the module of ``builder`` in this process, and return the variable's new value."""
    module, _ = _parts(builder)
    allowed = _allowed()
    if module not in allowed:
        allowed.append(module)
    os.environ[ALLOWED] = ",".join(allowed)
    return os.environ[ALLOWED]


def build_python(
    shape: tuple[int, int, int],
    labels: int,
    *,
    builder: str,
    mean: Sequence[float],
    std: Sequence[float],
    contiguous: bool = False,
) -> nn.Sequential:
    """Build normalisation and the classifier, with whatever weights its function gives it.

    Args:
        shape: (channels, height, width) of the pictures.
        labels: how many logits it should return; found out when it runs.
        builder: ``module:function``; the function takes no arguments and returns an ``nn.Module``
            from pictures [batch, channels, height, width] to logits [batch, labels].
        mean: of each channel.
        std: of each channel.
        contiguous: whether it needs the plain memory layout, which is slower.

    Raises:
        ValueError: the module is not allowed or cannot be imported, or its function does not return
            a module.
    """
    module, name = _parts(builder)
    if module not in _allowed():
        raise ValueError(
            f"names Python code, {builder}, which is not run unasked: set {ALLOWED}={module} in "
            "the environment if you trust that module"
        )
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{builder} cannot be imported ({error}); {_remedy(error)}") from None
    try:
        network = function()
    except Exception as error:  # whatever their code raises
        raise ValueError(f"{builder}() failed: {type(error).__name__}: {error}") from None
    if not isinstance(network, nn.Module):
        raise ValueError(f"{builder}() returned {type(network).__name__}; expected an nn.Module")
    return normalised(Contiguous(network) if contiguous else network, shape, mean, std)


def _remedy(error: ImportError | AttributeError) -> str:
    package = (error.name or "").partition(".")[0]
    if package in OURS:
        return (
            f"PixelDP has a package {package} itself, so that it cannot use yours of that name: "
            "export the network by torch.export, and import the file"
        )
    return "install its package or put it on PYTHONPATH"


def _parts(builder: str) -> tuple[str, str]:
    match = PATTERN.fullmatch(builder)
    if match is None:
        raise ValueError(f"builder {builder!r}: expected module:function")
    return match[1], match[2]


def _allowed() -> list[str]:
    return [name for name in os.environ.get(ALLOWED, "").split(",") if name]

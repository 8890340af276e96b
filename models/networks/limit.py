"""A limit on what a description may have built: it comes from a file and is not believed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

# Builders may make parts that they replace, so that a few times the weights are no reason to stop.
TIMES, MORE_TENSORS, MORE_VALUES = 4, 1_000, 2**24


@contextmanager
def limited(tensors: int, values: int) -> Iterator[None]:
    """Stop building modules that have far more weights than there are to load into them.

    A tensor is counted when a module gets it: its memory is reserved by then, but not yet filled.

    Args:
        tensors: how many tensors there are to load.
        values: how many values they have in all.

    Raises:
        ValueError: in the midst of building, once the limit is passed.
    """
    left = {"tensors": TIMES * tensors + MORE_TENSORS, "values": TIMES * values + MORE_VALUES}

    def count(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        if tensor is None:
            return
        left["tensors"] -= 1
        left["values"] -= tensor.numel()
        if min(left.values()) < 0:
            raise ValueError(
                f"describes a network of far more weights than the {tensors:,} tensors of "
                f"{values:,} values in all that there are for it"
            )

    handles = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

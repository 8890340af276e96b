"""A limit on the size of a network that a description, which is not trusted, may have built."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

# Builders may replace parts that they made, so a few times the number of weights is allowed.
TIMES, MORE_TENSORS, MORE_VALUES = 4, 1_000, 2**24


@contextmanager
def limited(tensors: int, values: int) -> Iterator[None]:
    """Stop the building of modules with far more weights than there are to load into them.

    A tensor is counted when a module receives it: its memory is reserved by then, but not yet
    filled.

    Args:
        tensors: the number of tensors to load.
        values: the number of their values in all.

    Raises:
        ValueError: during building, once the limit is exceeded.
    """
    left = {"tensors": TIMES * tensors + MORE_TENSORS, "values": TIMES * values + MORE_VALUES}

    def count(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        if tensor is None:
            return
        left["tensors"] -= 1
        left["values"] -= tensor.numel()
        if min(left.values()) < 0:
            raise ValueError(
                f"describes a network with far more weights than the {tensors:,} tensors of "
                f"{values:,} values in all that it comes with"
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

"""When the memory of a device runs out, and how to give back what is not needed."""

import gc

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out: on a CPU PyTorch has no exception of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def free() -> None:
    """Give back the device memory that nothing refers to."""
    gc.collect()
    torch.cuda.empty_cache()

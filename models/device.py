"""The device that a command runs a network on."""

import torch


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

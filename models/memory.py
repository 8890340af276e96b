"""When memory runs out, and how much of it this process has."""

import os
from pathlib import Path

import torch

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


# What PyTorch says when a CPU, CUDA's own functions or its libraries run out of memory.
_SAYINGS = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Say whether memory ran out: PyTorch has an exception of its own only for its allocator."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _SAYINGS)
    )


def process_memory() -> tuple[int, int]:
    """Return the bytes of this process's resident memory, and those of the machine.

    In a control group with a limit, that limit counts instead of the machine's memory.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    return _resident() * page, min(_control_group_limit(), os.sysconf("SC_PHYS_PAGES") * page)


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not on Linux
        return 0


def _control_group_limit() -> int:
    try:
        return int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):  # missing, or the word max
        return 1 << 62

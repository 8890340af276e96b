"""How much memory a worker's device has, and how much of it is in use."""

import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def device_memory(device: str) -> tuple[int, int]:
    """Return the bytes in use, and the bytes in all.

    On a GPU both are those of the whole device, whoever uses it. On the CPU they are the resident
    memory of this process, and the memory of the machine or the control group.
    """
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return total - free, total
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

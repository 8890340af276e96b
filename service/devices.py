"""What there is to run workers on, found without importing torch: the front does without it."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def automatic() -> list[str]:
    """Return the device of each worker where nobody has chosen: each GPU, else each processor."""
    return [f"cuda:{i}" for i in range(_gpus())] or ["cpu"] * processors()


def processors() -> int:
    """Count the processors that this process may keep busy.

    A container's limit is not in the affinity: with two of 64 processors, 64 workers would wait
    for one another. Of a part of a processor the front process makes use.
    """
    count = len(os.sched_getaffinity(0))
    return max(1, min(count, int(_quota(CGROUPS, Path("/proc/self/cgroup")) or count)))


def _gpus() -> int:
    """Count the NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() and part.strip() != "-1"])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _quota(cgroups: Path, own: Path) -> float | None:
    """Return how many processors the control groups allow; None if they do not say.

    Args:
        cgroups: where their file systems are mounted.
        own: lists this process's groups, a line each: ``number:controllers:path``.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    found = []
    for _, controllers, path in lines:
        if not controllers:  # version 2
            root, read = cgroups, _read_max
        elif "cpu" in controllers.split(","):
            root, read = cgroups / "cpu", _read_cfs
        else:
            continue
        # Inside a container the path may be the host's; then only the root is there. Each group
        # is bound by those above it, too.
        group = root / path.lstrip("/")
        above = [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
        found += [read(folder) for folder in above]
    return min((quota for quota in found if quota is not None), default=None)


def _read_max(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # "max" is no limit
        return None


def _read_cfs(folder: Path) -> float | None:
    try:
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None

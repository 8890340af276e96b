"""The devices for workers, found without importing torch, which the front does not use."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
DEVICES = Path("/dev")


_NAME = re.compile(r"cpu|cuda(:\d{1,3})?")


def is_device(name: str) -> bool:
    """Say whether ``name`` is the name of a device, whether or not it exists."""
    return _NAME.fullmatch(name) is not None


def automatic() -> list[str]:
    """Return the default device of each worker: each GPU, or else each processor."""
    return [f"cuda:{i}" for i in range(len(_gpus()))] or ["cpu"] * processors()


def own(name: str) -> tuple[str, dict[str, str]]:
    """Return how a worker's process calls its device, and the environment in which it starts.

    A process that uses a GPU sees only that one. So it cannot take memory of another, a part of a
    GPU (MIG), of which CUDA shows a process only the first, is one like any other, and which GPU
    a number means does not depend on what CUDA counts in the process. The entry is that of the
    service's own ``CUDA_VISIBLE_DEVICES``, or else the number, in the order that
    ``CUDA_DEVICE_ORDER`` has in both processes. A GPU that is not there keeps its name, and the
    worker says so.
    """
    if name == "cpu":
        return name, {}
    number, entries = int(name.partition(":")[2] or 0), _gpus()
    if number >= len(entries):
        return name, {}
    return "cuda:0", {"CUDA_VISIBLE_DEVICES": entries[number]}


def processors() -> int:
    """Count the processors that this process may keep busy.

    A container's limit is not part of the affinity: with two of 64 processors, 64 workers would
    wait for one another. A fraction of a processor is left to the front process.
    """
    count = len(os.sched_getaffinity(0))
    return max(1, min(count, int(_quota(CGROUPS, Path("/proc/self/cgroup")) or count)))


def _gpus() -> list[str]:
    """Name the NVIDIA GPUs that this process may use with the installed PyTorch, as CUDA does."""
    present = _present(DEVICES)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not present or not built_for_cuda():
        return []
    return [str(i) for i in range(present)] if visible is None else _named(visible, present)


def _present(devices: Path) -> int:
    """Count the GPUs of this machine by their files in the folder ``devices``."""
    numbered = [file for file in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", file.name)]
    # On Windows there is one file for all GPUs; only PyTorch could count them.
    return len(numbered) or int((devices / "dxg").exists())


def _named(visible: str, present: int) -> list[str]:
    """Return the GPUs that CUDA uses from ``CUDA_VISIBLE_DEVICES``: up to the first unknown one.

    The variable may be meant for another machine, or say in any way that there is none.
    """
    names: list[str] = []
    for part in visible.split(","):
        name = part.strip()
        known = name.isdecimal() and int(name) < present
        if not (known or name.startswith(("GPU-", "MIG-"))) or name in names:
            break
        names.append(name)
    return names


def built_for_cuda() -> bool:
    """Say whether the installed PyTorch can use NVIDIA GPUs, according to one of its files."""
    try:
        spec = find_spec("torch")
        text = (Path(spec.origin or "").parent / "version.py").read_text() if spec else ""
    except (ImportError, OSError, ValueError):
        return False
    found = re.search(r"^cuda\b[^=\n]*=\s*(\S+)", text, re.MULTILINE)
    return found is not None and found[1] != "None"


def _quota(cgroups: Path, own: Path) -> float | None:
    """Return how many processors the control groups allow; None if they do not say.

    Args:
        cgroups: where their file systems are mounted.
        own: the file with this process's groups, one per line: ``number:controllers:path``.
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
        # Inside a container the path may be the host's; then only the root exists. Each group is
        # also limited by those above it.
        group = root / path.lstrip("/")
        above = [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
        found += [read(folder) for folder in above]
    return min((quota for quota in found if quota is not None), default=None)


def _read_max(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # "max" means no limit
        return None


def _read_cfs(folder: Path) -> float | None:
    try:
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None

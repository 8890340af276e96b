"""The machine of a GPU report: what it is, and how fast it could be at most."""

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass
class Machine:
    """The device that is measured.

    Attributes:
        device: its name; on the CPU everything is done in small.
        peak: bfloat16 operations per second of a large matrix product, once measured.
    """

    device: str
    peak: float = 0.0

    @property
    def small(self) -> bool:
        """Whether the command itself is tried, on the CPU."""
        return self.device == "cpu"

    def choose(self, large: Any, small: Any) -> Any:
        """Return what is to be used on this machine."""
        return small if self.small else large

    def wait(self) -> None:
        """Wait for everything that the device was given."""
        if not self.small:
            torch.cuda.synchronize(self.device)

    def time(self, work: Callable[[], object], repeats: int = 20) -> float:
        """Return the median seconds of ``work`` on the device."""
        times = []
        for number in range(3 + self.choose(repeats, 2)):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            if number >= 3:
                times.append(time.perf_counter() - start)
        return statistics.median(times)


def environment(machine: Machine) -> dict[str, Any]:
    """Say what runs here."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "compilers": [name for name in ("gcc", "g++", "clang", "nvcc") if shutil.which(name)],
    }
    if not machine.small:
        properties = torch.cuda.get_device_properties(machine.device)
        found["gpu"] = properties.name
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["memory_gib"] = properties.total_memory / 2**30
    if shutil.which("nvidia-smi"):
        asked = "name,driver_version,memory.total,clocks.max.sm,mig.mode.current,persistence_mode"
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        found["nvidia-smi"] = subprocess.run(
            command, capture_output=True, text=True, timeout=60
        ).stdout.strip()
    return found


def limits(machine: Machine) -> dict[str, Any]:
    """Measure the rate of copies, and the peak of bfloat16."""
    side, size = machine.choose(8192, 256), machine.choose(1 << 31, 1 << 20)
    one, other = (torch.randn(side, side, device=machine.device).bfloat16() for _ in range(2))
    machine.peak = 2 * side**3 / machine.time(lambda: one @ other)
    source = torch.empty(size, dtype=torch.uint8, device=machine.device)
    target = torch.empty_like(source)
    copied = 2 * size / machine.time(lambda: target.copy_(source))
    return {"bf16_tflops": machine.peak / 1e12, "copy_tb_per_s": copied / 1e12}


def tests(machine: Machine) -> dict[str, Any]:
    """Run the tests that need a GPU; on the CPU, those of the kernel's tables."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += machine.choose(
        ["-m", "cuda", "tests/models"],
        ["tests/models/cuda/test_tables.py", "-k", "first_counts or rfc"],
    )
    # Without the plugins that a machine happens to have.
    only = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_timeout"}
    done = subprocess.run(
        [*command, "--override-ini", "addopts=--strict-markers --import-mode=importlib"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **only},
    )
    if done.returncode:
        raise RuntimeError(f"tests fail: {done.stdout[-1500:]}{done.stderr[-500:]}")
    return {"passed": int(re.findall(r"(\d+) passed", done.stdout)[-1])}

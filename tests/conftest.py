"""What every test starts from."""

import os
import shutil
from pathlib import Path

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG

# One thread for each process: on few cores more of them only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiling takes the cores for a while at each start of a service; one test asks for it.
os.environ.setdefault("PIXELDP_COMPILE", "false")
# So that what a test meets is the same on every machine; those of other providers ask for them.
os.environ.setdefault("PIXELDP_PROVIDER", "pytorch")

# A request is given up when it hangs: not after the five seconds that httpx has by default, which a
# slow machine with other work takes now and then.
HANG_SECONDS = 300
for phase in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, phase, HANG_SECONDS)

# PyTorch compiles networks with the system's C++ compiler, if it has one.
HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++", "c++"))

# What the tests of a folder are, beside what they say themselves.
MARKS = {"e2e": ["e2e"], "soundness": ["soundness", "slow"], "chaos": ["slow"]}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folders, before it is chosen by marks which of them to run."""
    for folder, marks in MARKS.items():
        for item in items:
            if Path(__file__).parent / folder in item.path.parents:
                for mark in marks:
                    item.add_marker(mark)

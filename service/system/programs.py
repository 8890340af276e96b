"""Processes of our own programs: how they are called, and in which environment."""

import os
import sys

from service import logs


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of ours in a process of its own.

    The current folder is never first on its path: it may hold anything, under any name.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return a process's environment; in its PYTHONPATH an empty part is not the current folder."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, **logs.worker_environment(), "PYTHONPATH": os.pathsep.join(paths)}

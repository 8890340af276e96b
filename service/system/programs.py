"""How processes of our own programs are started, and in which environment."""

import os
import sys

from service import logs


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of our modules in a separate process.

    The current folder is never first on its path, because it may contain modules of any name.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return a process's environment, whose PYTHONPATH never means the current folder."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, **logs.worker_environment(), "PYTHONPATH": os.pathsep.join(paths)}

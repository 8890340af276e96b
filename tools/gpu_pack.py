"""Collect the wheels that a bare machine with a GPU needs for ``make gpu``.

    python -m tools.gpu_pack FOLDER [--python 3.12]

``make gpu-pack`` runs it. The machine has Python and PyTorch's build for CUDA, with NumPy. What
else the service and the tests of GPUs need is downloaded by the digests in ``locks``, and the
project's own wheel is built. Copy the checkout with the folder to the machine.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.lock import ROOT, Pins, read, write

# These come with PyTorch, in versions that suit it.
WITH_TORCH = {"numpy", "setuptools", "sympy", "networkx", "jinja2", "fsspec", "filelock"}
# Of the programs of developers, what the tests of GPUs need.
TESTS = {"pytest", "pytest-timeout", "iniconfig", "pluggy", "packaging", "pygments"}


def wanted() -> Pins:
    """Return what is carried along."""
    serve, dev = read(ROOT / "locks/serve.txt"), read(ROOT / "locks/dev.txt")
    found = {name: pin for name, pin in serve.items() if name not in WITH_TORCH}
    return found | {name: pin for name, pin in dev.items() if name in TESTS}


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)  # noqa: S603 - a fixed command line


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description="Collect wheels for a bare machine with a GPU.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the version on that machine")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        write(Path(listed.name), wanted())
        where = ["--only-binary", ":all:", "--python-version", arguments.python]
        for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"):
            where += ["--platform", platform]
        locked = ["--require-hashes", "--no-deps", "-r", listed.name]
        into = ["-d", str(arguments.folder)]
        _run([*pip, "download", *where, *locked, *into])
    own = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(arguments.folder), str(ROOT)]
    _run([*pip, *own])
    size = sum(file.stat().st_size for file in arguments.folder.iterdir()) / 2**20
    print(f"{arguments.folder}: {size:.0f} MiB")


if __name__ == "__main__":
    main()

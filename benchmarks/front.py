"""The service when its network costs nothing: what is left is front, dispatcher and certification.

    python -m benchmarks.front [--fronts 1,2] [--workers 1,2] [--json FILE]

For each number of front processes and of workers, clients ask one picture at a time. A figure is
answers per second, the front processes' and the main process's processor time for each answer, and
the answers per second that one core would give if front processes had it for themselves. On one
core alone: ``taskset -c 0 python -m benchmarks.front``.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from unittest import mock

import numpy as np
import psutil

from benchmarks.arguments import plain_parser
from benchmarks.http import Connection, closed_loop, lasting
from benchmarks.outcomes import outcomes
from benchmarks.report import Figures
from benchmarks.service import CORES, png, serving

CODE = """
import torch
from torch import nn


class Brightness(nn.Module):
    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return 100 * torch.stack([0.5 - mean, mean - 0.5], 1)


def build():
    return Brightness()
"""
# Pictures of one grey, well on one side: all draws agree, and the first look answers.
GREYS = range(16, 64)
PASS = 64


def make_bundle(folder: Path) -> Path:
    """Import a network of a few operations on 8 × 8 pixels."""
    (folder / "own.py").write_text(CODE)
    bundle = folder / "bundle"
    command = [sys.executable, "-P", "-m", "service.cli.main", "import", f"{folder}/own.py:build"]
    options = ["--input", "1x8x8", "--scale", "0.25", "--draws", "64", "--name", "nothing"]
    subprocess.run([*command, "--out", str(bundle), *options], check=True, capture_output=True)
    return bundle


@contextmanager
def allowed(folder: Path, fronts: int) -> Iterator[None]:
    """Let services run that code, in so many front processes."""
    more = {
        "PIXELDP_BUILDERS": f"{folder}/own.py",
        "PIXELDP_FRONTS": str(fronts),
        "PIXELDP_COMPILE": "false",
        "PIXELDP_PROVIDER": "pytorch",
        "PIXELDP_PRECISION": "float32",
        "PIXELDP_PASS_SIZE": str(PASS),
    }
    with mock.patch.dict(os.environ, more):
        yield


def front_seconds(main: int) -> float:
    """Return the processor time of the main process and its fronts so far."""
    process = psutil.Process(main)
    found = [process, *(one for one in process.children() if "front" in one.cmdline()[0])]
    return float(sum(sum(one.cpu_times()[:2]) for one in found))


def measure(figures: Figures, folder: Path, arguments: argparse.Namespace) -> None:
    """Measure every number of fronts with every number of workers."""
    bodies = [png(np.full((8, 8), grey, np.uint8)) for grey in GREYS]
    bundle = make_bundle(folder)
    for fronts, workers in product(arguments.fronts, arguments.workers):
        devices = ",".join(["cpu"] * workers)
        with allowed(folder, fronts), serving(bundle, "--devices", devices) as (port, main):
            path = "/predict?target=0.05&max_draws=1000"

            def connect(port: int = port, path: str = path) -> Connection:
                return Connection("127.0.0.1", port, path, "image/png")

            asyncio.run(closed_loop(connect, bodies, arguments.clients, lasting(1.0)))
            for _ in range(arguments.rounds):
                before = front_seconds(main)
                replies, took = asyncio.run(
                    closed_loop(connect, bodies, arguments.clients, lasting(arguments.seconds))
                )
                used, found = front_seconds(main) - before, outcomes(replies)
                figures.remark(found.told() if found.failed else "")
                name = f"{fronts} fronts, {workers} workers"
                figures.note(f"{name}: answers/s", found.answered / took)
                figures.note(f"{name}: front µs an answer", 1e6 * used / found.answered)
                figures.note(f"{name}: answers/s of a front's core", found.answered / used)


def numbers(text: str) -> list[int]:
    """Read a list of numbers."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = plain_parser(__doc__)
    parser.add_argument("--fronts", type=numbers, default=[1, 2])
    parser.add_argument("--workers", type=numbers, default=[1, 2])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        measure(figures, Path(folder), arguments)
    title = f"a network that costs nothing, {CORES} cores, {arguments.clients} clients"
    figures.report(title, arguments.json)


if __name__ == "__main__":
    main()

"""The service on Ray Serve beside the plain one, on the same cores: what Ray costs.

    python -m benchmarks.ray [--bundle FOLDER] [--json FILE]

In each round the plain service, one replica, and as many replicas as there are processors are
asked in turn. A figure is the median time of an answer to one client; answers per second to many;
and for each of these answers the processor time of everything but the workers: of the front, or of
replicas, HAProxy and Ray's own processes. By default the network costs next to nothing, as in
``benchmarks.front``, so that this is nearly all there is; with ``--bundle`` it is that one, asked
about its own samples at a target of half its noise scale.
"""

import argparse
import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks.arguments import plain_parser
from benchmarks.front import GREYS, PASS, allowed, make_bundle
from benchmarks.http import Connection, closed_loop, lasting
from benchmarks.outcomes import outcomes
from benchmarks.report import Figures
from benchmarks.service import CORES, png, serving
from models.bundle import read_bundle
from tests.e2e.on_ray import OnRay

# How Ray and this project title their processes.
PARTS = ("worker", "front", "haproxy", "ServeReplica", "ServeController", "raylet")


def seconds(main: int) -> dict[str, float]:
    """Return the processor time of a process and all below it so far, by part."""
    found: dict[str, float] = defaultdict(float)
    process = psutil.Process(main)
    for one in [process, *process.children(recursive=True)]:
        try:
            title, times = " ".join(one.cmdline()), one.cpu_times()
        except psutil.Error:  # it has ended
            continue
        part = next((name for name in PARTS if name in title), "others")
        found[part] += times.user + times.system
    return found


@contextmanager
def on_ray(bundle: Path, replicas: int) -> Iterator[tuple[int, int]]:
    """Run the service on Ray; its port, and the process that is the root of all others."""
    # Replicas run in a folder of Ray's.
    settings = {"PIXELDP_MODELS": str(bundle.resolve()), "PIXELDP_DEVICES": "cpu"}
    scaling = {"min_replicas": replicas, "max_replicas": replicas}
    service = OnRay(settings, autoscaling_config=scaling)
    try:
        service.wait_ready()
        yield int(urlsplit(service.address).port or 80), service.process.pid
    finally:
        service.stop()


def asked(bundle: Path | None) -> tuple[list[bytes], float]:
    """Return the pictures to send, and the target."""
    if bundle is None:
        return [png(np.full((8, 8), grey, np.uint8)) for grey in GREYS], 0.05
    found = read_bundle(bundle)
    return [found.sample(name) for name in found.samples], found.manifest.noise.scale / 2


def measure(
    figures: Figures, name: str, port: int, main: int, arguments: argparse.Namespace
) -> None:
    """Measure one service."""
    bodies, target = asked(arguments.bundle)

    def connect() -> Connection:
        path = f"/predict?target={target}&max_draws=1000"
        return Connection("127.0.0.1", port, path, "image/png")

    asyncio.run(closed_loop(connect, bodies, arguments.clients, lasting(2.0)))
    replies, _ = asyncio.run(closed_loop(connect, bodies, 1, lasting(arguments.seconds)))
    times = [1000 * reply.seconds for reply in replies]
    figures.note(f"{name}: ms of an answer alone, p50", float(np.median(times)))
    before = seconds(main)
    replies, took = asyncio.run(
        closed_loop(connect, bodies, arguments.clients, lasting(arguments.seconds))
    )
    used = {part: spent - before.get(part, 0.0) for part, spent in seconds(main).items()}
    found = outcomes(replies)
    figures.remark(found.told() if found.failed else "")
    figures.note(f"{name}: answers/s", found.answered / took)
    for part, spent in sorted(used.items()):
        figures.note(f"{name}: ms of {part} an answer", 1000 * spent / found.answered)
    rest = sum(used.values()) - used["worker"]
    figures.note(f"{name}: ms an answer without workers", 1000 * rest / found.answered)


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = plain_parser(__doc__)
    parser.add_argument("--bundle", type=Path, help="a bundle, in place of a network without cost")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder, allowed(Path(folder), 1):
        bundle = arguments.bundle or make_bundle(Path(folder))
        for _ in range(arguments.rounds):
            with serving(bundle, "--devices", "cpu") as (port, process):
                measure(figures, "plain, 1 worker", port, process, arguments)
            with serving(bundle, "--devices", ",".join(["cpu"] * CORES)) as (port, process):
                measure(figures, f"plain, {CORES} workers", port, process, arguments)
            for replicas in (1, CORES):
                with on_ray(bundle, replicas) as (port, process):
                    measure(figures, f"Ray, {replicas} replicas", port, process, arguments)
    served = arguments.bundle or "a network that costs nothing"
    title = f"{served} in passes of {PASS}, {CORES} cores, {arguments.clients} clients"
    figures.report(title, arguments.json)


if __name__ == "__main__":
    main()

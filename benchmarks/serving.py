"""How fast and cheap a certified answer is, side by side with what people do today.

    python -m benchmarks.serving --data DATA [--json FILE] [--draws 1000 10000] [--rounds 2]

Every comparison is a ratio taken in one run: the service and its peers in turns, on the same
weights, pictures, η and cores. ``pip install '.[bench]'`` brings the peers.

- roofline: draws a second through HTTP at saturation (size mode, all draws made) over those of a
  bare loop of passes in the service's own format and pass size, one process a core.
- decisions a second in target mode (target ½σ/Δ) over Cohen's loop, LitServe, and ART, which
  always make all n draws. Decisions agree with a fixed n as ``benchmarks.certificates`` measures.
- latency under open-loop arrivals at shares of LitServe's capacity.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.http import Connection, Reply, closed_loop, open_loop
from benchmarks.litserve_peer import litserve_body
from benchmarks.peers import art_certify, cohen, load_classifier
from benchmarks.report import Figures
from benchmarks.roofline import CORES, bare_loops, drawn, roofline
from benchmarks.service import CLIENTS, Service, free_port, png, running, serving
from models.bundle import ZOO
from models.training.datasets import load


def per_second(work: Callable[[int], object], seconds: float) -> float:
    """Call ``work`` with 0, 1, 2, … for about ``seconds``; return calls a second."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work(done)
        done += 1
    return done / (time.perf_counter() - start)


def latencies(replies: list[Reply]) -> dict[str, float]:
    """Return p50 and p99 in milliseconds."""
    times = sorted(reply.seconds for reply in replies)
    at = {"p50": 0.5, "p99": 0.99}
    return {name: 1000 * times[int(share * (len(times) - 1))] for name, share in at.items()}


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ZOO / "mnist-cnn")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--draws", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--settle", type=float, default=45.0, help="seconds for compiling first")
    parser.add_argument("--confidence", type=float, default=0.999)
    parser.add_argument(
        "--shares", type=float, nargs="*", default=[0.5, 0.9], help="of LitServe's capacity"
    )
    parser.add_argument("--arrivals", type=int, default=200, help="from which p99 is taken")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds, confidence = arguments.seconds, arguments.confidence
    images = load(arguments.dataset, arguments.data, "test").images[::10]
    classifier, scale = load_classifier(arguments.bundle)
    floats = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    target = scale / 2
    figures = Figures()
    note = figures.note
    with serving(arguments.bundle) as (port, front):
        service = Service(port, confidence, [png(image) for image in images])
        time.sleep(arguments.settle)
        calibration = service.calibration()
        with bare_loops(arguments.bundle, calibration) as loops:
            for _ in range(arguments.rounds):
                for path, saturate in (
                    ("/predict", partial(service.saturate, 1000, None)),
                    ("/predict/batch", partial(service.saturate_batches, 1000)),
                ):
                    bare, through = roofline(service, front, loops, saturate, seconds)
                    note("draws/s, bare loops", bare)
                    note(f"roofline ratio, {path}, n = 1000", through / bare)
        torch.set_num_threads(CORES)
        for n in arguments.draws:
            for _ in range(arguments.rounds):
                replies, took = service.saturate(n, target, seconds)
                ours = len(replies) / took
                note(f"decisions/s, service, n = {n}", ours)
                note(f"mean draws, service, n = {n}", drawn(replies) / len(replies))
                loop = per_second(
                    lambda i, n=n: cohen(  # type: ignore[misc]
                        classifier, floats[i % len(floats)][None], n, scale, confidence
                    ),
                    seconds,
                )
                note(f"service over Cohen's loop, n = {n}", ours / loop)
                art = per_second(
                    lambda i, n=n: art_certify(  # type: ignore[misc]
                        classifier, scale, floats[i % len(floats)][None].numpy(), n, confidence
                    ),
                    seconds,
                )
                note(f"service over ART, n = {n}", ours / art)
                measure_litserve(arguments, n, service, images, target, ours, note)
    title = f"{arguments.bundle.name}, {CORES} cores, {calibration}, confidence {confidence}"
    figures.report(title, arguments.json)


def measure_litserve(
    arguments: argparse.Namespace,
    n: int,
    service: Service,
    images: NDArray[np.uint8],
    target: float,
    ours: float,
    note: Callable[[str, float], None],
) -> None:
    """Compare with LitServe: capacity, and latency under open-loop arrivals at shares of it."""
    port = free_port()
    options = {
        "--bundle": arguments.bundle,
        "--port": port,
        "--n": n,
        "--confidence": arguments.confidence,
        "--workers": CORES,
    }
    command = [sys.executable, "-m", "benchmarks.litserve_peer"]
    command += [str(part) for pair in options.items() for part in pair]
    bodies = [litserve_body(image) for image in images]

    def connection() -> Connection:
        return Connection("127.0.0.1", port, "/predict", "application/json")

    with running(command, f"http://127.0.0.1:{port}/health"):
        replies, took = asyncio.run(closed_loop(connection, bodies, CLIENTS, 2 * arguments.seconds))
        capacity = len(replies) / took
        note(f"service over LitServe, n = {n}", ours / capacity)
        for share in arguments.shares:
            rate = share * capacity
            length = max(arguments.seconds, arguments.arrivals / rate)
            theirs = latencies(asyncio.run(open_loop(connection, bodies, rate, length)))
            mine = latencies(
                asyncio.run(open_loop(service.connection(n, target), service.bodies, rate, length))
            )
            for name in ("p50", "p99"):
                load = f"{share:.0%} of LitServe's capacity, {rate * length:.0f} arrivals"
                label = f"{name} at {load}, n = {n}"
                note(f"{label}, LitServe (ms)", theirs[name])
                note(f"{label}, service (ms)", mine[name])
                note(f"{label}, service over LitServe", mine[name] / theirs[name])


if __name__ == "__main__":
    main()

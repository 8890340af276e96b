"""The speed and cost of a certified answer, compared with present practice.

    python -m benchmarks.serving --root DATA [--json FILE] [--draws 1000 10000] [--rounds 2]

Every comparison is a ratio from one run: the service and its peers in turns, on the same weights,
pictures, η and cores. ``pip install '.[bench]'`` installs the peers.

- roofline: draws per second through HTTP at saturation (without a target, all draws made) over
  those of a bare loop of passes in the service's own format and pass size, one process per core.
- decisions per second with a target (½σ/Δ) over Cohen's loop, LitServe, and ART, which always make
  all n draws. ``benchmarks.certificates`` measures how far decisions agree with those of a fixed n.
- latency under open-loop arrivals at shares of LitServe's capacity.

The load is what the machine can bear (``benchmarks.service.bearable``). Pictures that still fail
are counted and reported below the figures.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.arguments import add_timing, pictures_parser
from benchmarks.http import Connection, closed_loop, lasting, open_loop
from benchmarks.litserve_peer import litserve_body
from benchmarks.outcomes import latencies, outcomes
from benchmarks.peers import art_certify, cohen, load_classifier
from benchmarks.report import Figures
from benchmarks.roofline import bare_loops, roofline
from benchmarks.service import (
    CORES,
    Service,
    bearable,
    free_port,
    png,
    running,
    serving,
    settle,
)
from models.data.datasets import load

# At a share of a slow peer's capacity, all arrivals would take hours.
LONGEST_ARRIVALS_SECONDS = 300.0


def per_second(work: Callable[[int], object], seconds: float) -> float:
    """Call ``work`` with 0, 1, 2, … for about ``seconds``, at least once; return calls/s."""
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < seconds:
        work(done)
        done += 1
    return done / (time.perf_counter() - start)


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = pictures_parser(__doc__)
    parser.add_argument("--draws", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--rounds", type=int, default=2)
    add_timing(parser, 8.0)
    parser.add_argument("--confidence", type=float, default=0.999)
    parser.add_argument(
        "--shares", type=float, nargs="*", default=[0.5, 0.9], help="of LitServe's capacity"
    )
    parser.add_argument("--arrivals", type=int, default=200, help="from which p99 is taken")
    arguments = parser.parse_args()
    confidence = arguments.confidence
    images = load(arguments.data, arguments.root, "test").images[::10]
    figures = Figures()
    with serving(arguments.bundle) as (port, front):
        service = Service(port, confidence, [png(image) for image in images])
        settle(front, arguments.settle)
        how = service.how()
        measure_roofline(arguments, service, front, figures)
        compare(arguments, service, images, figures)
        if service.how() != how:
            figures.remark(f"the service changed its way meanwhile, to {service.how()}")
    title = f"{arguments.bundle.name}, {CORES} cores, {how}, confidence {confidence}"
    figures.report(title, arguments.json)


def measure_roofline(
    arguments: argparse.Namespace, service: Service, front: int, figures: Figures
) -> None:
    """Measure draws through HTTP over those of bare loops."""
    ways = service.ways()
    if len(ways) > 1:
        figures.remark(
            "the workers run the model in different ways, so the bare loops are not an upper "
            "bound: if cores share resources, one loop alone may be faster than "
            "both, and a worker waits at times"
        )
    with bare_loops(arguments.bundle, ways) as loops:
        for _ in range(arguments.rounds):
            for path, saturate in (
                ("/predict", partial(service.saturate, 1000, None)),
                ("/predict/batch", partial(service.saturate_batches, 1000)),
            ):
                found = roofline(service, front, loops, saturate, arguments.seconds)
                figures.note("draws/s, bare loops", found.bare)
                figures.note(f"roofline ratio, {path}, n = 1000", found.ratio)
                figures.remark(found.told())
                figures.remark(found.outcomes.told())


def compare(
    arguments: argparse.Namespace, service: Service, images: NDArray[np.uint8], figures: Figures
) -> None:
    """Measure decisions a second over those of the peers, in turns."""
    classifier, scale = load_classifier(arguments.bundle)
    floats = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    confidence, target = arguments.confidence, scale / 2

    def loop(n: int, number: int) -> object:
        return cohen(classifier, floats[number % len(floats)][None], n, scale, confidence)

    def art(n: int, number: int) -> object:
        picture = floats[number % len(floats)][None].numpy()
        art_certify(classifier, scale, picture, n, confidence)
        return None

    torch.set_num_threads(CORES)
    for peer in (loop, art):
        peer(1, 0)  # import and set-up do not count
    for n in arguments.draws:
        for _ in range(arguments.rounds):
            replies, took = service.saturate_for(n, target, arguments.seconds)
            found = outcomes(replies)
            figures.remark(found.told())
            ours = found.answered / took
            figures.note(f"decisions/s, service, n = {n}", ours)
            figures.note(f"mean draws, service, n = {n}", found.mean_draws)
            for name, peer in (("Cohen's loop", loop), ("ART", art)):
                theirs = per_second(partial(peer, n), arguments.seconds)
                figures.ratio(f"service over {name}, n = {n}", ours, theirs)
            measure_litserve(arguments, n, service, images, target, ours, figures)


def measure_litserve(
    arguments: argparse.Namespace,
    n: int,
    service: Service,
    images: NDArray[np.uint8],
    target: float,
    ours: float,
    figures: Figures,
) -> None:
    """Compare with LitServe: capacity, and latency under open-loop arrivals at shares of it."""
    port = free_port()
    clients, batch = bearable(service.speed(), n)
    options = {
        "--bundle": arguments.bundle,
        "--port": port,
        "--n": n,
        "--confidence": arguments.confidence,
        # With batches of 1 LitServe never calls batch(), which the peer's predict() relies on.
        "--batch": max(2, batch),
        "--workers": CORES,
    }
    command = [sys.executable, "-m", "benchmarks.litserve_peer"]
    command += [str(part) for pair in options.items() for part in pair]
    bodies = [litserve_body(image) for image in images]

    def connection() -> Connection:
        return Connection("127.0.0.1", port, "/predict", "application/json")

    with running(command, f"http://127.0.0.1:{port}/health"):
        more = lasting(2 * arguments.seconds)
        replies, took = asyncio.run(closed_loop(connection, bodies, clients, more))
        found = outcomes(replies)
        figures.remark(f"LitServe: {found.told()}" if found.failed else "")
        capacity = found.answered / took
        figures.ratio(f"service over LitServe, n = {n}", ours, capacity)
        if not capacity:
            return
        for share in arguments.shares:
            rate = share * capacity
            length = max(
                arguments.seconds, min(arguments.arrivals / rate, LONGEST_ARRIVALS_SECONDS)
            )
            theirs = asyncio.run(open_loop(connection, bodies, rate, length))
            asked = service.connection(n, target)
            mine = asyncio.run(open_loop(asked, service.bodies, rate, length))
            load = f"{share:.0%} of LitServe's capacity, {len(mine)} arrivals, n = {n}"
            for name, one in (("LitServe", theirs), ("service", mine)):
                told = outcomes(one).told()
                figures.remark(f"{name} at {load}: {told}" if told else "")
            both = latencies(theirs, (50, 99)), latencies(mine, (50, 99))
            for name in both[0].keys() & both[1].keys():
                label = f"{name} at {load}"
                figures.note(f"{label}, LitServe (ms)", both[0][name])
                figures.note(f"{label}, service (ms)", both[1][name])
                figures.ratio(f"{label}, service over LitServe", both[1][name], both[0][name])


if __name__ == "__main__":
    main()

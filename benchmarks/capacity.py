"""The capacity model compared with the service, with 1, 2, … workers.

    python -m benchmarks.capacity --root DATA [--bundle BUNDLE --data NAME] [--json FILE]

For each number of workers, in rounds: clients ask for the target ½σ/Δ within 1,000 draws, as many
at once as the machine can bear, which gives the throughput, the draws of decisions and the front's
processor time for an answer. Then pictures come at random times at shares of that throughput, which
gives the times of answers. ``models.capacity`` predicts all of it from the time that workers need
for pictures that take all of 1,000 and of 64 draws: the line through both has the draws per second
and what a picture costs beside them. Deviations are (predicted − measured) / measured.
"""

import argparse
import asyncio
import json

import numpy as np
import psutil

from benchmarks.arguments import add_timing, pictures_parser
from benchmarks.http import open_loop
from benchmarks.outcomes import latencies, outcomes
from benchmarks.report import Figures
from benchmarks.scaling import only_on
from benchmarks.service import CORES, Service, png, serving, settle
from models.bundle import read_bundle
from models.capacity import Decisions, Machine, predict
from models.certification.division import LEAST_DRAWS
from models.data.datasets import load

DRAWS = 1000


def measure(
    service: Service, front: int, workers: int, target: float, arguments: argparse.Namespace
) -> Figures:
    """Compare the model with one service; return the figures."""
    figures: Figures = arguments.figures
    few, many = (
        _seconds_of(service, front, workers, draws, arguments.seconds)
        for draws in (LEAST_DRAWS, DRAWS)
    )
    speed = (DRAWS - LEAST_DRAWS) / max(many - few, 1e-9)
    before = _used(front)
    replies, took = service.saturate_for(DRAWS, target, arguments.seconds)
    used = _used(front) - before
    found = outcomes(replies)
    figures.remark(found.told())
    draws = [json.loads(reply.body)["draws"] for reply in replies if reply.status == 200]
    median, high = np.quantile(draws, (0.5, 0.99))
    decisions = Decisions(float(np.mean(draws)), float(median), float(high))
    [way] = service.ways()
    small = way.get("small_pass") or way["pass_size"]
    beside = max(0.0, few - LEAST_DRAWS / speed)
    machine = Machine(speed, small, used / found.answered, CORES, beside)
    measured = found.answered / took
    name = "1 worker" if workers == 1 else f"{workers} workers"
    figures.note(f"{name}: draws/s of a worker", speed)
    figures.note(f"{name}: worker, ms an answer beside draws", 1000 * beside)
    figures.note(f"{name}: draws of a decision, mean", decisions.mean)
    figures.note(f"{name}: draws of a decision, median", decisions.median)
    figures.note(f"{name}: draws of a decision, p99", decisions.high)
    figures.note(f"{name}: front, ms an answer", 1000 * machine.front_seconds)
    figures.note(f"{name}: answers/s", measured)
    told = machine.capacity(workers, 1, decisions.mean)
    figures.note(f"{name}: deviation of answers/s", told / measured - 1)
    for share in arguments.shares:
        rate = share * measured
        asked = service.connection(DRAWS, target)
        times = latencies(
            asyncio.run(open_loop(asked, service.bodies, rate, arguments.seconds, seed=1)), (50, 99)
        )
        sizing = predict(decisions, machine, rate, workers)
        for label, expected in (("p50", sizing.median), ("p99", sizing.high)):
            figures.note(f"{name}, {share:.0%}: {label}, ms", times[label])
            deviation = 1000 * expected / times[label] - 1
            figures.note(f"{name}, {share:.0%}: deviation of {label}", deviation)
    return figures


def _seconds_of(service: Service, front: int, workers: int, draws: int, seconds: float) -> float:
    """Return the seconds of a worker for a picture that takes so many draws.

    If there is no processor left for the front, it takes its time from the workers.
    """
    before = _used(front)
    replies, took = service.saturate_for(draws, None, seconds)
    taken = _used(front) - before if workers >= CORES else 0.0
    return (took * workers - taken) / outcomes(replies).answered


def _used(front: int) -> float:
    """Return the processor time of the front process alone, in seconds."""
    times = psutil.Process(front).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = pictures_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    add_timing(parser, 8.0)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.3, 0.6])
    arguments = parser.parse_args()
    arguments.figures = figures = Figures()
    manifest = read_bundle(arguments.bundle).manifest
    target = manifest.noise.scale / manifest.sensitivity.value / 2
    bodies = [png(image) for image in load(arguments.data, arguments.root, "test").images[::10]]
    for workers in range(1, CORES + 1):
        with (
            only_on(CORES),
            serving(arguments.bundle, "--devices", ",".join(["cpu"] * workers)) as (port, front),
        ):
            settle(front, arguments.settle)
            for _ in range(arguments.rounds):
                service = Service(port, 0.999, bodies)
                measure(service, front, workers, target, arguments)
    title = f"{manifest.name}, {CORES} cores, target ½σ/Δ, n = {DRAWS}"
    figures.report(title, arguments.json)


if __name__ == "__main__":
    main()

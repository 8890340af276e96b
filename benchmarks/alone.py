"""The latency of one client alone, who asks again when answered.

    python -m benchmarks.alone --root DATA [--bundle BUNDLE --data NAME] [--against PYTHON]

Without load, each picture has the whole machine. It is asked with target ½σ/Δ within 1,000 draws,
and without a target, when it takes all of them. With ``--against``, the interpreter of another
version's environment, services of both versions run at once. They are asked in turns, and at any
time one of them has nothing to do.
"""

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.arguments import add_timing, pictures_parser
from benchmarks.http import closed_loop, lasting
from benchmarks.outcomes import latencies, outcomes
from benchmarks.report import Figures
from benchmarks.service import CORES, Service, png, serving, settle
from models.bundle import read_bundle
from models.data.datasets import load

DRAWS = 1000


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = pictures_parser(__doc__)
    parser.add_argument("--against", type=Path, help="the other version's Python")
    parser.add_argument("--rounds", type=int, default=5)
    add_timing(parser, 4.0)
    parser.add_argument("options", nargs="*", help="options of pixeldp serve, after --")
    arguments = parser.parse_args()
    manifest = read_bundle(arguments.bundle).manifest
    target = manifest.noise.scale / manifest.sensitivity.value / 2
    bodies = [png(image) for image in load(arguments.data, arguments.root, "test").images[::10]]
    pythons = {"this": Path(sys.executable)}
    if arguments.against:
        pythons["the other"] = arguments.against
    figures = Figures()
    with ExitStack() as stack:
        services: dict[str, Service] = {}
        for name, python in pythons.items():
            port, front = stack.enter_context(
                serving(arguments.bundle, *arguments.options, python=python)
            )
            settle(front, arguments.settle)
            services[name] = Service(port, 0.999, bodies)
        for _ in range(arguments.rounds):
            for question, size in (("½σ", target), ("no target", None)):
                for name, service in services.items():
                    ask(service, size, arguments.seconds, f"{name}, {question}", figures)
        how = "; ".join(f"{name}: {service.how()}" for name, service in services.items())
    title = f"{manifest.name}, {CORES} cores, one client, n = {DRAWS}, {how}"
    figures.report(title, arguments.json)


def ask(
    service: Service, target: float | None, seconds: float, name: str, figures: Figures
) -> None:
    """Let one client ask for some seconds."""
    connection = service.connection(DRAWS, target)
    replies, _ = asyncio.run(closed_loop(connection, service.bodies, 1, lasting(seconds)))
    found = outcomes(replies)
    figures.remark(f"{name}: {found.told()}" if found.failed else "")
    for percent, value in latencies(replies, (50, 95)).items():
        figures.note(f"{name}: {percent} (ms)", value)
    figures.note(f"{name}: draws", found.mean_draws)


if __name__ == "__main__":
    main()

"""What more workers give, and what one core gives.

    python -m benchmarks.scaling --root DATA [--bundle BUNDLE --data NAME] [--json FILE]

Clients ask for the target ½σ/Δ within 1,000 draws, as many at once as the machine can bear, in
rounds that alternate between services:

- 1, 2, … workers, up to the number of cores: answers per second, and their ratio to one worker's.
- one worker on one core: the whole service may use one core only, and the load generator has the
  others. On a machine with one core this is the same as one worker.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.arguments import add_timing, pictures_parser
from benchmarks.outcomes import outcomes
from benchmarks.report import Figures
from benchmarks.service import CORES, Service, png, serving, settle
from models.bundle import read_bundle
from models.data.datasets import load

DRAWS = 1000


@contextmanager
def only_on(cores: int) -> Iterator[None]:
    """Have the processes that are started meanwhile use the first ``cores`` cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(
    bundle: Path, workers: int, cores: int, settled: float, ask: Callable[[int], tuple[float, str]]
) -> tuple[float, str]:
    """Serve with so many workers on so many cores; return what ``ask`` finds at the port."""
    with ExitStack() as stack:
        with only_on(cores):
            devices = ",".join(["cpu"] * workers)
            port, front = stack.enter_context(serving(bundle, "--devices", devices))
        settle(front, settled)
        return ask(port)


def _named(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = pictures_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    add_timing(parser, 8.0)
    arguments = parser.parse_args()
    manifest = read_bundle(arguments.bundle).manifest
    target = manifest.noise.scale / manifest.sensitivity.value / 2
    images = load(arguments.data, arguments.root, "test").images[::10]
    bodies, figures = [png(image) for image in images], Figures()

    def ask(port: int) -> tuple[float, str]:
        service = Service(port, 0.999, bodies)
        replies, took = service.saturate_for(DRAWS, target, arguments.seconds)
        found = outcomes(replies)
        return found.answered / took, found.told() if found.failed else ""

    settings = {_named(workers): (workers, CORES) for workers in range(1, CORES + 1)}
    settings["1 worker on 1 core"] = (1, 1)
    for _ in range(arguments.rounds):
        speeds: dict[str, float] = {}
        for name, (workers, cores) in settings.items():
            speeds[name], failed = measure(arguments.bundle, workers, cores, arguments.settle, ask)
            figures.remark(f"{name}: {failed}" if failed else "")
            figures.note(f"{name}: answers/s", speeds[name])
        for name, speed in speeds.items():
            if name != _named(1):
                figures.ratio(f"{name}, over 1 worker", speed, speeds[_named(1)])
    title = f"{manifest.name}, {CORES} cores, target ½σ/Δ, n = {DRAWS}"
    figures.report(title, arguments.json)


if __name__ == "__main__":
    main()

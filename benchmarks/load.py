"""The service under load: from one client to far beyond saturation, and at rest.

    python -m benchmarks.load --root DATA [--bundle BUNDLE --data NAME] [--json FILE]

- start: from the command to ready, twice; the second start finds files in the system's cache.
- rest: processor time and memory of all its processes without requests.
- curve: answers per second and latency of 1 to 1,000 clients, each of which asks again once
  answered, with target ½σ/Δ within 1,000 draws; that many pictures are in flight. Memory at the
  peak. On a slow machine it ends with fewer clients, and says so.
- overload: requests without a target, each of which takes all its draws, arrive at 10 times the
  most answers per second, whatever becomes of them. Goodput is the number still answered with 200
  per second; draw budgets shrink meanwhile, as by default. Then the same of a service that keeps
  budgets (``PIXELDP_SHRINK=false``).
"""

import asyncio
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks.arguments import add_timing, pictures_parser
from benchmarks.http import closed_loop, lasting, open_loop
from benchmarks.outcomes import latencies, outcomes
from benchmarks.report import Figures
from benchmarks.service import CORES, Service, png, processor_seconds, serving, settle
from models.bundle import read_bundle
from models.data.datasets import load

CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
# Numbers of clients with which each would wait longer are left out.
LONGEST_SECONDS = 60.0
REST_SECONDS = 20.0
OVERLOAD = 10
DRAWS = 1000


def processes(front: int) -> list[psutil.Process]:
    """Return the front process and its descendants."""
    process = psutil.Process(front)
    return [process, *process.children(recursive=True)]


def memory(front: int) -> float:
    """Return the memory of the service in MiB; shared memory counts once."""
    return float(sum(one.memory_full_info().pss for one in processes(front)) / 2**20)


@contextmanager
def watching(front: int) -> Iterator[list[float]]:
    """Read the memory twice a second while the block runs, and at its end."""
    taken: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            taken.append(memory(front))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield taken
    finally:
        ended.set()
        thread.join()
        taken.append(memory(front))


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = pictures_parser(__doc__)
    add_timing(parser, 8.0)
    arguments = parser.parse_args()
    # Overload needs a connection for each request that is not answered yet.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    manifest = read_bundle(arguments.bundle).manifest
    target = manifest.noise.scale / manifest.sensitivity.value / 2
    images = load(arguments.data, arguments.root, "test").images[::10]
    bodies = [png(image) for image in images]
    figures = Figures()
    for _ in range(2):
        start = time.perf_counter()
        with serving(arguments.bundle):
            figures.note("start to ready (s)", time.perf_counter() - start)
    with serving(arguments.bundle) as (port, front):
        settle(front, arguments.settle)
        service = Service(port, 0.999, bodies)
        at_rest(front, figures)
        curve(service, front, target, arguments.seconds, figures)
        overload(service, arguments.seconds, figures)
        figures.note("memory after overload (MiB)", memory(front))
        how = service.how()
    with serving(arguments.bundle, PIXELDP_SHRINK="false") as (port, front):
        settle(front, arguments.settle)
        overload(Service(port, 0.999, bodies), arguments.seconds, figures, "budgets kept, ")
    title = f"{manifest.name}, {CORES} cores, {how}, target ½σ/Δ, n = {DRAWS}"
    figures.report(title, arguments.json)


def at_rest(front: int, figures: Figures) -> None:
    """Measure the service's processor time and memory without requests."""
    figures.note("memory at rest (MiB)", memory(front))
    before = processor_seconds(front)
    time.sleep(REST_SECONDS)
    used = processor_seconds(front) - before
    figures.note("share of a core at rest", used / REST_SECONDS)


def curve(service: Service, front: int, target: float, seconds: float, figures: Figures) -> None:
    """Measure answers and latency of more and more clients, as far as the machine can bear."""
    ask = service.connection(DRAWS, target)
    peak = 0.0
    for clients in CLIENTS:
        if peak and clients / peak > LONGEST_SECONDS:
            figures.remark(
                f"{clients} clients and more were left out: at {peak:.3g} answers/s each would "
                f"wait longer than {LONGEST_SECONDS:g} s"
            )
            break
        more = lasting(max(seconds, 2 * clients / peak if peak else 0.0))
        with watching(front) as taken:
            replies, took = asyncio.run(closed_loop(ask, service.bodies, clients, more))
        found = outcomes(replies)
        figures.remark(f"{clients} clients: {found.told()}" if found.failed else "")
        peak = max(peak, found.answered / took)
        figures.note(f"{clients} clients: answers/s", found.answered / took)
        figures.note(f"{clients} clients: failed", found.failed.total())
        for name, value in latencies(replies, (50, 95, 99)).items():
            figures.note(f"{clients} clients: {name} (ms)", value)
        figures.note(f"{clients} clients: memory at the peak (MiB)", max(taken))


def overload(service: Service, seconds: float, figures: Figures, how: str = "") -> None:
    """Measure what is still answered at many times the peak load."""
    replies, took = service.saturate_for(DRAWS, None, seconds)
    found = outcomes(replies)
    figures.remark(found.told())
    peak = found.answered / took
    figures.note(f"{how}all draws made: answers/s", peak)
    if not peak:
        return
    ask = service.connection(DRAWS, None)
    start = time.perf_counter()
    replies = asyncio.run(open_loop(ask, service.bodies, OVERLOAD * peak, 2 * seconds))
    took = time.perf_counter() - start
    statuses = Counter(reply.status for reply in replies)
    figures.note(f"{how}{OVERLOAD} times the peak: requests/s", len(replies) / took)
    figures.note(f"{how}{OVERLOAD} times the peak: goodput over peak", statuses[200] / took / peak)
    for status, count in sorted(statuses.items()):
        figures.note(
            f"{how}{OVERLOAD} times the peak: share of status {status}", count / len(replies)
        )


if __name__ == "__main__":
    main()

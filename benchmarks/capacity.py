"""The capacity model compared with the service, with 1, 2, … workers.

    python -m benchmarks.capacity --root DATA [--bundle BUNDLE --data NAME] [--json FILE]

Services with 1, 2, … workers are asked in turns, in rounds, for the target ½σ/Δ within 1,000 draws.
``models.capacity`` is told what was measured of the one with one worker: the times of answers to
one client, answers per second to 1, 2, 4, … clients who ask again once answered, and the processor
time for an answer. It predicts, for each service, the most answers per second, and the times of
answers if pictures come at random times at shares of these. Deviations are (predicted − measured) /
measured, over all rounds together. ``pixeldp plan --measured`` reads the JSON file.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import psutil

from benchmarks.arguments import add_timing, pictures_parser
from benchmarks.http import Connection, Reply, closed_loop, lasting, open_loop
from benchmarks.outcomes import outcomes
from benchmarks.report import Figures
from benchmarks.scaling import only_on
from benchmarks.service import CORES, Service, bearable, png, processor_seconds, serving, settle
from models.bundle import read_bundle
from models.capacity import Machine, predict
from models.data.datasets import load

DRAWS = 1000


@dataclass
class Measured:
    """One service, and what was measured of it so far.

    Attributes:
        service: asked.
        front: its front process.
        connection: makes connections that ask the question.
        loads: the numbers of clients at once.
        answered: answers, seconds, and processor seconds of the front and of all that share the
            cores, by the number of clients.
        alone: seconds of answers to one client.
        times: seconds of answers to pictures that come at random times, by the share of the most
            answers per second, of each round.
        rates: pictures per second meanwhile.
    """

    service: Service
    front: int
    connection: Callable[[], Connection]
    loads: Sequence[int]
    answered: dict[int, list[tuple[int, float, float, float]]] = field(default_factory=dict)
    alone: list[float] = field(default_factory=list)
    times: dict[float, list[list[float]]] = field(default_factory=dict)
    rates: dict[float, list[float]] = field(default_factory=dict)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let the service run; it is stopped otherwise."""
        os.killpg(self.front, signal.SIGCONT)
        try:
            yield
        finally:
            os.killpg(self.front, signal.SIGSTOP)

    def ask(self, clients: int, seconds: float, figures: Figures) -> None:
        """Let clients ask again and again for some seconds."""
        front, shared = self._used()
        asked = closed_loop(self.connection, self.service.bodies, clients, lasting(seconds))
        replies, took = asyncio.run(asked)
        front, shared = (
            now - then for now, then in zip(self._used(), (front, shared), strict=True)
        )
        found = outcomes(replies)
        figures.remark(found.told())
        self.answered.setdefault(clients, []).append((found.answered, took, front, shared))
        if clients == 1:
            self.alone += _seconds(replies)

    def arrive(self, share: float, seconds: float, seed: int) -> None:
        """Have pictures come at random times, at a share of the most answers per second so far."""
        rate = share * self.speed(self.loads[-1])
        asked = open_loop(self.connection, self.service.bodies, rate, seconds, seed)
        self.times.setdefault(share, []).append(_seconds(asyncio.run(asked)))
        self.rates.setdefault(share, []).append(rate)

    def speed(self, clients: int) -> float:
        """Answers per second to so many clients."""
        answers, seconds, *_ = np.sum(self.answered[clients], axis=0)
        return float(answers / seconds)

    def machine(self) -> Machine:
        """What the model is told, of a service with one worker."""
        answers, _, front, shared = np.sum(self.answered[self.loads[-1]], axis=0)
        median, high = np.quantile(self.alone, (0.5, 0.99))
        return Machine(
            tuple((float(clients), self.speed(clients)) for clients in self.loads),
            float(median),
            float(high),
            front_seconds=float(front / answers),
            cores=CORES,
            shared_seconds=float(shared / answers),
        )

    def _used(self) -> tuple[float, float]:
        """Processor seconds of the front, and of the whole service and this process."""
        times, own = psutil.Process(self.front).cpu_times(), os.times()
        return times.user + times.system, processor_seconds(self.front) + own.user + own.system


def _seconds(replies: Sequence[Reply]) -> list[float]:
    return [reply.seconds for reply in replies if reply.status == 200]


def measure(services: dict[int, Measured], arguments: argparse.Namespace, figures: Figures) -> None:
    """Ask all services in turns."""
    for turn in range(arguments.rounds):
        for workers, measured in services.items():
            with measured.turn():
                for clients in measured.loads:
                    measured.ask(clients, arguments.seconds, figures)
                for share in arguments.shares:
                    measured.arrive(share, 2 * arguments.seconds, seed=turn)
            speed = measured.speed(measured.loads[-1])
            print(f"  round {turn + 1}, {workers} workers: {speed:.1f} answers/s", flush=True)


def compare(machine: Machine, workers: int, measured: Measured, figures: Figures) -> None:
    """Note what was measured of a service, and how far the model is from it."""
    name = "1 worker" if workers == 1 else f"{workers} workers"
    for clients in measured.loads:
        figures.note(f"{name}: answers/s, {clients} at once", measured.speed(clients))
    most = max(map(measured.speed, measured.loads))
    figures.note(
        f"{name}: deviation of the most answers/s", machine.capacity(workers, 1) / most - 1
    )
    for share, rounds in measured.times.items():
        # Rounds differ a little in their rate.
        found = [predict(machine, rate, workers) for rate in measured.rates[share]]
        for label, quantile in (("p50", 0.5), ("p99", 0.99)):
            for times in rounds:
                figures.note(
                    f"{name}, {share:.0%}: {label} of a round, ms",
                    1000 * float(np.quantile(times, quantile)),
                )
            told = np.mean([one.median if quantile == 0.5 else one.high for one in found])
            whole = np.quantile(np.concatenate(rounds), quantile)
            figures.note(f"{name}, {share:.0%}: {label} of all, ms", 1000 * float(whole))
            figures.note(f"{name}, {share:.0%}: deviation of {label}", float(told / whole) - 1)


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = pictures_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    add_timing(parser, 5.0)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.3, 0.6])
    arguments = parser.parse_args()
    figures = Figures()
    manifest = read_bundle(arguments.bundle).manifest
    target = manifest.noise.scale / manifest.sensitivity.value / 2
    bodies = [png(image) for image in load(arguments.data, arguments.root, "test").images[::10]]
    services: dict[int, Measured] = {}
    with only_on(CORES), ExitStack() as running:
        for workers in range(1, CORES + 1):
            devices = ",".join(["cpu"] * workers)
            port, front = running.enter_context(serving(arguments.bundle, "--devices", devices))
            settle(front, arguments.settle)
            service = Service(port, 0.999, bodies)
            most = bearable(service.speed(), DRAWS).clients
            loads = [clients for clients in (1, 2, 4, 8, 16) if clients < most] + [most]
            asked = service.connection(DRAWS, target)
            services[workers] = Measured(service, front, asked, loads)
            os.killpg(front, signal.SIGSTOP)
        try:
            measure(services, arguments, figures)
        finally:
            for one in services.values():
                os.killpg(one.front, signal.SIGCONT)
    machine = services[1].machine()
    figures.note("front, ms an answer", 1000 * machine.front_seconds)
    figures.note("all on the same cores, ms an answer", 1000 * machine.shared_seconds)
    figures.note("alone: p50, ms", 1000 * machine.median)
    figures.note("alone: p99, ms", 1000 * machine.high)
    for workers, measured in services.items():
        compare(machine, workers, measured, figures)
    title = f"{manifest.name}, {CORES} cores, target ½σ/Δ, n = {DRAWS}"
    # Sizes are planned for workers and fronts that have cores of their own.
    told = asdict(replace(machine, cores=None, shared_seconds=0.0))
    figures.report(title, arguments.json, machine=told)


if __name__ == "__main__":
    main()

"""Draws of a bulk certification compared with the engine alone, and with bare loops of passes.

    python -m benchmarks.bulk --root DATA [--bundle BUNDLE --data NAME] [--json FILE]

All three run in turns of half a second. Pictures take all their draws. Only draws of answered
pictures count, so a turn may be wrong by the pictures in flight, and there must be many turns. The
engine alone has as many pictures at once, whose answers nobody keeps. The bare loops run h as the
workers do (``benchmarks.roofline``), and certify nothing.
"""

import argparse
import asyncio
import ctypes
import itertools
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.arguments import pictures_parser
from benchmarks.report import Figures
from benchmarks.roofline import TURN_SECONDS, BareLoops, bare_loops, run_for
from benchmarks.service import CORES, START_SECONDS
from models.bulk.job import Asked, Row, open_job, read_columns
from models.bulk.sources import ArraySource
from models.bundle import Bundle, read_bundle
from models.certification.question import Question
from models.data.datasets import load
from service.bulk.answerer import LocalAnswerer, local_answerer
from service.bulk.certify import PART_SECONDS, BulkCertifier, certify_missing, reduced
from service.catalogue import Served
from service.decoding.reduction import Task
from service.settings import Settings


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(models=[arguments.bundle], compile=False, check_seconds=0)


def _question(arguments: argparse.Namespace, bundle: Bundle) -> Question:
    norm = bundle.manifest.sensitivity.input_norm
    return Question(arguments.confidence, arguments.draws, None, norm)


def _certify(arguments: argparse.Namespace, folder: Path, drawn: Any) -> None:
    """Certify until it is killed; ``drawn`` counts the draws of answered pictures."""
    os.setpgrp()
    bundle = read_bundle(arguments.bundle)
    data = load(arguments.data, arguments.root, "test")
    source = ArraySource(data, bundle.manifest.labels)
    question, settings = _question(arguments, bundle), _settings(arguments)

    def tell(row: Row) -> None:
        drawn.value += row.draws or 0

    async def run(job: Any) -> None:
        async with local_answerer(settings) as answerer:
            certifier = BulkCertifier(answerer, Served(0, bundle), settings.max_pixels)
            await certify_missing(job, source, certifier, tell)

    with open_job(folder, Asked.of(bundle, source, arguments.data, question)) as job:
        asyncio.run(run(job))


def _ask(arguments: argparse.Namespace, drawn: Any) -> None:
    """Ask the engine about the same pictures until it is killed; ``drawn`` counts the draws."""
    os.setpgrp()
    bundle = read_bundle(arguments.bundle)
    question, settings = _question(arguments, bundle), _settings(arguments)
    task = Task(settings.max_pixels, bundle.manifest.input.shape)
    images = load(arguments.data, arguments.root, "test").images
    pictures = itertools.cycle([reduced(image, task) for image in images[:1000]])

    async def ask(answerer: LocalAnswerer) -> None:
        while True:
            result = await answerer.answer(next(pictures), question)
            drawn.value += result.conclusion.draws

    async def run() -> None:
        async with local_answerer(settings) as answerer:
            await asyncio.gather(*(ask(answerer) for _ in range(answerer.places)))

    asyncio.run(run())


def _ways(folder: Path) -> list[dict[str, Any]]:
    """Return how the workers run h, as for ``bare_loops``."""
    columns, _ = read_columns(folder, "answer")
    computes = Counter(json.dumps(json.loads(one)["compute"]) for one in columns["answer"])
    return [{**json.loads(computes.most_common(1)[0][0]), "workers": CORES}]


class Asker:
    """A process that has pictures answered, and is stopped but in its turns.

    Args:
        work: what it does, until it is killed; its last argument counts draws.
        arguments: the others.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._drawn = context.RawValue(ctypes.c_long)
        self._process = context.Process(target=work, args=(*arguments, self._drawn))
        self._process.start()

    @property
    def draws(self) -> int:
        """Draws of the pictures that are answered so far."""
        drawn: int = self._drawn.value
        return drawn

    def await_answers(self) -> None:
        """Wait until the first pictures are answered, and stop it.

        Raises:
            RuntimeError: there is no answer.
        """
        end = time.monotonic() + START_SECONDS
        while not self.draws:
            if time.monotonic() > end or not self._process.is_alive():
                raise RuntimeError("no picture is certified")
            time.sleep(0.2)
        time.sleep(5.0)
        self.signal(signal.SIGSTOP)

    def run(self, seconds: float) -> float:
        """Let it continue for some seconds; return for how long it ran."""
        return run_for(seconds, self.signal)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its workers."""
        os.killpg(int(self._process.pid or 0), number)

    def end(self) -> None:
        """Kill it."""
        self.signal(signal.SIGKILL)
        self._process.join()


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = pictures_parser(__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--confidence", type=float, default=0.999)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=150.0, help="of each, in each round")
    arguments = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "out"
        askers: list[Asker] = []
        try:
            # One after the other, so that the first measures how to run the model at rest.
            for work, told in ((_certify, (arguments, folder)), (_ask, (arguments,))):
                askers.append(Asker(work, *told))
                askers[-1].await_answers()
            bulk, engine = askers
            bulk.run(PART_SECONDS)
            [way] = ways = _ways(folder)
            with bare_loops(arguments.bundle, ways) as loops:
                turns: dict[str, Asker | BareLoops] = {
                    "bulk": bulk,
                    "engine alone": engine,
                    "bare loops": loops,
                }
                for _ in range(arguments.rounds):
                    made, took = dict.fromkeys(turns, 0), dict.fromkeys(turns, 0.0)
                    for _ in range(round(arguments.seconds / TURN_SECONDS)):
                        for name, one in turns.items():
                            before = one.draws
                            took[name] += one.run(TURN_SECONDS)
                            made[name] += one.draws - before
                    speeds = {name: made[name] / took[name] for name in turns}
                    for name, speed in speeds.items():
                        figures.note(f"draws/s, {name}", speed)
                    for name in ("engine alone", "bare loops"):
                        figures.ratio(f"bulk over {name}", speeds["bulk"], speeds[name])
        finally:
            for asker in askers:
                asker.end()
    how = f"{way['provider']} {way['precision']}, passes of {way['pass_size']}"
    title = f"{arguments.bundle.name}, {CORES} cores, {how}, n = {arguments.draws}"
    figures.report(title, arguments.json)


if __name__ == "__main__":
    main()

"""Draws of a bulk certification compared with bare loops of passes, in turns of half a second.

    python -m benchmarks.bulk --root DATA [--bundle BUNDLE --data NAME] [--json FILE]

Pictures take all their draws. Only draws of answered pictures count, so a turn may be wrong by the
pictures in flight, and there must be many turns. The bare loops run h as the workers do
(``benchmarks.roofline``).
"""

import argparse
import asyncio
import ctypes
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.arguments import pictures_parser
from benchmarks.report import Figures
from benchmarks.roofline import TURN_SECONDS, bare_loops
from benchmarks.service import CORES, START_SECONDS
from models.bulk.job import Asked, Row, open_job, read_columns
from models.bulk.sources import ArraySource
from models.bundle import read_bundle
from models.certification.question import Question
from models.data.datasets import load
from service.bulk.answerer import local_answerer
from service.bulk.certify import BulkCertifier, certify_missing
from service.catalogue import Served
from service.settings import Settings


def _certify(arguments: argparse.Namespace, folder: Path, drawn: Any) -> None:
    """Certify until it is killed; ``drawn`` counts the draws of answered pictures."""
    os.setpgrp()
    bundle = read_bundle(arguments.bundle)
    data = load(arguments.data, arguments.root, "test")
    source = ArraySource(data, bundle.manifest.labels)
    norm = bundle.manifest.sensitivity.input_norm
    question = Question(arguments.confidence, arguments.draws, None, norm)
    settings = Settings(models=[arguments.bundle], compile=False, check_seconds=0)

    def tell(row: Row) -> None:
        drawn.value += row.draws or 0

    async def run(job: Any) -> None:
        async with local_answerer(settings) as answerer:
            certifier = BulkCertifier(answerer, Served(0, bundle), settings.max_pixels)
            await certify_missing(job, source, certifier, tell)

    with open_job(folder, Asked.of(bundle, source, arguments.data, question)) as job:
        asyncio.run(run(job))


def _ways(folder: Path) -> list[dict[str, Any]]:
    """Wait for the first answers, and return how the workers run h, as for ``bare_loops``."""
    end = time.monotonic() + START_SECONDS
    while not list(folder.glob("parts/part-*")):
        if time.monotonic() > end:
            raise RuntimeError("no picture is certified")
        time.sleep(0.2)
    columns, _ = read_columns(folder, "answer")
    computes = Counter(json.dumps(json.loads(one)["compute"]) for one in columns["answer"])
    return [{**json.loads(computes.most_common(1)[0][0]), "workers": CORES}]


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = pictures_parser(__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--confidence", type=float, default=0.999)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each, in each round")
    arguments = parser.parse_args()
    figures = Figures()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "out"
        drawn = context.RawValue(ctypes.c_long)
        process = context.Process(target=_certify, args=(arguments, folder, drawn))
        process.start()
        group = int(process.pid or 0)
        try:
            ways = _ways(folder)
            with bare_loops(arguments.bundle, ways) as loops:
                for _ in range(arguments.rounds):
                    bulk, bare, running, alone = drawn.value, loops.draws, 0.0, 0.0
                    for _ in range(round(arguments.seconds / TURN_SECONDS)):
                        start = time.perf_counter()
                        time.sleep(TURN_SECONDS)
                        os.killpg(group, signal.SIGSTOP)
                        running += time.perf_counter() - start
                        alone += loops.run(TURN_SECONDS)
                        os.killpg(group, signal.SIGCONT)
                    through = (drawn.value - bulk) / running
                    figures.note("draws/s, bare loops", (loops.draws - bare) / alone)
                    figures.note("draws/s, bulk", through)
                    figures.ratio("bulk over bare loops", through * alone, loops.draws - bare)
        finally:
            os.killpg(group, signal.SIGKILL)
            process.join()
    [way] = ways
    how = f"{way['provider']} {way['precision']}, passes of {way['pass_size']}"
    title = f"{arguments.bundle.name}, {CORES} cores, {how}, n = {arguments.draws}"
    figures.report(title, arguments.json)


if __name__ == "__main__":
    main()

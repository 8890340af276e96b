"""From the command to ready: with an empty cache, and with what an earlier start left there.

    python -m benchmarks.start [--bundle BUNDLE] [--rounds N] [--against PYTHON] [--json FILE]

- first start: with an empty ``PIXELDP_CACHE``, so that every way of running the model is measured.
- second start: with what the first one kept. Its processor seconds are those of all processes until
  the service is ready; on a busy machine they say more than the seconds on the clock.
- against: the same of another version, by the Python of its virtual environment, in turns.

Before the first round everything is started once, so that its files are in the system's cache.
"""

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.arguments import bundle_parser
from benchmarks.report import Figures
from benchmarks.service import CORES, processor_seconds, serving


def start(python: Path, bundle: Path, cache: str) -> tuple[float, float]:
    """Start a service, and stop it when it is ready.

    Returns:
        The seconds from the command to ready, and the processor seconds of all its processes.
    """
    began = time.perf_counter()
    with serving(bundle, python=python, PIXELDP_CACHE=cache) as (_, front):
        return time.perf_counter() - began, processor_seconds(front)


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = bundle_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", type=Path, help="the other version's Python")
    arguments = parser.parse_args()
    versions = {"": Path(sys.executable)}
    if arguments.against:
        versions["against, "] = arguments.against
    figures = Figures()
    for measured in range(arguments.rounds + 1):
        for name, python in versions.items():
            with tempfile.TemporaryDirectory() as cache:
                for which in ("first", "second"):
                    seconds, used = start(python, arguments.bundle, cache)
                    if measured:
                        figures.note(f"{name}{which} start to ready (s)", seconds)
                        figures.note(f"{name}{which} start, processor seconds", used)
    title = f"{arguments.bundle.name}, {CORES} cores"
    figures.report(title, arguments.json)


if __name__ == "__main__":
    main()

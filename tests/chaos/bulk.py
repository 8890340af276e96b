"""Kills of a bulk certification, of its workers and of the whole job.

    python -m tests.chaos.bulk [--kills 20] [--jobs 5] [--pictures 2000]

``make chaos-bulk`` runs it. It ends with 1 if a picture was lost or certified twice, if an answer
does not follow from its evidence, or if fewer were killed than asked for.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.bulk.job import PARTS, read_columns
from models.verification import verify
from tests.chaos.processes import title, wait_gone, workers
from tests.names import ROOT

# A hang: ten times what a slow machine takes.
HANG_SECONDS = 600.0
EARLY = "the job ended before all kills: raise --pictures"
NONE_AGAIN = "no picture began again"
ENVIRONMENT = {"PIXELDP_STALL_SECONDS": "30", "PIXELDP_CHECK_SECONDS": "0", "OMP_NUM_THREADS": "1"}


def make_pictures(file: Path, count: int) -> None:
    """Write sevens, each with other noise."""
    with Image.open(ROOT / "examples" / "7.png") as opened:
        seven = np.asarray(opened.convert("L"), dtype=np.int64)
    noise = np.random.default_rng(0).integers(0, 40, (count, *seven.shape))
    images = np.minimum(seven + noise, 255).astype(np.uint8)
    names = [str(digit) for digit in range(10)]
    np.savez(file, images=images, labels=np.full(count, 7), names=names)


class Bulk:
    """One run of the command after another, into the same folder.

    Args:
        folder: with ``pictures.npz``.
        options: of the command, beside those that all have.
        environment: of its processes.
    """

    def __init__(
        self, folder: Path, options: Sequence[str], environment: Mapping[str, str] = os.environ
    ) -> None:
        self.output = folder / "out"
        self._log = folder / "log"
        command = [sys.executable, "-P", "-m", "service.cli.main", "certify"]
        command += [str(folder / "pictures.npz"), "--output", str(self.output), "--no-compile"]
        command += ["--provider", "pytorch", "--precision", "float32", "--pass-size", "64"]
        self._command = [*command, "--draws", "128", *options]
        self._environment = {**environment, **ENVIRONMENT}
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the command."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )

    def workers(self) -> list[int]:
        """Return the processes that certify."""
        return sorted(pid for pid in workers(self.process.pid) if "-worker" in title(pid))

    @property
    def log(self) -> str:
        """All that the runs have said."""
        return self._log.read_text(errors="replace")

    def wait_progress(self, parts: int) -> bool:
        """Wait for so many parts more; False if the job ended before."""
        had, end = self._parts(), time.monotonic() + HANG_SECONDS
        while self._parts() < had + parts:
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                raise AssertionError(f"no progress: {self.log[-2000:]}")
            time.sleep(0.05)
        return True

    def _parts(self) -> int:
        return len(list((self.output / PARTS).glob("part-*"))) if self.output.exists() else 0

    def kill_worker(self, turn: int) -> bool:
        """Kill a worker, each in its turn; False if there is none."""
        found = self.workers()
        if not found:
            return False
        os.kill(found[turn % len(found)], signal.SIGKILL)
        return True

    def kill(self) -> list[str]:
        """Kill the job and start it again; return what was left of it."""
        left = self.workers()
        self.process.kill()
        self.process.wait(HANG_SECONDS)
        found = wait_gone(left, HANG_SECONDS)
        self.process = self.start()
        return found


def run(folder: Path, pictures: int, kills: int, jobs: int, devices: int = 2) -> dict[str, Any]:
    """Certify pictures and kill meanwhile; return what was counted, and what is ``wrong``.

    A fast machine may end the job before all kills, or a kill may come between two pictures. All is
    then done again with twice the pictures, up to sixteen times as many.
    """
    for doubled in range(5):
        counts = attempt(folder / str(doubled), pictures << doubled, kills, jobs, devices)
        if EARLY not in counts["wrong"] and NONE_AGAIN not in counts["wrong"]:
            break
    return counts


def attempt(folder: Path, pictures: int, kills: int, jobs: int, devices: int) -> dict[str, Any]:
    """Certify so many pictures, see ``run``."""
    folder.mkdir()
    make_pictures(folder / "pictures.npz", pictures)
    bulk = Bulk(folder, ["--devices", ",".join(["cpu"] * devices)])
    killed, ended, left = 0, 0, list[str]()
    each = max(1, kills // max(jobs, 1))
    try:
        while (killed < kills or ended < jobs) and bulk.wait_progress(1):
            if ended < jobs and killed >= (ended + 1) * each:
                left += bulk.kill()
                ended += 1
            elif killed < kills:
                killed += bulk.kill_worker(killed)
        while bulk.wait_progress(1):  # it is not timed: a slow machine has many pictures left
            pass
        code = bulk.process.wait(HANG_SECONDS)
    finally:
        bulk.process.kill()
        bulk.process.wait()
    counts = {"pictures": pictures, "workers killed": killed, "jobs killed": ended}
    return {
        **counts,
        **examine(bulk.output, pictures, (killed, ended) == (kills, jobs), code, left),
    }


def examine(
    output: Path, pictures: int, all_killed: bool, code: int, left: list[str]
) -> dict[str, Any]:
    """Look at the answers."""
    columns, _ = read_columns(output, "problem", "label", "certified_size", "answer")
    times = Counter(columns["picture"])
    answers = [json.loads(answer) for answer in columns["answer"] if answer is not None]
    found = {
        "lost": pictures - len(times),
        "doubled": sum(count > 1 for count in times.values()),
        "without an answer": sum(problem is not None for problem in columns["problem"]),
        "not verified": sum(verify(answer) != [] for answer in answers),
        "begun again": sum(answer["evidence"]["restarts"] > 0 for answer in answers),
        "left behind": len(left),
        "exit code": code,
    }
    zero = ("lost", "doubled", "without an answer", "not verified", "left behind", "exit code")
    wrong = [name for name in zero if found[name]]
    wrong += [] if all_killed else [EARLY]
    wrong += [] if found["begun again"] else [NONE_AGAIN]
    return {**found, "wrong": wrong}


def main() -> None:
    """Kill, print the counts, and end with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of workers")
    parser.add_argument("--jobs", type=int, default=5, help="kills of the whole job")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = run(Path(folder), arguments.pictures, arguments.kills, arguments.jobs)
    print(json.dumps(counts, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(counts, indent=2))
    sys.exit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()

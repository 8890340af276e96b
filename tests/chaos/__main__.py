"""Do to a running service what happens to services, and count what becomes of its requests.

python -m tests.chaos [--kills 50] [--drains 20] [--seconds 20] [--json FILE]
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.chaos import experiments
from tests.chaos.experiments import EXIT_SECONDS, PROBE_SECONDS, Counts
from tests.e2e.conftest import ROOT, Service

# Of the peak, what is still to be answered at ten times the load.
GOODPUT = 0.95
STALL_SECONDS, PAUSE_SECONDS = "5", 15.0


def check(counts: Counts) -> list[str]:
    """Return what is not as it should be."""
    wrong = []
    for name, wanted in {"lost": 0, "replaced": 0, "exit code": 0, "processes left": []}.items():
        if counts.get(name, wanted) != wanted:
            wrong.append(f"{name}: {counts[name]}")
    if counts.get("ready after the signal", 503) != 503:
        wrong.append("ready after the signal to stop")
    if counts.get("ended after the last answer (s)", 0) > EXIT_SECONDS:
        wrong.append("it ended late")
    if counts.get("goodput over peak", 1) < GOODPUT:
        wrong.append(f"goodput below {GOODPUT:.0%} of the peak")
    if counts.get("slowest probe (ms)", 0) > 1000 * PROBE_SECONDS:
        wrong.append("a probe was slow")
    if "in the log" in counts and (len(counts["in the log"]) != 1 or counts["kills"] < 2):
        wrong.append("a picture was given up too early, or without a word")
    return wrong


def main() -> None:
    """Run every experiment, print its counts, and end with 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--drains", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part of the overload")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seven = (ROOT / "examples" / "7.png").read_bytes()
    # Compiling would take the processors for a while after each of so many starts.
    environment = {"PIXELDP_STALL_SECONDS": STALL_SECONDS, "PIXELDP_COMPILE": "false"}
    found: dict[str, Counts] = {}
    failures = 0

    def note(name: str, counts: Counts) -> None:
        nonlocal failures
        wrong = check(counts)
        failures += bool(wrong)
        found[name] = {**counts, "wrong": wrong}
        print(f"{name}: {'FAILED, ' + '; '.join(wrong) if wrong else 'ok'}", flush=True)
        for member, value in counts.items():
            print(f"    {member}: {value}", flush=True)

    service = Service(environment=environment).wait_ready()
    try:
        steps: dict[str, Callable[[], Counts]] = {
            f"{arguments.kills} workers killed": lambda: experiments.kill_workers(
                service, [seven], arguments.kills
            ),
            "all workers killed at once": lambda: experiments.kill_all_workers(service, [seven]),
            "a worker stopped": lambda: experiments.stop_worker(service, [seven]),
            "the machine paused": lambda: experiments.pause_all(service, [seven], PAUSE_SECONDS),
            "a picture that workers die of": lambda: experiments.deadly_picture(service, seven),
            "ten times the load": lambda: experiments.overload(service, [seven], arguments.seconds),
        }
        for name, step in steps.items():
            note(name, step())
            service.wait_ready()
        note("the front killed", experiments.kill_front(service))
    finally:
        service.process.kill()
    for number in range(1, arguments.drains + 1):
        service = Service(environment=environment).wait_ready()
        note(f"drain {number}", experiments.drain(service, [seven]))
    lost = sum(counts["lost"] for name, counts in found.items() if name.startswith("drain"))
    print(f"{arguments.drains} drains: {lost} requests lost")
    if arguments.json:
        cores = len(os.sched_getaffinity(0))
        arguments.json.write_text(json.dumps({"cores": cores, "experiments": found}, indent=2))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

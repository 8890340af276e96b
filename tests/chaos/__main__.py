"""Do to a running service what happens to services, and count what becomes of its requests.

python -m tests.chaos [--kills 50] [--drains 20] [--seconds 20] [--json FILE]
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import experiments
from tests.chaos.experiments import EXIT_SECONDS, PROBE_SECONDS, Counts
from tests.e2e.conftest import ROOT, Service

# Of the peak, what is still to be answered at ten times the load.
GOODPUT = 0.95
# With whole budgets: each of nine refusals an answer takes a little of what answers take.
WHOLE_GOODPUT = 0.9
STALL_SECONDS, PAUSE_SECONDS = "5", 15.0


Experiment = Callable[[Service], Counts]
Wanted = dict[str, Callable[[Any], bool]]


def equal(wanted: object) -> Callable[[Any], bool]:
    """Return whether a count is as wanted."""
    return lambda count: bool(count == wanted)


# By the names of the counts: whether they are as they should be.
NONE_LOST: Wanted = {"lost": equal(0)}
OVERLOADED: Wanted = {
    "goodput over peak": lambda ratio: ratio >= GOODPUT,
    "slowest probe (ms)": lambda slowest: slowest <= 1000 * PROBE_SECONDS,
    "probes by status": lambda statuses: set(statuses) == {200},
    "statuses": lambda statuses: set(statuses) <= {200, 503},
    "broken off": equal({}),
}
WHOLE: Wanted = {**OVERLOADED, "goodput over peak": lambda ratio: ratio >= WHOLE_GOODPUT}
DRAINED: Wanted = {
    **NONE_LOST,
    "ready after the signal": equal(503),
    "exit code": equal(0),
    "ended after the last answer (s)": lambda seconds: seconds <= EXIT_SECONDS,
    "all processes gone after (s)": lambda seconds: seconds <= EXIT_SECONDS,
    "processes left": equal([]),
}
GONE: Wanted = {
    "all processes gone after (s)": lambda seconds: seconds <= EXIT_SECONDS,
    "processes left": equal([]),
}
GIVEN_UP: Wanted = {
    "deaths": lambda deaths: deaths >= 2,
    "answered": equal({503: 1}),
    "the next": equal({200: 1}),
    "times named in the log": equal(1),
}


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

    def note(name: str, counts: Counts, wanted: Wanted) -> None:
        nonlocal failures
        wrong = [count for count, right in wanted.items() if not right(counts[count])]
        failures += bool(wrong)
        found[name] = {**counts, "wrong": wrong}
        print(f"{name}: {'FAILED, ' + '; '.join(wrong) if wrong else 'ok'}", flush=True)
        for member, value in counts.items():
            print(f"    {member}: {value}", flush=True)

    def overload(service: Service) -> Counts:
        return experiments.overload(service, [seven], arguments.seconds)

    service = Service(environment=environment).wait_ready()
    try:
        steps: dict[str, tuple[Experiment, Wanted]] = {
            f"{arguments.kills} workers killed": (
                lambda service: experiments.kill_workers(service, [seven], arguments.kills),
                {**NONE_LOST, "requeued": lambda requeued: requeued > 0},
            ),
            "all workers killed at once": (
                lambda service: experiments.kill_all_workers(service, [seven]),
                {**NONE_LOST, "asked while none ran": equal({200: 1})},
            ),
            "a worker stopped": (
                lambda service: experiments.stop_worker(service, [seven]),
                NONE_LOST,
            ),
            "the machine paused": (
                lambda service: experiments.pause_all(service, [seven], PAUSE_SECONDS),
                {**NONE_LOST, "replaced": equal(0)},
            ),
            "a picture that workers die of": (
                lambda service: experiments.deadly_picture(service, seven),
                GIVEN_UP,
            ),
            "ten times the load": (overload, OVERLOADED),
        }
        for name, (experiment, wanted) in steps.items():
            note(name, experiment(service), wanted)
            service.wait_ready()
        note("the front killed", experiments.kill_front(service), GONE)
    finally:
        service.process.kill()
    with_whole_budgets = {**environment, "PIXELDP_SHRINK": "false"}
    service = Service(environment=with_whole_budgets).wait_ready()
    try:
        note("ten times the load, budgets never shrunk", overload(service), WHOLE)
    finally:
        service.stop()
    for number in range(1, arguments.drains + 1):
        service = Service(environment=environment).wait_ready()
        note(f"drain {number}", experiments.drain(service, [seven]), DRAINED)
    lost = sum(counts["lost"] for name, counts in found.items() if name.startswith("drain"))
    print(f"{arguments.drains} drains: {lost} requests lost")
    if arguments.json:
        cores = len(os.sched_getaffinity(0))
        arguments.json.write_text(json.dumps({"cores": cores, "experiments": found}, indent=2))
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

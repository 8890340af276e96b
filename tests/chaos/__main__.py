"""Do to a running service what happens in operation, and count how its requests end.

python -m tests.chaos [--kills 200] [--drains 20] [--seconds 20] [--connections 10000]
    [--only PART] [--json FILE]
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.http.guards.keys import add
from tests.chaos import deadlines, endings, experiments, hoards, shares
from tests.chaos.attacks import seven
from tests.chaos.experiments import EXIT_SECONDS, PROBE_SECONDS, Counts
from tests.e2e.conftest import Service

# The share of the peak that must still be answered at ten times the load.
GOODPUT = 0.95
# With full budgets: there are nine refusals for each answer, and each takes some of its time.
WHOLE_GOODPUT = 0.9
STALL_SECONDS, PAUSE_SECONDS = "5", 15.0


Experiment = Callable[[Service], Counts]
Wanted = dict[str, Callable[[Any], bool]]


def equal(wanted: object) -> Callable[[Any], bool]:
    """Return whether a count is as wanted."""
    return lambda count: bool(count == wanted)


# By the names of the counts: whether each is as it should be.
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
# How long the deployments' probes wait at most, in seconds; a later answer is none.
LIVENESS_SECONDS = 5.0
HOARDED: Wanted = {
    "killed for want of memory": lambda kills: not kills,
    "all processes (MiB)": lambda size: size <= hoards.LIMIT / hoards.MIB,
    "probes by status": lambda statuses: set(statuses) <= {200, 503},
    "slowest probe (ms)": lambda slowest: slowest <= 1000 * LIVENESS_SECONDS,
    "an honest request after it": equal(200),
}
SHARED: Wanted = {**NONE_LOST, "of what is asked": lambda ratio: ratio <= 1.0}
IN_TIME: Wanted = {
    "statuses": lambda statuses: set(statuses) <= {200, 503, 504},
    "broken off": equal({}),
    "beyond a pass and 100 ms (ms)": lambda late: late <= 0.0,
}
ENDED: Wanted = {
    "exit code": equal(0),
    "ended after (s)": lambda seconds: seconds <= endings.GRACE_SECONDS,
    "processes left": equal([]),
}
GIVEN_UP: Wanted = {
    "deaths": lambda deaths: deaths >= 2,
    "answered": equal({503: 1}),
    "the next": equal({200: 1}),
    "times named in the log": equal(1),
}


class Report:
    """What was found so far: printed as it comes, and written at the end."""

    def __init__(self) -> None:
        self.found: dict[str, Counts] = {}

    def note(self, name: str, counts: Counts, wanted: Wanted) -> None:
        """Print the counts of an experiment, and which are not as they should be."""
        wrong = [count for count, right in wanted.items() if not right(counts[count])]
        self.found[name] = {**counts, "wrong": wrong}
        print(f"{name}: {'FAILED, ' + '; '.join(wrong) if wrong else 'ok'}", flush=True)
        for member, value in counts.items():
            print(f"    {member}: {value}", flush=True)

    @property
    def failures(self) -> list[str]:
        """The names of the experiments that found something wrong."""
        return [name for name, counts in self.found.items() if counts["wrong"]]


# Compiling would keep the processors busy for a while after each of many starts.
ENVIRONMENT = {"PIXELDP_STALL_SECONDS": STALL_SECONDS, "PIXELDP_COMPILE": "false"}


def deaths_of_fronts(report: Report, arguments: argparse.Namespace) -> None:
    """Kill one of two fronts again and again: each time, what it had is lost, and nothing else."""
    service = Service(environment={**ENVIRONMENT, "PIXELDP_FRONTS": "2"}).wait_ready()
    try:
        wanted: Wanted = {
            "statuses": lambda statuses: set(statuses) == {200},
            "lost": lambda lost: lost <= 8 * arguments.kills,
            "left behind": equal(0),
        }
        counts = experiments.kill_fronts(service, [seven()], arguments.kills, clients=8)
        report.note(f"{arguments.kills} fronts killed", counts, wanted)
    finally:
        service.stop()


def deaths(report: Report, arguments: argparse.Namespace) -> None:
    """Kill and stop processes, and ask for ten times as much as can be answered."""
    pictures = [seven()]

    def overload(service: Service) -> Counts:
        return experiments.overload(service, pictures, arguments.seconds)

    service = Service(environment=ENVIRONMENT).wait_ready()
    try:
        steps: dict[str, tuple[Experiment, Wanted]] = {
            f"{arguments.kills} workers killed": (
                lambda service: experiments.kill_workers(service, pictures, arguments.kills),
                {**NONE_LOST, "requeued": lambda requeued: requeued > 0},
            ),
            "all workers killed at once": (
                lambda service: experiments.kill_all_workers(service, pictures),
                {**NONE_LOST, "asked while none ran": equal({200: 1})},
            ),
            "a worker stopped": (
                lambda service: experiments.stop_worker(service, pictures),
                NONE_LOST,
            ),
            "the machine paused": (
                lambda service: experiments.pause_all(service, pictures, PAUSE_SECONDS),
                {**NONE_LOST, "replaced": equal(0)},
            ),
            "a picture that workers die of": (
                lambda service: experiments.deadly_picture(service, seven()),
                GIVEN_UP,
            ),
            "ten times the load": (overload, OVERLOADED),
        }
        for name, (experiment, wanted) in steps.items():
            report.note(name, experiment(service), wanted)
            service.wait_ready()
        report.note("the front killed", experiments.kill_front(service), GONE)
    finally:
        service.process.kill()
    service = Service(environment={**ENVIRONMENT, "PIXELDP_SHRINK": "false"}).wait_ready()
    try:
        report.note("ten times the load, budgets never shrunk", overload(service), WHOLE)
    finally:
        service.stop()


def drains(report: Report, arguments: argparse.Namespace) -> None:
    """Stop services under load."""
    lost = 0
    for number in range(1, arguments.drains + 1):
        service = Service(environment=ENVIRONMENT).wait_ready()
        counts = experiments.drain(service, [seven()])
        report.note(f"drain {number}", counts, DRAINED)
        lost += counts["lost"]
    print(f"{arguments.drains} drains: {lost} requests lost")


def memory(report: Report, arguments: argparse.Namespace) -> None:
    """Have thousands of connections make a service hold as much as it may."""
    connections = hoards.most_connections(arguments.connections)
    if connections < arguments.connections:
        print(f"the system allows {connections} connections of {arguments.connections}")
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.json"
        key = add(keys, "client", ["predict"], None)
        environment = {**ENVIRONMENT, "PIXELDP_DEVICES": "cpu,cpu", "PIXELDP_KEYS": str(keys)}
        with hoards.limited(hoards.LIMIT, environment) as (service, group):
            for name, content in hoards.hoards().items():
                for given, how in ((None, "without a key"), (key, "with a key")):
                    request = hoards.with_key(content, given)
                    seconds = arguments.seconds
                    counts = hoards.hoard(service, group, request, connections, seconds)
                    counts["an honest request after it"] = hoards.answers_again(service, key)
                    report.note(f"memory: {name}, {how}", counts, HOARDED)


def fairness(report: Report, arguments: argparse.Namespace) -> None:
    """Attack with a key at its limit, and see what another key notices."""
    with tempfile.TemporaryDirectory() as folder:
        keyed = shares.Keyed(Path(folder), {**ENVIRONMENT, "PIXELDP_DEVICES": "cpu,cpu"})
        try:
            for name in shares.NAMES:
                counts = shares.attack(keyed, name, [seven()], arguments.seconds)
                report.note(f"shares: {name}", counts, SHARED)
        finally:
            keyed.service.stop()


def lateness(report: Report, arguments: argparse.Namespace) -> None:
    """Stop processes and see how late the answers are."""
    # No process is replaced meanwhile.
    patient = {"PIXELDP_DEVICES": "cpu,cpu", "PIXELDP_COMPILE": "false"}
    service = Service(environment=patient).wait_ready()
    try:
        for name in deadlines.CASES:
            report.note(f"deadlines: {name}", deadlines.stop(service, name), IN_TIME)
    finally:
        service.process.kill()


def grace(report: Report, arguments: argparse.Namespace) -> None:
    """Send SIGTERM while something hangs."""
    for name in endings.CASES:
        report.note(f"SIGTERM: {name}", endings.end(name), ENDED)


PARTS = {
    part.__name__: part
    for part in (deaths, deaths_of_fronts, drains, memory, fairness, lateness, grace)
}


def main() -> None:
    """Run every experiment, print its counts, and end with 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--drains", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part of a load")
    parser.add_argument("--connections", type=int, default=hoards.CONNECTIONS)
    parser.add_argument("--only", choices=PARTS, help="one part of the experiments")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = Report()
    for name, part in PARTS.items():
        if arguments.only in (None, name):
            part(report, arguments)
    if arguments.json:
        cores = len(os.sched_getaffinity(0))
        found = {"cores": cores, "experiments": report.found}
        arguments.json.write_text(json.dumps(found, indent=2))
    print(f"{len(report.found)} experiments, {len(report.failures)} of them failed")
    for name in report.failures:
        print(f"    {name}: {'; '.join(report.found[name]['wrong'])}")
    sys.exit(1 if report.failures else 0)


if __name__ == "__main__":
    main()

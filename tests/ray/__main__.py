"""What ``make chaos-ray`` runs: everything that may happen to a cluster, again and again.

    python -m tests.ray --kills 20 --losses 5 --rollouts 10 --json runs/chaos-ray.json

Two nodes, each with a network namespace of its own on this machine: that needs root. Prints a line
for each experiment, and ends with status 1 if a request was lost.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.e2e.conftest import ROOT, copy_bundle
from tests.ray import faults
from tests.ray.cluster import Cluster

Experiment = Callable[[], dict[str, Any]]


def experiments(
    cluster: Cluster, arguments: argparse.Namespace
) -> Iterator[tuple[str, Experiment]]:
    """Yield each experiment with its name, in the order in which they are made."""
    picture = (ROOT / "examples" / "7.png").read_bytes()
    bundles = {
        version: copy_bundle(cluster.folder / f"bundle{version}", version=version)
        for version in ("1", "2")
    }
    for _ in range(arguments.kills):
        yield "replica killed", lambda: faults.kill_replica(cluster, picture)
    for number in range(arguments.rollouts):
        version = str(2 - number % 2)
        yield (
            "version rolled out",
            lambda version=version: faults.roll_out(cluster, picture, bundles[version], version),
        )
    for _ in range(arguments.scalings):
        for count in (1, 2):
            yield (
                f"scaled to {count}",
                lambda count=count: faults.scale_to(cluster, picture, bundles["1"], count),
            )
    for _ in range(arguments.losses):
        yield "node killed", lambda: faults.kill_node(cluster, picture)
        yield "node cut off", lambda: faults.cut_node(cluster, picture)


def main() -> int:
    """Make the experiments; return the exit status."""
    parser = argparse.ArgumentParser(description="Kills, cuts and changes a cluster of Ray.")
    for name, default in {"kills": 20, "rollouts": 10, "scalings": 2, "losses": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with Cluster(2) as cluster:
        cluster.dashboard.deploy({}, num_replicas=2)
        cluster.dashboard.wait_replicas(2)
        for name, experiment in experiments(cluster, arguments):
            result = {"experiment": name, **experiment()}
            print(json.dumps(result), flush=True)
            results.append(result)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=2))
    return 1 if any(result["lost"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())

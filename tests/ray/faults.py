"""What happens to a service on Ray while clients ask it, and how their requests end."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from pixeldp_client import Client, PixelDPError
from tests.ray.cluster import Cluster
from tests.ray.dashboard import Dashboard, wait_until

CLIENTS = 4
# How many draws an answer takes: enough that pictures are in flight when something happens.
DRAWS = 500


class Running(Protocol):
    """A service on Ray: where clients ask, and where Ray is asked."""

    address: str
    dashboard: Dashboard


class Counting(httpx.HTTPTransport):
    """Counts how often requests are sent, so that those sent again can be told."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        self.sent += 1
        return super().handle_request(request)


@dataclass
class Counts:
    """How requests ended: answered by the model's version, or lost with the reason."""

    answered: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    again: int = 0

    def told(self) -> dict[str, Any]:
        """Return them for a report."""
        requests = self.answered.total() + len(self.lost)
        return {"requests": requests, "lost": self.lost, "sent_again": self.again}


@contextmanager
def asking(address: str, picture: bytes) -> Iterator[Counts]:
    """Let clients ask until the block ends, with the retries that the client is documented for."""
    counts, stop, lock = Counts(), threading.Event(), threading.Lock()

    def one() -> None:
        transport = Counting()
        asked = 0
        with Client(address, transport=transport) as client:
            while not stop.is_set():
                asked += 1
                try:
                    answer = client.predict(picture, max_draws=DRAWS)
                except PixelDPError as error:
                    with lock:
                        counts.lost.append(f"{type(error).__name__}: {error}")
                else:
                    with lock:
                        counts.answered[answer.model.version] += 1
        with lock:
            counts.again += transport.sent - asked

    threads = [threading.Thread(target=one) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def kill_replica(on: Running, picture: bytes) -> dict[str, Any]:
    """Kill a replica's process; another takes its place."""
    with asking(on.address, picture) as counts:
        _wait_answers(counts, 20)
        before = on.dashboard.replicas()
        name, pid = next(iter(before.items()))
        os.kill(pid, signal.SIGKILL)
        seconds = on.dashboard.wait_replicas(len(before), without=frozenset({name}))
        _wait_answers(counts, 20)
    return {**counts.told(), "seconds": round(seconds, 1)}


def kill_node(cluster: Cluster, picture: bytes) -> dict[str, Any]:
    """Kill all processes of a node; another node comes."""
    return _lose_node(cluster, picture, cut=False)


def cut_node(cluster: Cluster, picture: bytes) -> dict[str, Any]:
    """Cut a node off the network; another node comes."""
    return _lose_node(cluster, picture, cut=True)


def _lose_node(cluster: Cluster, picture: bytes, cut: bool) -> dict[str, Any]:
    before = cluster.dashboard.replicas()
    node = cluster.nodes.pop()
    with asking(cluster.address, picture) as counts:
        _wait_answers(counts, 20)
        (node.cut if cut else node.kill)()
        _wait_answers(counts, 20)
        node.close()
        cluster.add_node()
        seconds = _wait_other(cluster, before)
        _wait_answers(counts, 20)
    return {**counts.told(), "seconds": round(seconds, 1)}


def roll_out(on: Running, picture: bytes, bundle: Path, version: str) -> dict[str, Any]:
    """Replace the replicas by those of another version of the model."""
    before = on.dashboard.replicas()
    with asking(on.address, picture) as counts:
        _wait_answers(counts, 20)
        on.dashboard.deploy({"PIXELDP_MODELS": str(bundle)}, num_replicas=len(before))
        seconds = on.dashboard.wait_replicas(len(before), without=frozenset(before))
        _wait_answers(counts, 20)
    with asking(on.address, picture) as after:
        _wait_answers(after, 20)
    assert set(after.answered) == {version}, after.answered
    counts.lost += after.lost
    counts.again += after.again
    counts.answered += after.answered
    return {**counts.told(), "versions": dict(counts.answered), "seconds": round(seconds, 1)}


def scale_to(on: Running, picture: bytes, bundle: Path, count: int) -> dict[str, Any]:
    """Change the number of replicas."""
    with asking(on.address, picture) as counts:
        _wait_answers(counts, 20)
        on.dashboard.deploy({"PIXELDP_MODELS": str(bundle)}, num_replicas=count)
        seconds = on.dashboard.wait_replicas(count)
        _wait_answers(counts, 20)
    return {**counts.told(), "seconds": round(seconds, 1)}


def _wait_other(cluster: Cluster, before: dict[str, int]) -> float:
    def there() -> bool:
        running = cluster.dashboard.replicas()
        return len(running) == len(before) and running != before

    return wait_until(there, "another replica runs")


def _wait_answers(counts: Counts, more: int) -> None:
    """Wait until so many more requests have ended."""
    goal = counts.answered.total() + len(counts.lost) + more
    wait_until(lambda: counts.answered.total() + len(counts.lost) >= goal, "answers come")

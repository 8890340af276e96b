"""What happens to a service on Ray while clients ask it, and how their requests end."""

import http.client
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
# Enough that an answer takes longer than all requests take to be under way.
MANY_DRAWS = 5000
UNDER_WAY_SECONDS = 1.0
# How long after its head a body comes where that is asked for, as from a busy machine.
LATE_SECONDS = 0.05


class Running(Protocol):
    """A service on Ray: where clients ask, and where Ray is asked."""

    address: str
    dashboard: Dashboard


class Late(httpx.SyncByteStream):
    """A body that comes after its head, as from a busy machine."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        time.sleep(LATE_SECONDS)
        yield from self._body


class Counting(httpx.HTTPTransport):
    """Counts how often requests are sent, so that those sent again can be told.

    Args:
        late: each has a connection of its own, and its body comes after its head. What HAProxy
            cannot send again is then answered with an error: it closes only connections that have
            had an answer.
    """

    def __init__(self, late: bool) -> None:
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0 if late else None))
        self.sent = 0
        self._late = late

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        self.sent += 1
        if self._late:
            request.stream = Late(request.stream)
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
    """Let clients ask until the block ends, with the retries that the client is documented for.

    Every second one is late with its bodies.
    """
    counts, stop, lock = Counts(), threading.Event(), threading.Lock()

    def one(late: bool) -> None:
        transport = Counting(late)
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

    threads = [threading.Thread(target=one, args=(n % 2 == 1,)) for n in range(CLIENTS)]
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


def answers_over_kill(
    on: Running, ports: list[int], pictures: list[bytes], killed: int
) -> list[tuple[int, str | None]]:
    """Kill replicas while each picture is asked at its port; return the statuses and Retry-After.

    Each request has a new connection, and its body comes after its head. Nothing is sent again. A
    connection that is closed without an answer has status 0.
    """

    def ask(port: int, picture: bytes) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest("POST", f"/predict?max_draws={MANY_DRAWS}")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(len(picture)))
        connection.endheaders()
        time.sleep(LATE_SECONDS)
        connection.send(picture)
        try:
            answer = connection.getresponse()
            answer.read()
        except ConnectionError:
            return 0, None
        finally:
            connection.close()
        return answer.status, answer.headers.get("Retry-After")

    before = on.dashboard.replicas()
    with ThreadPoolExecutor(len(pictures)) as threads:
        asked = [threads.submit(ask, *one) for one in zip(ports, pictures, strict=True)]
        time.sleep(UNDER_WAY_SECONDS)
        gone = dict(list(before.items())[:killed])
        for pid in gone.values():
            os.kill(pid, signal.SIGKILL)
    on.dashboard.wait_replicas(len(before), without=frozenset(gone))
    return [one.result() for one in asked]


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

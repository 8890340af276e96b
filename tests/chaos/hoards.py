"""How much strangers and clients can make the service hold by connections that read nothing.

The service runs in a control group with a memory limit if this machine allows one. Elsewhere the
memory of all its processes is compared with the same limit.
"""

import contextlib
import os
import re
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from service.http.connections import LEAST_FILES
from tests.chaos.attacks import (
    BINARY,
    MANY_DRAWS,
    PACKED,
    V2,
    batch,
    noise_png,
    packed_zeros,
    seven,
    tiny_webp,
)
from tests.chaos.experiments import HANG_SECONDS
from tests.chaos.load import PNG, head
from tests.chaos.probe import probing
from tests.chaos.processes import memory, resident, tree
from tests.e2e.conftest import Service

Counts = dict[str, Any]
MIB = 2**20
# The memory that the deployments allow a pod.
LIMIT = 3 * 2**30
CONNECTIONS = 10_000
# How many closed connections are opened again at a time.
AT_ONCE, EVERY_SECONDS = 50, 0.05
SAMPLE_SECONDS = 0.05
# The number of files that this process needs for itself.
OWN_FILES = 200

_ROOTS = {
    Path("/sys/fs/cgroup/memory"): ("memory.limit_in_bytes", "memory.oom_control"),
    Path("/sys/fs/cgroup"): ("memory.max", "memory.events"),
}


class Group:
    """A control group (version 1 or 2) with a memory limit."""

    def __init__(self, path: Path, limit_file: str, events_file: str, limit: int) -> None:
        self._path, self._events = path, events_file
        path.mkdir()
        try:
            (path / limit_file).write_text(str(limit))
            self.kills()
        except BaseException:
            path.rmdir()
            raise

    def join(self) -> None:
        """Put the calling process, and every process that it starts, under the limit."""
        (self._path / "cgroup.procs").write_text("0")

    def kills(self) -> int:
        """How many processes were killed for lack of memory."""
        found = re.findall(r"^oom_kill (\d+)$", (self._path / self._events).read_text(), re.M)
        return int(found[0])

    def remove(self) -> None:
        """Remove it, once it is empty."""
        end = time.monotonic() + HANG_SECONDS
        while True:
            try:
                self._path.rmdir()
                return
            except OSError:
                assert time.monotonic() < end, "processes stay in the control group"
                time.sleep(0.05)


def make_group(limit: int) -> Group | None:
    """Make a control group, if this machine allows it."""
    for root, files in _ROOTS.items():
        with contextlib.suppress(OSError, IndexError):
            return Group(root / f"pixeldp-chaos-{os.getpid()}", *files, limit)
    return None


@contextmanager
def limited(limit: int, environment: dict[str, str]) -> Iterator[tuple[Service, Group | None]]:
    """Run a service under a memory limit, in a control group if there is one."""
    group = make_group(limit)
    try:
        service = Service(environment=environment, first=group.join if group else None)
        try:
            yield service.wait_ready(), group
        finally:
            assert service.stop() == 0, service.log[-2000:]
    finally:
        if group:
            group.remove()


def most_connections(wanted: int) -> int:
    """Raise this process's limit on files; return how many of ``wanted`` connections it allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = wanted + OWN_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # The service has as many, and needs some for itself.
    return min(wanted, hard - max(OWN_FILES, LEAST_FILES))


class Crowd:
    """Connections that send a request and read nothing; closed ones are opened again."""

    def __init__(self, address: str, content: bytes, connections: int) -> None:
        parts = urlsplit(address)
        self._place = str(parts.hostname), int(parts.port or 80)
        self._content, self._connections = content, connections
        self._clients: dict[int, tuple[socket.socket, memoryview]] = {}
        self._poll = select.epoll()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most = self.again = self.sent = 0

    def __enter__(self) -> "Crowd":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for client, _left in self._clients.values():
            client.close()
        self._poll.close()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            for _ in range(min(AT_ONCE, self._connections - len(self._clients))):
                self._connect()
            self.most = max(self.most, len(self._clients))
            for number, event in self._poll.poll(0):
                self._go_on(number, event)

    def _connect(self) -> None:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        client.connect_ex(self._place)
        self._clients[client.fileno()] = client, memoryview(self._content)
        self._poll.register(client, select.EPOLLOUT | select.EPOLLRDHUP)

    def _go_on(self, number: int, event: int) -> None:
        client, left = self._clients[number]
        try:
            if event & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
                raise ConnectionResetError
            size = client.send(left)
        except BlockingIOError:
            return
        except OSError:
            self._poll.unregister(number)
            client.close()
            del self._clients[number]
            self.again += 1
            return
        self.sent += size
        self._clients[number] = client, left[size:]
        if size == len(left):
            self._poll.modify(number, select.EPOLLRDHUP)


def hoards() -> dict[str, bytes]:
    """Return what the connections send, without the key, by name."""
    upload = noise_png(1400)
    few = f"/predict?{MANY_DRAWS}"
    return {
        "the largest file": b"GET /swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n",
        "gzip bodies of v2": post(V2, packed_zeros(), PACKED),
        "slow uploads": post(few, upload, PNG, part=60_000),
        "small bodies that wait": post(few, noise_png(220), PNG),
        "large bodies that wait": post(few, noise_png(700), PNG),
        "batches of v2": post(V2, batch(256, 1000), BINARY),
        "WebP of 46 bytes": post(few, tiny_webp(), PNG),
        "unread streams": post(f"/predict/stream?{MANY_DRAWS}", seven(), PNG),
    }


def post(target: str, body: bytes, headers: dict[str, str], part: int | None = None) -> bytes:
    """Return a request, or the first ``part`` bytes of its body."""
    return head(target, headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body[:part]


def with_key(request: bytes, key: str | None) -> bytes:
    """Return a request with or without a key; a head that was left open is closed."""
    start, _, rest = request.partition(b"\r\n")
    more = b"X-API-Key: %b\r\n" % key.encode() if key else b""
    end = b"" if b"\r\n\r\n" in rest else b"\r\n"
    return start + b"\r\n" + more + rest + end


def hoard(
    service: Service, group: Group | None, request: bytes, connections: int, seconds: float
) -> Counts:
    """Have many connections send a request and read nothing, and measure memory meanwhile."""
    kills = group.kills() if group else 0
    front, together = [0], [0]
    with (
        probing(service.address) as probes,
        Crowd(service.address, request, connections) as crowd,
    ):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert service.process.poll() is None, service.log[-2000:]
            front.append(resident(service.process.pid))
            together.append(sum(map(memory, tree(service.process.pid))))
            time.sleep(SAMPLE_SECONDS)
    return {
        "connections": crowd.most,
        "made again": crowd.again,
        "sent (MiB)": round(crowd.sent / MIB),
        "limit held by": "a control group" if group else "measuring",
        "killed for want of memory": group.kills() - kills if group else None,
        "front (MiB)": round(max(front) / MIB),
        "all processes (MiB)": round(max(together) / MIB),
        "probes by status": dict(sorted(probes.statuses.items())),
        "slowest probe (ms)": round(1000 * max(probes.seconds)),
    }


def answers_again(service: Service, key: str) -> int:
    """Return the status of an honest request; what was held before may not be free at once."""
    end = time.monotonic() + HANG_SECONDS
    while True:
        headers = {**PNG, "X-API-Key": key}
        url = f"{service.address}/predict?max_draws=64&timeout_ms=60000"
        status = httpx.post(url, content=seven(), headers=headers, timeout=HANG_SECONDS).status_code
        if status != 503 or time.monotonic() > end:
            return status
        time.sleep(0.2)

"""Probe a service some times a second, in a process of its own, as balancers do.

    python -m tests.chaos.probe ADDRESS

Ends when its input ends, then prints as JSON the status of each probe (0 if there was no answer)
and the seconds that it took.
"""

import json
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

EVERY_SECONDS = 0.05


@dataclass
class Probes:
    """How often each status came (0: no answer), and how long each probe took."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def ready(address: str) -> int:
    """Probe on a connection of its own; return the status, 0 if there was no answer."""
    parts = urlsplit(address)
    request = f"GET /health/ready HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
            connection.sendall(request.encode())
            return int(connection.recv(4096).split()[1])
    except (OSError, IndexError):
        return 0


@contextmanager
def probing(address: str) -> Iterator[Probes]:
    """Probe while the block runs, at least once; the probes are complete when it ends."""
    command = [sys.executable, "-m", "tests.chaos.probe", address]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    probes = Probes()
    try:
        yield probes
    finally:
        output, _ = process.communicate(timeout=120)
        for status, seconds in json.loads(output):
            probes.statuses[status] += 1
            probes.seconds.append(seconds)


def main() -> None:
    """Probe until the input ends."""
    taken: list[tuple[int, float]] = []
    while not taken or not select.select([sys.stdin], [], [], EVERY_SECONDS)[0]:
        begun = time.monotonic()
        taken.append((ready(sys.argv[1]), time.monotonic() - begun))
    print(json.dumps(taken))


if __name__ == "__main__":
    main()

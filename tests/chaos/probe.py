"""Probe a service some times a second, in a process of its own, as balancers do.

    python -m tests.chaos.probe ADDRESS

Ends with its input; prints the seconds that each probe took, as JSON.
"""

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

EVERY_SECONDS = 0.05


def ready(address: str) -> int:
    """Probe on a connection of its own; return the status."""
    parts = urlsplit(address)
    request = f"GET /health/ready HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(request.encode())
        return int(connection.recv(4096).split()[1])


@contextmanager
def probing(address: str) -> Iterator[list[float]]:
    """Probe while the block runs; the list is filled with what it took at the block's end."""
    command = [sys.executable, "-m", "tests.chaos.probe", address]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    taken: list[float] = []
    try:
        yield taken
    finally:
        output, _ = process.communicate(timeout=120)
        taken += json.loads(output)


def main() -> None:
    """Probe until the input ends."""
    taken = []
    while not select.select([sys.stdin], [], [], EVERY_SECONDS)[0]:
        begun = time.monotonic()
        status = ready(sys.argv[1])
        assert status == 200, status
        taken.append(time.monotonic() - begun)
    print(json.dumps(taken))


if __name__ == "__main__":
    main()

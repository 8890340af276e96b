"""A process that decodes large pictures, one after the other.

    python -m service.decoding.process --name decoder0 --fd 7 --memory 500000000

Here C code reads strangers' bytes. The process runs at low priority, has a bound on its memory, and
can be killed at any time, because it holds only one picture. It ends with the front process.

For each picture it receives the task and the file, says how large the picture is, waits for
permission to continue, and returns the worker's input.
"""

import argparse
import json
import mmap
import os
import resource
import signal
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import setproctitle

from models.images.decoding import Size, measure
from models.images.errors import PictureError
from models.preprocessing import CannotCertify
from service.decoding.reduction import BYTES_A_PIXEL, Task, reduce_file

# The first message of a process: it has loaded everything that it needs.
GREETING = b"ready"
# A lower priority than workers: their passes answer clients that already wait.
_NICENESS = 10


def main() -> None:
    """Run a decoder as the front process starts it."""
    parser = argparse.ArgumentParser(description="Started by the service; not by hand.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True, help="bytes that a picture may need")
    arguments = parser.parse_args()
    setproctitle.setproctitle(f"pixeldp-{arguments.name}")
    os.nice(_NICENESS)
    # The front decides when it ends; an interrupt of the service reaches its whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _bound_memory(arguments.memory)
    link = Connection(arguments.fd)
    try:
        link.send_bytes(GREETING)
        while True:
            _decode(link)
    except (EOFError, OSError):
        pass  # the front has ended


def _bound_memory(size: int) -> None:
    """Limit this process to ``size`` bytes beyond its present memory, if the system permits."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + size
    _, allowed = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY:
        most = min(most, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _decode(link: Connection) -> None:
    """Serve one picture."""
    asked = json.loads(link.recv_bytes())
    task = Task(asked["max_pixels"], tuple(asked["shape"]), asked["side"])
    try:
        data = link.recv_bytes()
        size = measure(data, task.max_pixels)
        _say(link, asdict(size))
        if not json.loads(link.recv_bytes()):
            return
        _check_memory(size)
        told = asdict(reduce_file(data, task))
    except (PictureError, CannotCertify, MemoryError) as error:
        limit = getattr(error, "limit", None)
        _say(link, {"refused": type(error).__name__, "detail": str(error), "limit": limit})
        return
    content = told.pop("content")
    _say(link, told)
    link.send_bytes(content)


def _check_memory(size: Size) -> None:
    """Check that there is memory for a picture: readers may report a lack of it as damage.

    Raises:
        MemoryError: there is too little.
    """
    try:
        mmap.mmap(-1, BYTES_A_PIXEL * size.pixels).close()
    except OSError:
        raise MemoryError from None


def _say(link: Connection, message: dict[str, Any]) -> None:
    link.send_bytes(json.dumps(message).encode())


if __name__ == "__main__":
    main()

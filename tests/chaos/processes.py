"""The processes of a running service, as ``/proc`` shows them."""

import os
import re
import time
from collections.abc import Collection
from pathlib import Path

PROC = Path("/proc")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for status in PROC.glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:  # it has ended
            continue
        if re.search(rf"^PPid:\t{pid}$", text, re.MULTILINE):
            found.append(int(status.parent.name))
    return found


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    return [pid, *(one for child in children(pid) for one in tree(child))]


def title(pid: int) -> str:
    """Return the title of a process; empty if it has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").decode()
    except OSError:
        return ""


def workers(front: int) -> list[int]:
    """Return the workers of a front process, including those that are starting."""
    return [pid for pid in children(front) if "worker" in title(pid)]


def fronts(main: int) -> list[int]:
    """Return the front processes of a main process."""
    return [pid for pid in children(main) if title(pid).startswith("pixeldp-front")]


def decoders(front: int) -> list[int]:
    """Return the decoders of a front process."""
    return [pid for pid in children(front) if "decoder" in title(pid)]


def alive(pid: int) -> bool:
    """Whether a process runs, or is stopped, but has not ended."""
    try:
        state = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_gone(pids: Collection[int], seconds: float) -> list[str]:
    """Wait until all have ended; return the titles of those that have not within ``seconds``."""
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if alive(pid)]:
        if time.monotonic() > end:
            return [f"{pid} {title(pid)}" for pid in left]
        time.sleep(0.02)
    return []


def memory(pid: int) -> int:
    """Return the bytes of memory that a process shares with no other.

    A process that has ended has none.
    """
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(
        1024 * int(size) for size in re.findall(r"^(?:Anonymous|Swap):\s+(\d+) kB$", text, re.M)
    )


def resident(pid: int) -> int:
    """Return the bytes of memory that a process uses, including shared memory."""
    return os.sysconf("SC_PAGE_SIZE") * int((PROC / str(pid) / "statm").read_text().split()[1])


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

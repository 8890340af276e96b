"""The shared status outlives the process that wrote it."""

import os
import signal
import subprocess
import sys

from service.engine.status import SharedStatus

WRITER = """
import os, signal, sys
from service.engine.status import SharedStatus
status = SharedStatus(int(sys.argv[1]))
status.beat()
status.begin([7, 8])
status.end()
status.begin([5, -1, 2**40])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_status_of_a_killed_process_can_still_be_read() -> None:
    status = SharedStatus.create()
    assert (status.beats, status.turns, status.running) == (0, 0, set())
    command = [sys.executable, "-c", WRITER, str(status.descriptor)]
    code = subprocess.run(command, pass_fds=[status.descriptor], check=False).returncode
    assert code == -signal.SIGKILL
    assert (status.beats, status.turns) == (1, 1)
    assert status.running == {5, -1, 2**40}
    status.close()


def test_a_closed_status_frees_its_memory() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        SharedStatus.create().close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_status_that_is_full_shows_what_it_can() -> None:
    status = SharedStatus.create()
    status.begin(range(100_000))
    shown = status.running
    assert shown == set(range(len(shown)))
    assert len(shown) >= 8192
    status.end(range(100_000))
    assert (status.running, status.turns) == (shown, 1)
    status.close()


def test_finished_work_is_not_running() -> None:
    status = SharedStatus.create()
    status.begin(range(300))
    assert status.running == set(range(300))
    status.begin([1])
    assert status.running == {1}
    status.end()
    assert status.running == set()
    status.close()

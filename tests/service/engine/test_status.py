"""The status survives the process that wrote on it."""

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


def test_what_a_killed_process_was_at_is_still_to_be_read() -> None:
    status = SharedStatus.create()
    assert (status.beats, status.turns, status.running) == (0, 0, set())
    command = [sys.executable, "-c", WRITER, str(status.descriptor)]
    code = subprocess.run(command, pass_fds=[status.descriptor], check=False).returncode
    assert code == -signal.SIGKILL
    assert (status.beats, status.turns) == (1, 1)
    assert status.running == {5, -1, 2**40}
    status.close()


def test_boards_give_their_memory_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        SharedStatus.create().close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_work_that_is_done_is_not_running() -> None:
    status = SharedStatus.create()
    status.begin(range(300))
    assert status.running == set(range(300))
    status.begin([1])
    assert status.running == {1}
    status.end()
    assert status.running == set()
    status.close()

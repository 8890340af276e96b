"""The board survives the process that wrote on it."""

import os
import signal
import subprocess
import sys

from service.engine.status import Board

WRITER = """
import os, signal, sys
from service.engine.status import Board
board = Board(int(sys.argv[1]))
board.beat()
board.begin([7, 8])
board.end()
board.begin([5, -1, 2**40])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_was_at_is_still_to_be_read() -> None:
    board = Board.create()
    assert (board.beats, board.turns, board.running) == (0, 0, set())
    command = [sys.executable, "-c", WRITER, str(board.descriptor)]
    code = subprocess.run(command, pass_fds=[board.descriptor], check=False).returncode
    assert code == -signal.SIGKILL
    assert (board.beats, board.turns) == (1, 1)
    assert board.running == {5, -1, 2**40}
    board.close()


def test_boards_give_their_memory_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        Board.create().close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_work_that_is_done_is_not_running() -> None:
    board = Board.create()
    board.begin(range(300))
    assert board.running == set(range(300))
    board.begin([1])
    assert board.running == {1}
    board.end()
    assert board.running == set()
    board.close()

"""Lines reach their reader, and nobody waits for the reader or fails when it is gone."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from service.system.outlet import LONGEST_LINE, MOST_BYTES, Outlet

LINE = "x" * 999 + "\n"


class Pipe:
    """A pipe that the test reads."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.told: list[int] = []
        self.outlet = Outlet(self.writing, self.told.append)

    def read(self, until: Callable[[bytes], bool]) -> bytes:
        data = b""
        while not until(data):
            data += os.read(self.reading, 1 << 16)
        return data

    def hang_up(self) -> None:
        os.close(self.reading)
        self.reading = -1

    def close(self) -> None:
        if self.reading >= 0:
            self.hang_up()
        self.outlet.close()  # otherwise its thread would go on writing into whatever is opened next
        for descriptor in (self.reading, self.writing):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_lines_come_whole_and_in_order(pipe: Pipe) -> None:
    print("one", "ü", "\udcff", file=pipe.outlet)
    pipe.outlet.write("two\nthr")
    pipe.outlet.write("ee\n")
    expected = "one ü \\udcff\ntwo\nthree\n".encode()
    assert pipe.read(lambda data: len(data) >= len(expected)) == expected
    assert pipe.outlet.dropped == 0


def test_a_stalled_reader_costs_lines_but_no_time(pipe: Pipe) -> None:
    lines = 2 * MOST_BYTES // len(LINE)
    for _ in range(lines):
        pipe.outlet.write(LINE)
    dropped = pipe.outlet.dropped
    assert 0 < dropped < lines
    assert pipe.told == []
    # When it reads again, it gets all other lines whole, and the number of the missing ones.
    kept = (lines - dropped) * len(LINE)
    assert pipe.read(lambda data: len(data) >= kept) == LINE.encode() * (lines - dropped)
    wait_for(lambda: pipe.told == [dropped])
    pipe.outlet.write("and on\n")
    assert pipe.read(lambda data: data.endswith(b"on\n")) == b"and on\n"
    assert pipe.told == [dropped]


def test_without_a_reader_the_lines_are_lost(pipe: Pipe) -> None:
    pipe.hang_up()
    for _ in range(3):
        pipe.outlet.write("nobody reads this\n")
    wait_for(lambda: pipe.outlet.dropped == 3)
    pipe.outlet.close()


def test_another_process_may_have_made_the_pipe_nonblocking(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    for _ in range(300):
        pipe.outlet.write(LINE)
    assert pipe.read(lambda data: len(data) >= 300 * len(LINE)) == 300 * LINE.encode()
    assert pipe.outlet.dropped == 0


def test_the_end_of_the_process_does_not_wait_for_a_reader(pipe: Pipe) -> None:
    pipe.outlet.write("without a line break")
    for _ in range(300):
        pipe.outlet.write(LINE)
    began = time.monotonic()
    pipe.outlet.close()
    assert time.monotonic() - began < 30


def test_the_last_lines_are_written(pipe: Pipe) -> None:
    pipe.outlet.write("without a line break")
    pipe.outlet.close()
    assert os.read(pipe.reading, 100) == b"without a line break\n"


def test_a_line_that_never_ends_is_not_waited_for(pipe: Pipe) -> None:
    pipe.outlet.write("y" * (LONGEST_LINE + 1))
    assert pipe.read(lambda data: len(data) > LONGEST_LINE) == b"y" * (LONGEST_LINE + 1)


FULL = """
import os, resource, sys
from service.system.outlet import Outlet
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
told = []
outlet = Outlet(file, told.append)
outlet.write("a" * 899 + "\\n")
outlet.write("b" * 899 + "\\n")
while not outlet.dropped:
    pass
os.truncate(file, 950)
outlet.write("c\\n")
while not told:
    pass
outlet.close()
assert told == [1], told
"""


def test_when_a_full_disk_has_room_again_lines_are_whole(tmp_path: object) -> None:
    """It may have taken the first half of the line for which it had no room."""
    path = f"{tmp_path}/log"
    subprocess.run([sys.executable, "-c", FULL, path], check=True)
    with open(path) as file:
        assert file.read().splitlines() == ["a" * 899, "b" * 50, "c"]


SIGNALS = """
import signal, sys
from service.system.outlet import Outlet
outlet = Outlet(sys.stdout.fileno(), print)

def note(*_):
    print("signal", file=outlet)
    # Only now, or on a slow machine each handler would be interrupted by the next.
    signal.setitimer(signal.ITIMER_REAL, 0.001)

signal.signal(signal.SIGALRM, note)
signal.setitimer(signal.ITIMER_REAL, 0.001)
for _ in range(20_000):
    outlet.write("line\\n")
signal.signal(signal.SIGALRM, signal.SIG_IGN)
outlet.close()
"""


def test_a_signal_handler_may_log_while_it_interrupts_logging() -> None:
    """In a separate process, because the one that runs the tests has a timer for them."""
    done = subprocess.run([sys.executable, "-c", SIGNALS], check=True, stdout=subprocess.PIPE)
    lines = done.stdout.splitlines()
    assert lines.count(b"line") == 20_000
    assert set(lines) == {b"line", b"signal"}

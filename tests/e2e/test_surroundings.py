"""The service goes on when standard error, its log, is not read, fills up or is gone."""

import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO

import httpx
import pytest

from tests.chaos.processes import children, workers
from tests.e2e.conftest import PLAIN, ROOT, START_SECONDS, STOP_SECONDS

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png"}
# More lines than a pipe holds.
MANY = 600
# More than select() can handle.
MANY_CONNECTIONS = 1100


class Service:
    """A service whose standard error the test holds."""

    def __init__(self, command: list[str], port: int, stderr: int | IO[bytes] | None) -> None:
        self.address = f"http://127.0.0.1:{port}"
        environment = {
            **PLAIN,
            "PIXELDP_FRONTS": "1",
            "PIXELDP_PORT": str(port),
            "PIXELDP_LOG_FORMAT": "json",
        }
        self.process = subprocess.Popen(
            command,
            stderr=stderr,
            cwd=ROOT,
            env={**os.environ, **environment},
            start_new_session=True,  # without a terminal
        )
        self.client = httpx.Client(base_url=self.address, timeout=300)

    def is_ready(self) -> bool:
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + START_SECONDS
        while not true():
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)

    def lose_a_worker(self) -> None:
        """Kill the only worker, and wait until its successor is ready."""
        [worker] = workers(self.process.pid)
        os.kill(worker, signal.SIGKILL)
        self.wait(lambda: workers(self.process.pid) not in ([], [worker]) and self.is_ready())

    def answer(self, picture: bytes, times: int = 1) -> None:
        """Send requests on one connection, which no answer may close."""
        with httpx.Client(base_url=self.address, timeout=300) as client:
            peers = set()
            for _ in range(times):
                answered = client.post("/predict?target=0.5", content=picture, headers=PNG)
                assert answered.json()["label"]["name"] == "7"
                peers.add(answered.extensions["network_stream"].get_extra_info("client_addr"))
            assert len(peers) == 1

    def dropped(self) -> float:
        found = re.search(r"^pixeldp_log_lines_dropped_total (.*)$", self.metrics(), re.MULTILINE)
        assert found
        return float(found[1])

    def metrics(self) -> str:
        return self.client.get("/metrics").text

    def stop(self) -> int:
        self.client.close()
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)


@contextmanager
def running(stderr: int | IO[bytes] | None, shell: str = "") -> Iterator[Service]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "service.cli.main", "serve"]
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    service = Service(command, port, stderr)
    try:
        service.wait(service.is_ready)
        yield service
    finally:
        service.process.kill()
        service.process.wait()


def test_its_reader_stops_reading_and_then_goes_away(seven: bytes) -> None:
    reading, writing = os.pipe()
    with ExitStack() as stack:
        with open(writing, "wb") as end:
            service = stack.enter_context(running(end))
        service.answer(seven, MANY)
        service.lose_a_worker()
        service.answer(seven)
        assert service.dropped() == 0, "there is room for some thousand lines"
        os.close(reading)
        service.lose_a_worker()
        service.answer(seven, 3)
        service.wait(lambda: service.dropped() > MANY / 2)
        assert service.stop() == 0


@pytest.mark.parametrize("shell", ["2>/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_its_disk_is_full_or_it_is_closed(seven: bytes, shell: str) -> None:
    with running(None, shell) as service:
        service.answer(seven, 3)
        service.lose_a_worker()
        service.answer(seven)
        # A closed stream swallows everything, and a full disk takes nothing.
        if "full" in shell:
            service.wait(lambda: service.dropped() >= 5)
        else:
            assert service.dropped() == 0
        assert service.stop() == 0


def test_a_worker_starts_however_many_files_are_open(seven: bytes) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with running(subprocess.DEVNULL) as service, ExitStack() as stack:
        _, port = service.address.rsplit(":", 1)
        for _ in range(MANY_CONNECTIONS):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", int(port)), 30))
            one.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert one.recv(4096)
        assert len(os.listdir(f"/proc/{service.process.pid}/fd")) > MANY_CONNECTIONS
        service.lose_a_worker()
        service.answer(seven)
        # SIGHUP asks a daemon to read its files again, not to end.
        os.killpg(service.process.pid, signal.SIGHUP)
        service.answer(seven)
        assert len(workers(service.process.pid)) == 1
        assert service.stop() == 0


def test_it_stops_when_its_terminal_is_gone() -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, os.ttyname(theirs)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, "PIXELDP_PORT": str(port), "PIXELDP_DEVICES": "cpu"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    said = b""
    while b"answers on" not in said:
        said += os.read(ours, 1000)
    os.close(theirs)
    os.close(ours)
    assert process.wait(300) == 0


IN_TERMINAL = """
import os, signal, sys

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever started the tests may ignore it
terminal = os.open(sys.argv[1], os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(terminal, descriptor)
os.execv(sys.executable, [sys.executable, "-m", "service.cli.main", "serve"])
"""


def test_it_can_be_stopped_while_it_is_starting_even_as_the_first_process_of_a_container() -> None:
    """The system delivers to a first process only signals that it handles."""
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*container, "true"]).returncode:
        pytest.skip("NOT TESTED: a first process needs Linux and the right to make namespaces")
    command = [*container, sys.executable, "-m", "service.cli.main", "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + START_SECONDS
    while process.poll() is None:
        assert time.monotonic() < end
        for first in children(process.pid):
            os.kill(first, signal.SIGTERM)
        time.sleep(0.02)
    assert process.stderr
    assert "answers on" not in process.stderr.read()
    assert process.returncode in (0, 128 + signal.SIGTERM)
    process.stderr.close()

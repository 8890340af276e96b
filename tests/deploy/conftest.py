"""A service as it is operated: with API keys, one for a client and one for Prometheus."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.http.guards import keys
from tests.e2e.conftest import PLAIN, Service

START_SECONDS = 300


@dataclass(frozen=True)
class Operated:
    """A running service and the secrets of its keys."""

    service: Service
    client_key: str
    metrics_key: str

    @property
    def authority(self) -> str:
        """Its host and port."""
        return self.service.address.removeprefix("http://")


@pytest.fixture(scope="session")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    client = keys.add(path, "client", ["predict"], None)
    metrics = keys.add(path, "prometheus", ["metrics"], None)
    environment = {**PLAIN, "PIXELDP_KEYS": str(path)}
    running = Service(environment=environment).wait_ready()
    yield Operated(running, client, metrics)
    assert running.stop() == 0, running.log


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def replaced(text: str, changes: dict[str, str]) -> str:
    """Return a file of deploy/ with some of its text replaced for this test run."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the file"
        text = text.replace(old, new)
    return text


def start(command: list[str], log: Path, up: Callable[[], bool]) -> subprocess.Popen[bytes]:
    """Start a program, and wait until ``up`` says that it is up."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent)
    end = time.monotonic() + START_SECONDS
    while not up():
        assert process.poll() is None, f"{command[0]} ended: {log.read_text()}"
        assert time.monotonic() < end, f"{command[0]} is not up: {log.read_text()}"
        time.sleep(0.02)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(300)

"""A real service with its own processes, its own socket and the shipped model."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest

from models.bundle import ZOO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tests.e2e.own_network import OwnNetwork

ROOT = Path(__file__).parents[2]
# These time-outs are for hangs: ten times what a slow machine takes.
START_SECONDS, STOP_SECONDS = 300, 300
# One worker that measures nothing first, for tests of other things than how a model is run.
PLAIN = {"PIXELDP_DEVICES": "cpu", "PIXELDP_PRECISION": "float32", "PIXELDP_PASS_SIZE": "128"}


class Service:
    """A running service, with what it wrote to standard error.

    ``first`` is called in its process before the service starts there.
    """

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        folder: Path = ROOT,
        first: Callable[[], None] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.cli.main", "serve", "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            # However many processors there are, tests know the processes.
            env={
                "PIXELDP_FRONTS": "1",
                **os.environ,
                "PIXELDP_LOG_FORMAT": "json",
                **(environment or {}),
            },
            preexec_fn=first,
        )
        self.lines: list[str] = []
        self._first = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._first.wait(START_SECONDS), "the service wrote nothing"
        found = re.search(r"http://(\[[^\]]+\]|[0-9.]+):\d+", self.log)
        if not found:
            self.stop()
            raise AssertionError(f"the service did not start: {self.log}")
        self.address = found[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "http://" in line:
                self._first.set()
        self._first.set()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_ready(self) -> "Service":
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if httpx.get(f"{self.address}/health/ready").status_code == 200:
                return self
            assert self.process.poll() is None, self.log
            time.sleep(0.05)
        raise AssertionError(f"not ready after {START_SECONDS} s: {self.log}")

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        if self.process.stderr:
            self.process.stderr.close()
        return code


class Start(Protocol):
    """Starts a service of some models, by default the shipped one, with some settings."""

    def __call__(self, *models: str | Path, environment: dict[str, str] | None = None) -> Service:
        """Return it when it is ready."""


def copy_bundle(folder: Path, **changes: Any) -> Path:
    """Copy the shipped bundle with changes to its manifest; return the copy's path."""
    shutil.copytree(ZOO / "mnist-cnn", folder)
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


@pytest.fixture(scope="session")
def service(start: Start) -> Iterator[Service]:
    running = start()
    yield running
    code = running.stop()
    assert code == 0, running.log
    assert '"level": "error"' not in running.log, running.log


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.address) as client:
        yield client


@pytest.fixture(scope="session")
def own_network(tmp_path_factory: pytest.TempPathFactory) -> "OwnNetwork":
    from tests.e2e.own_network import OwnNetwork

    return OwnNetwork(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def alone(start: Start, own_network: "OwnNetwork") -> Iterator[Service]:
    """A service that serves only that network."""
    running = own_network.serve(start)
    yield running
    assert running.stop() == 0


@pytest.fixture
def own(own_network: "OwnNetwork") -> Iterator["OwnNetwork"]:
    """A network that holds and fails as a test tells it, until the test ends."""
    yield own_network
    own_network.unsay()


@pytest.fixture(scope="session")
def seven() -> bytes:
    """A handwritten seven, 28 × 28 grey."""
    return (ROOT / "examples" / "7.png").read_bytes()


@pytest.fixture(scope="session")
def digit() -> "NDArray[np.uint8]":
    """A digit of scikit-learn's, 8 × 8 grey."""
    from models.data.datasets import load

    first: NDArray[np.uint8] = load("digits", None, "test").images[0][:, :, 0]
    return first

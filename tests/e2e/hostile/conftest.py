"""A separate service for hostile input, watched for what it must not do."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import PLAIN, ROOT, Service, Start
from tests.e2e.own_network import restarts

PNG = {"Content-Type": "image/png"}


class Watched:
    """A running service whose processes and log are checked afterwards."""

    def __init__(self, service: Service) -> None:
        self.service, self.address = service, service.address

    def children(self) -> list[int]:
        """The process ids of the workers, or on Ray of Ray's own processes."""
        pid = self.service.process.pid
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def resident(self) -> int:
        """The bytes of memory that all its processes use."""
        pages = 0
        for pid in (self.service.process.pid, *self.children()):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * 4096

    def check_sound(self, workers: list[int]) -> None:
        """Assert that nothing died or failed, and that a sound picture is answered."""
        log = self.service.log
        assert self.service.process.poll() is None, log
        assert self.children() == workers, log
        assert restarts(self.service) == 0, log
        content = (ROOT / "examples" / "7.png").read_bytes()
        url = f"{self.address}/predict?target=0.5"
        answer = httpx.post(url, content=content, headers=PNG, timeout=300).json()
        assert answer["label"]["name"] == "7"
        assert answer["robust"] is True
        log = self.service.log
        assert '"level": "error"' not in log, log
        assert "Traceback" not in log, log


@pytest.fixture(scope="package")
def hostile_service(start: Start) -> Iterator[Watched]:
    environment = {
        **PLAIN,
        "PIXELDP_MAX_PIXELS": "4000000",
        # Not enough for two of the largest bodies.
        "PIXELDP_QUEUE_BYTES": "36000000",
    }
    running = start(environment=environment)
    yield Watched(running)
    assert running.stop() == 0, running.log


@pytest.fixture
def watched(hostile_service: Watched) -> Iterator[Watched]:
    workers = hostile_service.children()
    yield hostile_service
    hostile_service.check_sound(workers)

"""A separate service for hostile input, watched for what it must not do."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import PLAIN, ROOT, Service

PNG = {"Content-Type": "image/png"}


class Watched(Service):
    """A running service whose processes and log are checked afterwards."""

    def children(self) -> list[int]:
        """The process ids of the workers."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def resident(self) -> int:
        """The bytes of memory that all its processes use."""
        pages = 0
        for pid in (self.process.pid, *self.children()):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * 4096

    def check_sound(self, workers: list[int]) -> None:
        """Assert that nothing died or failed, and that a sound picture is answered."""
        assert self.process.poll() is None, self.log
        assert self.children() == workers, self.log
        content = (ROOT / "examples" / "7.png").read_bytes()
        url = f"{self.address}/predict?target=0.5"
        answer = httpx.post(url, content=content, headers=PNG, timeout=300).json()
        assert answer["label"]["name"] == "7"
        assert answer["robust"] is True
        assert '"level": "error"' not in self.log, self.log
        assert "Traceback" not in self.log, self.log


@pytest.fixture(scope="package")
def hostile_service() -> Iterator[Watched]:
    environment = {
        **PLAIN,
        "PIXELDP_MAX_PIXELS": "4000000",
        # Not enough for two of the largest bodies.
        "PIXELDP_QUEUE_BYTES": "36000000",
    }
    running = Watched(environment=environment)
    running.wait_ready()
    yield running
    assert running.stop() == 0, running.log


@pytest.fixture
def watched(hostile_service: Watched) -> Iterator[Watched]:
    workers = hostile_service.children()
    yield hostile_service
    hostile_service.check_sound(workers)

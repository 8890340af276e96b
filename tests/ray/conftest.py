"""Tests of what only Ray does. They need the extra ``ray`` and run in ``make test-ray``."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import ROOT
from tests.e2e.on_ray import OnRay

if TYPE_CHECKING:
    from tests.ray.dashboard import Dashboard


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--on") != "ray" else None


class Watched(OnRay):
    """A service on Ray that tells where its dashboard is."""

    dashboard: "Dashboard"

    def wait_ready(self) -> "Watched":
        super().wait_ready()
        found = re.search(r"dashboard at \S*?(http://[0-9.]+:\d+)", self.log)
        assert found, self.log
        from tests.ray.dashboard import Dashboard

        self.dashboard = Dashboard(found[1], self.variables["RAY_AUTH_TOKEN"], self.configure)
        return self

    def stop(self) -> int:
        self.dashboard.close()
        return super().stop()


@pytest.fixture(scope="session")
def on_ray() -> Iterator[Watched]:
    running = Watched().wait_ready()
    running.dashboard.deploy({}, num_replicas=2)
    running.dashboard.wait_replicas(2)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def seven() -> bytes:
    """A handwritten seven, 28 × 28 grey."""
    return (ROOT / "examples" / "7.png").read_bytes()

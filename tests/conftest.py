"""What all tests share."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG

if TYPE_CHECKING:
    from tests.e2e.conftest import Start

# One thread for each process: on few cores, more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiling keeps the cores busy whenever a service starts; one test asks for it.
os.environ.setdefault("PIXELDP_COMPILE", "false")
# Every machine runs tests the same way; tests of other providers ask for them.
os.environ.setdefault("PIXELDP_PROVIDER", "pytorch")
# No test uses what another one has measured.
os.environ.setdefault("PIXELDP_CACHE", "off")
# Otherwise Ray's processes come after all others of a busy machine, and its start is given up.
os.environ.setdefault("RAY_worker_niceness", "0")

# A request is given up only if it hangs: the five seconds that httpx allows by default are
# sometimes too few on a slow, busy machine.
HANG_SECONDS = 300
for phase in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, phase, HANG_SECONDS)

# PyTorch compiles networks with the system's C++ compiler, if it has one.
HAS_COMPILER = any(shutil.which(name) for name in ("g++", "clang++", "c++"))

# The tests that were collected, and whether each asks for the fixture start.
COLLECTED = pytest.StashKey[dict[str, bool]]()

# The markers of all tests in a folder, in addition to their own.
MARKS = {"e2e": ["e2e"], "soundness": ["soundness", "slow"], "chaos": ["slow"]}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on",
        choices=("plain", "ray"),
        default="plain",
        help="the service that tests ask: the plain one, or the same on Ray Serve",
    )


@pytest.fixture(scope="session")
def start(request: pytest.FixtureRequest) -> "Start":
    """Start the kind of service that ``--on`` names, and wait until it is ready.

    Tests that ask for this run on Ray, too, unless they are exempt.
    """
    from tests.e2e import conftest

    kind: type[conftest.Service] = conftest.Service
    if request.config.getoption("--on") == "ray":
        from tests.e2e.on_ray import OnRay

        kind = OnRay

    def start(*models: str | Path, environment: dict[str, str] | None = None) -> conftest.Service:
        given = {"PIXELDP_MODELS": ",".join(map(str, models))} if models else {}
        service = kind(environment={**given, **(environment or {})})
        try:
            return service.wait_ready()
        except BaseException:  # a time-out of pytest's, too
            service.stop()
            raise

    return start


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by their folders, before tests are selected by their markers."""
    config.stash[COLLECTED] = {
        one.nodeid: "start" in getattr(one, "fixturenames", ()) for one in items
    }
    if config.getoption("--on") == "ray":
        from tests.e2e.on_ray import runs_on_ray

        config.hook.pytest_deselected(items=[one for one in items if not runs_on_ray(one)])
        items[:] = filter(runs_on_ray, items)
    for folder, marks in MARKS.items():
        for item in items:
            if Path(__file__).parent / folder in item.path.parents:
                for mark in marks:
                    item.add_marker(mark)
    for item in items:
        if item.get_closest_marker("soundness"):  # a second try would double a wrong bound's chance
            item.add_marker(pytest.mark.flaky(reruns=0))

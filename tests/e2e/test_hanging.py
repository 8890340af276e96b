"""A hanging disk delays neither other models nor the end of the service."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from models.bundle import ZOO
from tests.chaos.processes import children, decoders, title, workers
from tests.e2e.conftest import PLAIN, Service, copy_bundle
from tests.hanging_disk import CannotMountError, HangingDisk

pytestmark = pytest.mark.slow

NAME = "mnist-cnn"
HANG_SECONDS = 300.0


@contextlib.contextmanager
def hanging_disk(source: Path, folder: Path) -> Iterator[Callable[[], bool]]:
    """A disk on which the weights cannot be read to their end."""
    disk = HangingDisk(source, folder, "weights.safetensors")
    try:
        yield lambda: disk.asked.wait(HANG_SECONDS)
    finally:
        disk.close()


def readers() -> list[int]:
    """Return the readers of this test's own service, as other services have some, too."""
    fronts = children(os.getpid())
    found = (pid for front in fronts for pid in children(front))
    return [pid for pid in found if "service.reading" in title(pid)]


@contextlib.contextmanager
def stopped_reader(source: Path, folder: Path) -> Iterator[Callable[[], bool]]:
    """The reading process is stopped, which looks the same and needs no right to mount."""
    shutil.copytree(source, folder)
    seen: list[int] = []
    found, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(0.002) and len(seen) < 2:
            for pid in readers():
                if pid not in seen:
                    seen.append(pid)
                    if len(seen) == 2:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGSTOP)
                            found.set()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: found.wait(HANG_SECONDS)
    finally:
        over.set()
        thread.join()


def can_mount(folder: Path) -> bool:
    folder.mkdir()
    try:
        HangingDisk(folder, folder / "disk", "nothing").close()
    except CannotMountError:
        return False
    return True


@pytest.fixture
def hanging(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], bool]]:
    """A repository in which ``slow`` hangs and ``quick`` does not; it says when ``slow`` hangs."""
    root = tmp_path / "repository"
    root.mkdir()
    copy_bundle(root / "quick", name="quick")
    source = copy_bundle(tmp_path / "source", name="slow")
    how = hanging_disk if can_mount(tmp_path / "tried") else stopped_reader
    if request.param == "stopped":
        how = stopped_reader
    with how(source, root / "slow") as begun:
        yield begun


@contextlib.contextmanager
def loading(service: Service) -> Iterator[list[httpx.Response]]:
    """While the block runs, the hanging model is requested; the yielded object gets the answer."""
    answers: list[httpx.Response] = []
    url = f"{service.address}/v2/repository/models/slow/load"
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(url, timeout=HANG_SECONDS)), daemon=True
    )
    asking.start()
    yield answers
    asking.join(HANG_SECONDS)


@pytest.mark.parametrize("hanging", ["disk", "stopped"], indirect=True)
def test_a_hanging_load_is_given_up_and_delays_nothing_else(
    hanging: Callable[[], bool], tmp_path: Path, seven: bytes
) -> None:
    settings = {
        **PLAIN,
        "PIXELDP_REPOSITORY": str(tmp_path / "repository"),
        # Other requests must be answered before then, even on a slow machine.
        "PIXELDP_LOAD_SECONDS": "60",
    }
    service = Service(str(ZOO / NAME), environment=settings).wait_ready()
    try:
        with loading(service) as answers:
            assert hanging()
            others = f"{service.address}/v2/repository/models"
            assert httpx.post(f"{others}/quick/load").status_code == 200
            asked = f"{service.address}/predict?model=quick"
            assert httpx.post(asked, content=seven).status_code == 200
            assert httpx.post(f"{others}/quick/unload").status_code == 200
            assert httpx.get(f"{service.address}/health/ready").status_code == 200
            assert not answers
        assert answers[0].status_code == 400
        assert "was not read within" in answers[0].text
        known = httpx.get(f"{service.address}/models").json()["models"]
        assert [model["name"] for model in known] == [NAME]
    finally:
        assert service.stop() == 0, service.log


@pytest.mark.parametrize("hanging", ["disk", "stopped"], indirect=True)
def test_a_stop_does_not_wait_for_it(hanging: Callable[[], bool], tmp_path: Path) -> None:
    """Neither does it wait for stopped workers and decoders."""
    settings = {**PLAIN, "PIXELDP_REPOSITORY": str(tmp_path / "repository")}
    service = Service(str(ZOO / NAME), environment=settings).wait_ready()
    with loading(service) as answers:
        assert hanging()
        for pid in workers(service.process.pid) + decoders(service.process.pid):
            os.kill(pid, signal.SIGSTOP)
        code = service.stop()
    assert code == 0, service.log
    assert answers[0].status_code == 503
    assert "stopping" in answers[0].text


@pytest.mark.parametrize("asked", ["SIGTERM", "nothing"])
def test_a_hanging_start_ends(tmp_path: Path, asked: str) -> None:
    """It ends on request, or by itself after a while."""
    try:
        disk = HangingDisk(ZOO / NAME, tmp_path / "slow", "weights.safetensors")
    except CannotMountError:
        pytest.skip("the system lets this user mount nothing")
    command = [sys.executable, "-P", "-m", "service.cli.main", "serve", str(disk.folder)]
    limit = "3600" if asked == "SIGTERM" else "1"
    service = subprocess.Popen(
        [*command, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PIXELDP_LOAD_SECONDS": limit},
    )
    try:
        assert disk.asked.wait(HANG_SECONDS)
        if asked == "SIGTERM":
            service.terminate()
        code = service.wait(HANG_SECONDS)
    finally:
        disk.close()
        service.kill()
    _, said = service.communicate()
    if asked == "SIGTERM":
        assert code == 0, said
    else:
        assert code == 1, said
        assert "slow was not read within 1 s; PIXELDP_LOAD_SECONDS allows more" in said

"""A bulk certification on a cluster of Ray, of which an engine dies, and then the command."""

import re
from pathlib import Path

from tests.chaos.bulk import EARLY, Bulk, examine, make_pictures
from tests.chaos.processes import title, tree
from tests.ray.conftest import Watched
from tests.ray.dashboard import wait_until

KILLED = 2


class OnCluster(Bulk):
    """One run of the command after another on a cluster.

    Args:
        folder: with ``pictures.npz``.
        cluster: with at least one processor free.
    """

    def __init__(self, folder: Path, cluster: Watched) -> None:
        self._main = cluster.process.pid
        titles = " ".join(title(pid).replace("\0", " ") for pid in tree(self._main))
        address = re.search(r"--gcs-address=(\S+)", titles)
        assert address, titles
        super().__init__(folder, ["--ray"], {**cluster.variables, "RAY_ADDRESS": address[1]})

    def workers(self) -> list[int]:
        return [pid for pid in tree(self._main) if "EngineActor" in title(pid)]

    def began(self) -> bool:
        """Say whether a picture may have begun."""
        assert self.process.poll() is None, self.log
        return (self.output / "begun.json").exists()


def attempt(folder: Path, pictures: int, cluster: Watched) -> list[str]:
    """Certify so many pictures; return what is wrong."""
    folder.mkdir()
    make_pictures(folder / "pictures.npz", pictures)
    bulk, killed = OnCluster(folder, cluster), 0
    left: list[str] = []
    try:
        wait_until(bulk.began, "pictures begin")
        killed += bulk.kill_worker(0)
        if bulk.wait_progress(1):
            left = bulk.kill()
            killed += 1
        code = bulk.process.wait(600)
    finally:
        bulk.process.kill()
        bulk.process.wait()
    found = examine(bulk.output, pictures, killed == KILLED, code, left)
    return [f"{name}: {found.get(name)}, {bulk.log[-2000:]}" for name in found["wrong"]]


def test_no_picture_is_lost_or_doubled(on_ray: Watched, tmp_path: Path) -> None:
    """A fast machine may end before it is killed, and then has four times as many pictures."""
    for pictures in (300, 1200, 4800):
        wrong = attempt(tmp_path / str(pictures), pictures, on_ray)
        if not any(EARLY in one for one in wrong):
            break
    assert wrong == []

"""The devices on which workers can run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.system import devices


def quota(root: Path, groups: str, files: dict[str, str]) -> float | None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    own = root / "self"
    own.write_text(groups)
    return devices._quota(root, own)


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"cpu.max": "max 1", "a/cpu.max": "50 100", "a/b/cpu.max": "9 1"}, 0.5),
        # As seen inside a container: the path is the host's, but the files are at the root.
        ("0::/kubepods/pod1\n", {"cpu.max": "150000 100000"}, 1.5),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "3", "cpu/a/cpu.cfs_period_us": "2"},
            1.5,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "2"}, None),
        ("3:cpuset:/\n0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "what?"}, None),
    ],
)
def test_the_quota_of_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], wanted: float | None
) -> None:
    assert quota(tmp_path, groups, files) == wanted


@pytest.mark.parametrize(("limit", "workers"), [(0.5, 1), (1.9, 1), (2.0, 2), (64.0, 4), (None, 4)])
def test_no_more_workers_than_the_quota_allows(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, workers: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(devices, "_quota", lambda *_: limit)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices.automatic() == ["cpu"] * workers


def test_without_control_groups_the_affinity_decides(tmp_path: Path) -> None:
    assert devices._quota(tmp_path, tmp_path / "none") is None
    assert 1 <= devices.processors() <= len(os.sched_getaffinity(0))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Returns the devices of a machine with given device files and a given build of PyTorch."""

    def found(files: str, cuda: str, visible: str | None) -> list[str]:
        folder = tmp_path / "dev"
        folder.mkdir()
        for name in files.split():
            (folder / name).touch()
        torch = tmp_path / "site" / "torch"
        torch.mkdir(parents=True)
        (torch / "__init__.py").write_text("raise RuntimeError('imported')\n")
        if cuda:
            (torch / "version.py").write_text(f"__version__ = '2.13'\n{cuda}\nhip = None\n")
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        monkeypatch.setattr(devices, "DEVICES", folder)
        monkeypatch.setattr(devices, "processors", lambda: 1)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return devices.automatic()

    return found


TWO = "nvidia0 nvidia1 nvidiactl nvidia-uvm nvidia-caps"
CUDA, NONE = "cuda: Optional[str] = '12.8'", "cuda: Optional[str] = None"


@pytest.mark.parametrize(
    ("files", "cuda", "visible", "wanted"),
    [
        (TWO, CUDA, None, ["cuda:0", "cuda:1"]),
        (TWO, "cuda = '12.8'", None, ["cuda:0", "cuda:1"]),
        (TWO, NONE, None, ["cpu"]),
        (TWO, "cuda = None", None, ["cpu"]),
        (TWO, NONE, "0,1", ["cpu"]),
        (TWO, "", None, ["cpu"]),
        ("", CUDA, None, ["cpu"]),
        ("", CUDA, "0,1,2,3", ["cpu"]),
        ("nvidiactl nvidia-uvm", CUDA, None, ["cpu"]),
        (TWO, CUDA, "", ["cpu"]),
        (TWO, CUDA, "-1", ["cpu"]),
        (TWO, CUDA, "NoDevFiles", ["cpu"]),
        (TWO, CUDA, "void", ["cpu"]),
        (TWO, CUDA, "1", ["cuda:0"]),
        (TWO, CUDA, " 0 , 1 ", ["cuda:0", "cuda:1"]),
        (TWO, CUDA, "0,1,2,3", ["cuda:0", "cuda:1"]),
        (TWO, CUDA, "0,-1,1", ["cuda:0"]),
        (TWO, CUDA, "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", ["cuda:0"]),
        ("dxg", CUDA, None, ["cuda:0"]),
    ],
)
def test_gpus_that_can_be_used(
    machine: Callable[..., list[str]], files: str, cuda: str, visible: str | None, wanted: list[str]
) -> None:
    """As CUDA reads the variable: up to the first device that it does not know, without torch."""
    assert machine(files, cuda, visible) == wanted


MIG = "MIG-6c1d4b8f-9a1a-5c1e-8a54-1f2a6a0f0c11,MIG-0e7b2a3c-5d1f-5a77-9c0e-3b2f7a1d4e22"


@pytest.mark.parametrize(
    ("files", "visible", "name", "wanted"),
    [
        (TWO, None, "cuda:0", "0"),
        (TWO, None, "cuda:1", "1"),
        (TWO, None, "cuda", "0"),
        (TWO, "1", "cuda:0", "1"),
        (TWO, "1,0", "cuda:1", "0"),
        (TWO, MIG, "cuda:1", MIG.split(",")[1]),
        (TWO, "0,-1,1", "cuda:0", "0"),
        (TWO, "0,0", "cuda:0", "0"),
    ],
)
def test_a_worker_sees_only_its_own_gpu(
    machine: Callable[..., list[str]], files: str, visible: str | None, name: str, wanted: str
) -> None:
    machine(files, CUDA, visible)
    assert devices.own(name) == ("cuda:0", {"CUDA_VISIBLE_DEVICES": wanted})


@pytest.mark.parametrize(
    ("visible", "name"), [("0,-1,1", "cuda:1"), (None, "cuda:2"), ("", "cuda:0"), (None, "cpu")]
)
def test_a_device_without_an_entry_keeps_its_name(
    machine: Callable[..., list[str]], visible: str | None, name: str
) -> None:
    machine(TWO, CUDA, visible)
    assert devices.own(name) == (name, {})


def test_every_part_of_a_gpu_has_a_worker(machine: Callable[..., list[str]]) -> None:
    assert machine("nvidia0 nvidiactl", CUDA, MIG) == ["cuda:0", "cuda:1"]

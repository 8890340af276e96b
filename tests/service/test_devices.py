"""What there is to run workers on."""

import os
from pathlib import Path

import pytest

from service import devices


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
        # Seen from inside a container: the path is the host's, the files are at the root.
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

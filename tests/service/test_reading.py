"""Bundles that are read by a separate process."""

import asyncio
import subprocess
import time
from pathlib import Path

import pytest

from models.bundle import BundleError, read_bundle
from service import reading
from service.engine.errors import LoadError
from tests.service.test_catalogue import bundle

READ_SECONDS = 300.0
START = reading._start


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list["subprocess.Popen[bytes]"]:
    """The real readers that were started."""
    found: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        found.append(START())
        return found[-1]

    monkeypatch.setattr(reading, "_start", start)
    return found


def wait_until_over(started: list["subprocess.Popen[bytes]"]) -> None:
    """Wait until all readers have ended and none is counted any more."""
    end = time.monotonic() + READ_SECONDS
    while reading._running:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert all(process.poll() is not None for process in started)


def test_one_reader_reads_all_bundles_of_a_load(
    tmp_path: Path, started: list["subprocess.Popen[bytes]"]
) -> None:
    paths = [bundle(tmp_path, "a", version) for version in ("1", "2", "3")]
    found = asyncio.run(reading.bundles(paths, READ_SECONDS))
    assert found == [read_bundle(path) for path in paths]
    assert len(started) == 1
    wait_until_over(started)


def test_a_bundle_that_cannot_be_trusted_is_named(
    tmp_path: Path, started: list["subprocess.Popen[bytes]"]
) -> None:
    paths = [bundle(tmp_path, "a", version) for version in ("1", "2")]
    (paths[1] / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(BundleError) as caught:
        asyncio.run(reading.bundles(paths, READ_SECONDS))
    with pytest.raises(BundleError) as expected:
        read_bundle(paths[1])
    assert str(caught.value) == str(expected.value)
    wait_until_over(started)


def test_a_bundle_that_is_not_read_in_time_is_named(
    tmp_path: Path, started: list["subprocess.Popen[bytes]"]
) -> None:
    path = bundle(tmp_path, "a", "1")
    with pytest.raises(LoadError, match=r"^a-1 was not read within 0 s; PIXELDP_LOAD_SECONDS"):
        asyncio.run(reading.bundles([path], 0.0))
    wait_until_over(started)


def test_a_reader_that_fails_says_why(
    tmp_path: Path, started: list["subprocess.Popen[bytes]"]
) -> None:
    with pytest.raises(LoadError, match=r"(?s)reading it failed: .*embedded null byte"):
        asyncio.run(reading.bundles([tmp_path / "a\0b"], READ_SECONDS))
    wait_until_over(started)


def test_a_fork_reads_the_same(tmp_path: Path) -> None:
    good, bad = (bundle(tmp_path, "a", version) for version in ("1", "2"))
    assert reading.read_forked(good, READ_SECONDS) == read_bundle(good)
    (bad / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(BundleError) as caught:
        reading.read_forked(bad, READ_SECONDS)
    with pytest.raises(BundleError) as expected:
        read_bundle(bad)
    assert str(caught.value) == str(expected.value)
    with pytest.raises(LoadError, match=r"^a-1 was not read within 0 s; PIXELDP_LOAD_SECONDS"):
        reading.read_forked(good, 0.0)
    with pytest.raises(LoadError, match="reading it failed"):
        reading.read_forked(tmp_path / "a\0b", READ_SECONDS)

"""Prometheus, its tools and nginx: as installed, or else unpacked from Debian's packages.

Installing them would start daemons and needs root. It is enough to unpack their packages into the
virtual environment's folder, where the next run finds them.
"""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNPACKED = ROOT / ".venv" / "debian"
PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "nginx": "nginx",
}


@cache
def tool(name: str) -> Path:
    """Return the path of ``name``; skips the test if it cannot be had."""
    found = _find(name)
    if found is None:
        trouble = _unpack(PACKAGES[name])
        found = _find(name)
        if found is None or trouble:
            pytest.skip(f"NOT TESTED: {name} is not installed and could not be fetched: {trouble}")
    return found


def _find(name: str) -> Path | None:
    folders = [UNPACKED / "usr" / "bin", UNPACKED / "usr" / "sbin"]
    places = os.pathsep.join([os.environ["PATH"], "/usr/sbin", *map(str, folders)])
    found = shutil.which(name, path=places)
    return Path(found) if found else None


def _unpack(package: str) -> str:
    """Fetch and unpack a package; return what went wrong, or nothing."""
    if not shutil.which("apt-get"):
        return f"there is no apt-get; install {package}"
    print(f"\nfetching Debian's package {package} into {UNPACKED} (once) ...", file=sys.__stderr__)
    UNPACKED.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "download", "-qq", package]
    fetched = _run(download)
    if fetched.returncode and os.geteuid() == 0:
        _run(["apt-get", "update", "-qq"])
        fetched = _run(download)
    if fetched.returncode:
        return fetched.stderr.strip()
    [archive] = UNPACKED.glob(f"{package}_*.deb")
    unpacked = _run(["dpkg", "-x", str(archive), str(UNPACKED)])
    archive.unlink()
    return unpacked.stderr.strip() if unpacked.returncode else ""


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=UNPACKED, capture_output=True, text=True, timeout=300, check=False
    )

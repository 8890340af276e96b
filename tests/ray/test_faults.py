"""Clients lose nothing while replicas die and change: the short form of ``make chaos-ray``."""

from pathlib import Path

from tests.e2e.conftest import copy_bundle
from tests.ray import faults
from tests.ray.conftest import Watched


def test_a_killed_replica_takes_no_request_with_it(on_ray: Watched, seven: bytes) -> None:
    counts = faults.kill_replica(on_ray, seven)
    assert counts["lost"] == []
    assert counts["requests"] >= 40


def test_a_new_version_takes_over(on_ray: Watched, seven: bytes, tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path / "bundle", version="2")
    counts = faults.roll_out(on_ray, seven, bundle, "2")
    assert counts["lost"] == []
    assert set(counts["versions"]) == {"1", "2"}

"""Schemathesis compares the running service with its OpenAPI document."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.hostile.conftest import Watched
from tests.e2e.hostile.test_fuzz import CALLS, SEED

pytestmark = pytest.mark.slow

pytest.importorskip("schemathesis", reason="the extra pixeldp[dev] is not installed")

# Overload and missed deadlines are documented statuses, not failures.
CONFIGURATION = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", "503", "504"]
"""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"
CHECKS += ",response_schema_conformance,unsupported_method,allow_header_conformance"
SCHEMATHESIS = "from schemathesis.cli import schemathesis; schemathesis()"
LONG = "PIXELDP_FUZZ" in os.environ


def test_the_service_follows_its_document(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    examples = max(4, CALLS // 400)
    phases = "examples,coverage,fuzzing,stateful" if LONG else "fuzzing"
    done = subprocess.run(
        [
            *(sys.executable, "-c", SCHEMATHESIS, "--config-file", "schemathesis.toml"),
            *("run", f"{watched.address}/openapi.json", "--checks", CHECKS, "--phases", phases),
            *("--max-examples", str(examples), "--seed", str(int(SEED, 16) % 2**32)),
            *("--generation-database", "none", "--no-color"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Every operation was tested; none was skipped because the document could not be read.
    paths = httpx.get(f"{watched.address}/openapi.json").json()["paths"]
    operations = sum(map(len, paths.values()))
    assert operations >= 8
    assert f"Operations:       {operations} selected / {operations} total" in done.stdout

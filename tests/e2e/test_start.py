"""Starts that must succeed in hostile surroundings, and starts that must fail with a reason."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import WEIGHTS, Manifest
from models.network import build_network, save_network
from tests.chaos.processes import workers
from tests.e2e.conftest import START_SECONDS, Service
from tests.models.test_bundle import DESCRIPTION

pytestmark = pytest.mark.slow

SERVE = [sys.executable, "-P", "-m", "service.cli.main", "serve", "--port", "0", "--devices", "cpu"]
PNG = {"Content-Type": "image/png"}


def start(
    *arguments: str | Path,
    environment: dict[str, str] | None = None,
    limit: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Start a service that cannot serve, and wait for its end."""
    return subprocess.run(
        [*SERVE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        env={**os.environ, "PIXELDP_LOG_FORMAT": "json", **(environment or {})},
        preexec_fn=limit,
        check=False,
    )


def refusal(*arguments: str | Path, **more: Any) -> str:
    """Start a service that cannot serve; return the line that says why."""
    ended = start(*arguments, **more)
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("pixeldp: "), ended.stderr
    return last


# What `import torch` does in a broken environment, and what must be reported.
# Other exceptions and exits are in tests/service/engine/test_failures.py.
FAILURES = {
    "raise KeyError('odd')": "KeyError: 'odd'",
    "raise SystemExit(3)": "SystemExit: 3",
    "not Python at all": "SyntaxError",
    "import os; os.write(2, b'no such thing\\n\\n'); os._exit(7)": "exit status 7 (no such thing)",
    "import os; os.kill(os.getpid(), 9)": "SIGKILL ended it",
    "import os; os.closerange(3, 100); os._exit(1)": "exit status 1",
}


@pytest.mark.parametrize("code", FAILURES)
def test_a_worker_that_cannot_start_says_why(tmp_path: Path, code: str) -> None:
    (tmp_path / "torch.py").write_text(code + "\n")
    said = refusal(environment={"PYTHONPATH": str(tmp_path)})
    assert FAILURES[code] in said
    assert "worker0 on cpu" in said


def test_a_worker_that_hangs_while_it_loads_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time; time.sleep(1000)\n")
    environment = {"PYTHONPATH": str(tmp_path), "PIXELDP_LOAD_SECONDS": "1"}
    assert "PIXELDP_LOAD_SECONDS allows more" in refusal(environment=environment)


def test_a_device_that_does_not_exist() -> None:
    assert "--devices cpu" in refusal("--devices", "cuda:99")


def test_too_little_memory_to_load_pytorch() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (700 * 2**20, 700 * 2**20))

    # What fails first depends on PyTorch.
    assert "worker0 on cpu" in refusal(limit=limit, environment={"OMP_NUM_THREADS": "1"})


def test_too_few_descriptors() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    said = refusal(limit=limit)
    assert "open files" in said
    assert "512" in said


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path / "bundle", manifest, build_network(manifest))
    return tmp_path / "bundle"


def test_weights_in_a_pipe(bundle: Path) -> None:
    (bundle / WEIGHTS).unlink()
    os.mkfifo(bundle / WEIGHTS)
    assert "weights.safetensors: file: is not a regular file" in refusal(bundle)


def test_unreadable_weights(bundle: Path) -> None:
    (bundle / WEIGHTS).unlink()
    (bundle / WEIGHTS).symlink_to(WEIGHTS)  # a circular link, which even root cannot read
    assert "weights.safetensors: file: cannot be read" in refusal(bundle)


@pytest.mark.parametrize("path", [None, os.pathsep], ids=["none", "empty parts"])
def test_the_current_folder_may_hold_anything(
    tmp_path: Path, seven: bytes, path: str | None
) -> None:
    """It has packages and modules of all names that workers import, not all with __init__.py."""
    for name in ("models", "service", "numpy", "scipy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    for name in ("torch", "pydantic", "structlog", "setproctitle", "socket", "argparse", "json"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "cryptography").mkdir()
    environment = {} if path is None else {"PYTHONPATH": path}
    if path == os.pathsep:  # then the front's own path has it, too, and only our packages are safe
        for name in ("numpy", "scipy", "service"):
            (tmp_path / name / "__init__.py").unlink()
            (tmp_path / name).rmdir()
        for file in tmp_path.glob("*.py"):
            if file.name != "torch.py":
                file.unlink()
    running = Service("--devices", "cpu", environment=environment, folder=tmp_path).wait_ready()
    try:
        url = f"{running.address}/predict?target=0.5"
        assert httpx.post(url, content=seven, headers=PNG, timeout=300).json()["robust"] is True
    finally:
        assert running.stop() == 0


def test_once_ready_it_waits_for_a_worker_that_cannot_start_again(
    bundle: Path, seven: bytes
) -> None:
    """Meanwhile it says what the trouble is."""
    running = Service(str(bundle), "--devices", "cpu").wait_ready()
    ready = f"{running.address}/health/ready"
    weights = (bundle / WEIGHTS).read_bytes()
    try:
        (bundle / WEIGHTS).write_bytes(weights[:-1])
        [worker] = workers(running.process.pid)
        os.kill(worker, signal.SIGKILL)
        end = time.monotonic() + START_SECONDS
        detail = ""
        while "but model.json states" not in detail:
            assert time.monotonic() < end, f"it never said why: {detail}\n{running.log}"
            detail = httpx.get(ready).json().get("detail", "")
            time.sleep(0.05)
        assert "worker0 on cpu" in detail
        (bundle / WEIGHTS).write_bytes(weights)
        running.wait_ready()
        died = [json.loads(line) for line in running.lines if "worker died" in line]
        assert "SIGKILL" in died[0]["reason"]
        assert "but model.json states" in died[1]["reason"]
    finally:
        assert running.stop() == 0

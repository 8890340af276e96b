"""A service at addresses of either family or both, and its health as seen from this machine."""

import os
import subprocess
import sys
import time

import httpx
import pytest

from service.http.address import url
from tests.e2e.conftest import PLAIN, ROOT, START_SECONDS, Service
from tests.service.http.test_address import has_ipv6

pytestmark = pytest.mark.slow

CLI = [sys.executable, "-P", "-m", "service.cli.main"]
KEYLESS = {"PIXELDP_ALLOW_KEYLESS": "true"}
V4, V6 = "127.0.0.1", "::1"


def health(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "health"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "http_proxy": "http://127.0.0.1:9", **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("host", "reached", "unreached"),
    [
        ("::1", [V6], [V4]),
        ("[::1]", [V6], [V4]),
        ("::", [V6, V4], []),
        ("0.0.0.0", [V4], [V6]),
        ("localhost", [], []),
        ("", [V4], [V6]),
    ],
)
def test_it_is_healthy_at_its_addresses(
    host: str, reached: list[str], unreached: list[str], seven: bytes
) -> None:
    if not has_ipv6() and host in ("::1", "[::1]"):
        assert "cannot listen on [::1]" in refusal("--host", host)
        return
    running = Service(environment={**PLAIN, **KEYLESS, "PIXELDP_HOST": host})
    port = int(running.address.rpartition(":")[2])
    asked = {"PIXELDP_HOST": host, "PIXELDP_PORT": str(port)}
    try:
        end = time.monotonic() + START_SECONDS
        while (done := health(**asked)).returncode:
            assert done.stderr.startswith("pixeldp: No worker is ready: "), done.stderr
            assert time.monotonic() < end
        assert (done.stdout, done.stderr) == ("", "")
        for one in reached:
            if one == V4 or has_ipv6():
                answer = httpx.post(
                    f"{url(one, port)}/predict?target=0.5", content=seven, timeout=300
                )
                assert answer.json()["robust"] is True
        for one in unreached:
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url(one, port)}/health/live")
    finally:
        assert running.stop() == 0
    assert "does not answer (Connection refused)" in health(**asked).stderr


def refusal(*arguments: str, shell: str = "", **environment: str) -> str:
    """Start a service that must not start; return the line that says why."""
    command = [*CLI, "serve", "--port", "0", *arguments]
    done = subprocess.run(
        ["sh", "-c", f'{shell} exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=START_SECONDS,
        check=False,
    )
    assert done.returncode in (1, 2), done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("pixeldp: ")
    return line


def test_sockets_are_refused_in_one_sentence() -> None:
    for said in (
        refusal("--host", "unix:/run/pixeldp.sock"),
        refusal("--uds", "/run/pixeldp.sock"),
        refusal("--fd", "3"),
        refusal(PIXELDP_HOST="/run/pixeldp.sock"),
        refusal(shell="LISTEN_PID=$$ LISTEN_FDS=1"),
    ):
        assert "only at an address and a port; put nginx before it" in said
    assert "PIXELDP_HOST is '/run/" in refusal(PIXELDP_HOST="/run/pixeldp.sock")
    assert "--host is ''" in refusal("--host", "")

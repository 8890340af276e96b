"""The same service on Ray Serve, for the tests that ask a service over HTTP.

``pytest --on ray`` runs them against it: those of a service that they have not started themselves.
"""

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.conftest import ROOT, START_SECONDS, STOP_SECONDS, Service

FOLDER = ROOT / "deploy" / "ray"

# The tests that do not run against Ray, each with the reason.
EXEMPT = {
    "tests/e2e/test_operations.py::test_processes_name_themselves": "Ray names the processes",
    "tests/e2e/test_operations.py::test_workers_have_lower_priority_than_the_front": (
        "the process that the tests start is Ray's, and the replica no child of it"
    ),
    "tests/e2e/test_predict.py::test_pictures_share_passes": (
        "requests may come through HAProxy one by one, more slowly than passes of this network end"
    ),
}

# So that a replica that ends in a test does so soon.
REACHABLE_SECONDS = 3


def runs_on_ray(item: pytest.Item) -> bool:
    """Say whether a test asks a service that is started for it, and is not exempt; or is Ray's."""
    place = item.nodeid.split("[")[0]
    asks = "service" in getattr(item, "fixturenames", ()) or place.startswith("tests/ray/")
    return asks and not any(place == one or place.startswith(f"{one}::") for one in EXEMPT)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing uses now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def ray_variables() -> dict[str, str]:
    """Return the variables that ``deploy/ray`` sets for Ray."""
    lines = shlex.split((FOLDER / "ray.env").read_text(), comments=True)
    return dict(line.split("=", 1) for line in lines)


def ray_environment(folder: Path) -> dict[str, str]:
    """Return what is needed to run Ray as ``deploy/ray`` says, in ``folder`` and on free ports."""
    stats, metrics, fallback = free_ports(3)
    haproxy = folder / "haproxy"
    haproxy.mkdir(exist_ok=True)
    places = {"CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin", "METRICS_SOCKET_PATH": "m"}
    return {
        **os.environ,
        **ray_variables(),
        **{f"RAY_SERVE_HAPROXY_{name}": str(haproxy / file) for name, file in places.items()},
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(REACHABLE_SECONDS),
        # A slow, busy machine takes longer than Ray expects of proxies.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "100",
        "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "300",
        # The tests ask for longer deadlines than deploy/ray/serve.yaml allows.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "700",
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_COLOR_PREFIX": "0",
        "RAY_DEDUP_LOGS": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def configuration(port: int, environment: dict[str, str], **deployment: Any) -> dict[str, Any]:
    """Return ``deploy/ray/serve.yaml`` for this machine alone.

    Args:
        port: where to listen.
        environment: further settings.
        deployment: what to change of the deployment.
    """
    whole: dict[str, Any] = yaml.safe_load((FOLDER / "serve.yaml").read_text())
    whole["http_options"] |= {"host": "127.0.0.1", "port": port}
    [application] = whole["applications"]
    # What reaches the plain service by its environment.
    ours = {name: value for name, value in os.environ.items() if name.startswith("PIXELDP_")}
    application["runtime_env"]["env_vars"] |= {
        "PIXELDP_TIMEOUT_MS_LIMIT": "600000",
        **ours,
        "OMP_NUM_THREADS": "1",
        "PIXELDP_LOG_FORMAT": "json",
        **({} if "PIXELDP_KEYS" in environment else {"PIXELDP_ALLOW_KEYLESS": "true"}),
        **environment,
    }
    # Several replicas share a small machine.
    application["deployments"][0] |= {"ray_actor_options": {"num_cpus": 0.4}, **deployment}
    return whole


class OnRay(Service):
    """A service on Ray: one replica, a cluster of its own."""

    def __init__(self, environment: dict[str, str] | None = None, **deployment: Any) -> None:
        # Its sockets' paths must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        [port] = free_ports(1)
        self.configure = partial(configuration, port)
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(self.configure(environment or {}, **deployment)))
        self.variables = ray_environment(self.folder)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ray.serve.scripts", "run", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self.variables,
        )
        self.lines: list[str] = []
        self.address = f"http://127.0.0.1:{port}"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def wait_ready(self) -> "OnRay":
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.address}/health/ready").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, self.log
            time.sleep(0.2)
        raise AssertionError(f"not ready after {START_SECONDS} s: {self.log}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        if self.process.stdout:
            self.process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code

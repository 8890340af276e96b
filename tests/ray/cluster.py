"""A cluster of Ray on this machine, with a network namespace for each node, and what kills it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from tests.e2e.on_ray import configuration, ray_environment, ray_variables
from tests.ray.dashboard import Dashboard, wait_until

SERVE_PORT, DASHBOARD_PORT, GCS_PORT = 8000, 8265, 6379


def run(*words: str) -> str:
    """Run a command, and return what it wrote."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


class Node:
    """A machine as far as Ray can see: its own network, address and processes.

    Args:
        cluster: to which it belongs.
        number: 1 for the first, which is the head.
    """

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.space = f"px{os.getpid()}n{number}"
        self.address = f"{cluster.network}.{number + 1}"
        self._link = f"v{os.getpid()}n{number}"
        run("ip", "netns", "add", self.space)
        inner = ["peer", "name", "eth0", "netns", self.space]
        run("ip", "link", "add", self._link, "type", "veth", *inner)
        run("ip", "link", "set", self._link, "master", cluster.bridge, "up")
        for words in (
            ["addr", "add", f"{self.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            run("ip", "-n", self.space, *words)
        head = ["--head", f"--port={GCS_PORT}", f"--dashboard-port={DASHBOARD_PORT}"]
        head += ["--dashboard-host=0.0.0.0", f"--temp-dir={cluster.folder}/ray"]
        joining = [f"--address={cluster.network}.2:{GCS_PORT}"]
        self._log = (cluster.folder / f"node{number}.log").open("wb")
        self.process = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.space),
                *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block"),
                *(head if number == 1 else joining),
                *(f"--node-ip-address={self.address}", "--num-cpus=1", "--num-gpus=0"),
                *("--object-store-memory=100000000", "--disable-usage-stats"),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=cluster.environment,
        )

    def kill(self) -> None:
        """Kill every process of the node at once, as when its power fails."""
        for pid in run("ip", "netns", "pids", self.space).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.process.wait()

    def cut(self) -> None:
        """Cut the node off: its processes go on, and no packet comes or goes."""
        run("ip", "link", "set", self._link, "down")

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        self._log.close()
        run("ip", "netns", "del", self.space)


class Cluster:
    """Nodes with room for one replica each, and the application on them.

    Args:
        nodes: how many at first.
    """

    def __init__(self, nodes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self.network = f"10.213.{os.getpid() % 250}"
        self.bridge = f"px{os.getpid()}"
        self.environment = {
            **ray_environment(self.folder),
            # Namespaces have ports of their own, and deadlines are those of deploy/ray.
            **ray_variables(),
        }
        self.dashboard = Dashboard(
            f"http://{self.network}.2:{DASHBOARD_PORT}",
            self.environment["RAY_AUTH_TOKEN"],
            self._configure,
        )
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.network}.1/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        self.nodes: list[Node] = []
        self._made = 0
        for _ in range(nodes):
            self.add_node()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for node in self.nodes:
            node.close()
        self.dashboard.close()
        run("ip", "link", "del", self.bridge)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Where clients ask: HAProxy of the head."""
        return f"http://{self.network}.2:{SERVE_PORT}"

    def add_node(self) -> None:
        """Start a node, and wait until the head knows it."""
        self._made += 1
        self.nodes.append(Node(self, self._made))
        wanted = len(self.nodes)
        wait_until(lambda: self.dashboard.nodes() >= wanted, "the node is there")

    def _configure(self, environment: dict[str, str], **deployment: Any) -> dict[str, Any]:
        settings = {"PIXELDP_TIMEOUT_MS_LIMIT": "30000", **environment}
        whole = configuration(SERVE_PORT, settings, max_replicas_per_node=1, **deployment)
        # HAProxy of one node asks replicas on others.
        whole["http_options"]["host"] = "0.0.0.0"
        return whole

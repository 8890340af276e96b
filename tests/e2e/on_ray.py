"""The same service on Ray Serve, for the tests that ask a service over HTTP.

``pytest --on ray`` runs them against it: those that ask for the fixture ``start`` or for a service
that it has started, unless they are exempt.
"""

import os
import re
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
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.conftest import ROOT, START_SECONDS, STOP_SECONDS, Service

FOLDER = ROOT / "deploy" / "ray"

# The tests that do not run on Ray, by the reason: each is a file, a test, or one of its cases.
EXEMPT = {
    "asks no service": [
        "tests/client/test_pictures.py",
        "tests/client/test_predictions.py::test_invalid_addresses_are_refused",
        "tests/client/test_proxies.py",
        "tests/e2e/hostile/test_corpus.py::test_the_corpus_has_what_it_should",
        "tests/e2e/hostile/test_fuzz.py::test_the_same_seed_makes_the_same_requests",
        "tests/e2e/hostile/test_fuzz.py::test_undocumented_failures_would_be_noticed",
        "tests/e2e/test_answers_document.py::test_every_route_and_output_of_the_protocol_is_described",
        "tests/e2e/test_documents.py::test_every_example_says_what_the_code_says",
        "tests/e2e/test_documents.py::test_every_link_works",
        "tests/e2e/test_documents.py::test_the_reference_is_what_the_code_says",
        "tests/e2e/test_imagenet_example.py::test_the_bundle_has_the_denoiser_and_a_thousand_labels",
        "tests/e2e/test_imagenet_example.py::test_the_document_has_the_command",
        "tests/e2e/test_imported.py::test_the_front_imports_no_torch_for_them",
        "tests/e2e/test_on_ray.py",
        "tests/e2e/test_page_samples.py",
        "tests/e2e/test_recipes.py::test_every_baseline_can_be_compared",
        "tests/e2e/test_tracing.py::test_without_the_extra_it_says_what_to_install",
    ],
    "asks a server that misbehaves, as no service does": [
        f"tests/client/test_retries.py::{name}"
        for name in (
            "test_a_dripping_server_is_abandoned_at_the_deadline",
            "test_a_refused_connection",
            "test_a_service_that_starts_later",
            "test_a_service_under_a_path",
            "test_a_silent_server_is_abandoned_at_the_deadline",
            "test_an_interrupted_stream_is_not_started_again",
            "test_errors_can_be_pickled",
            "test_it_gives_up_after_the_last_attempt",
            "test_lasting_failures_are_not_retried",
            "test_malformed_events",
            "test_no_wait_goes_beyond_the_deadline",
            "test_waits_grow_within_bounds_and_respect_the_deadline",
        )
    ],
    "is about the command line of the plain service": [
        "tests/e2e/test_own_code.py",
        "tests/e2e/test_start.py",
    ],
    "starts a service that refuses to start; tests/ray/test_replica.py has those of Ray": [
        "tests/e2e/test_family.py::test_a_family_that_cannot_be_served_is_refused_in_one_line",
        "tests/e2e/test_imported.py::test_a_service_that_does_not_allow_the_python_does_not_start",
        "tests/e2e/test_keys.py::test_it_does_not_start_with_unreadable_keys",
        "tests/e2e/test_keys.py::test_without_keys_other_machines_are_not_served",
        "tests/e2e/test_memory.py::test_with_too_few_files_the_service_does_not_start",
        "tests/e2e/test_prefix.py::test_invalid_prefixes",
        "tests/e2e/test_provider.py::test_a_service_that_cannot_run_what_is_pinned_says_so",
    ],
    "Ray's own processes listen, and choose the address": [
        "tests/e2e/test_address.py",
        "tests/e2e/test_operations.py::test_a_port_in_use_is_reported_in_one_line",
    ],
    "Ray sends no requests to a replica that is not ready": [
        "tests/e2e/test_v2_repository.py::test_until_it_is_ready_it_says_so_in_the_protocols_own_form",
    ],
    "has several fronts, of which a replica has one": ["tests/e2e/test_fronts.py"],
    "is about the memory of the plain front; HAProxy holds part of it on Ray": [
        "tests/e2e/hostile/test_fuzz.py::test_no_failure_no_crash_no_leak",
        *(
            f"tests/e2e/test_memory.py::{name}"
            for name in (
                "test_compressed_bodies_count_by_their_decompressed_size",
                "test_connections_together_hold_no_more_than_they_may",
                "test_files_are_freed_once_they_are_decoded",
                "test_pictures_of_a_few_bytes_are_not_decoded_in_the_front",
                "test_the_static_file_arrives_whole_if_it_is_read",
            )
        ),
    ],
    "kills or looks at processes of the plain service, or starts an engine without one": [
        "tests/e2e/test_hanging.py",
        "tests/e2e/test_kinds.py",
        "tests/e2e/test_operations.py::test_processes_name_themselves",
        "tests/e2e/test_operations.py::test_workers_have_lower_priority_than_the_front",
        "tests/e2e/test_page.py::test_looks_are_void_when_their_worker_is_lost",
        "tests/e2e/test_restart.py::test_a_stream_over_two_runs[lose_worker]",
        "tests/e2e/test_restart.py::test_the_asyncio_client_reports_it",
        "tests/e2e/test_restart.py::test_the_client_reports_it",
        "tests/e2e/test_self_check.py::test_a_device_that_stays_wrong_is_given_up",
        "tests/e2e/test_self_check.py::test_a_worker_that_goes_wrong_is_replaced",
        "tests/e2e/test_stopped.py",
        "tests/e2e/test_surroundings.py",
        "tests/e2e/test_survival.py",
        "tests/e2e/test_visibility.py::test_a_stop_is_logged_step_by_step",
    ],
    "HAProxy waits for small bodies by its own clock; tests/ray/test_faults.py has that": [
        "tests/e2e/test_bad_input.py::test_an_endless_upload_is_given_up",
    ],
    "HAProxy speaks HTTP/2, too": [
        "tests/e2e/hostile/test_sockets.py::test_malformed_requests[http/2 preface]",
    ],
    "requests may come through HAProxy one by one, more slowly than passes of this network end": [
        "tests/e2e/test_predict.py::test_pictures_share_passes",
    ],
}

OF_REPLICA = re.compile(r"^\(ServeReplica:\S+ pid=\d+\) ")
# So that a replica that ends in a test does so soon.
REACHABLE_SECONDS = 3


def is_exempt(test: str) -> bool:
    """Say whether a test, by its name, does not run on Ray."""
    named = [one for tests in EXEMPT.values() for one in tests]
    return any(test == one or test.startswith((f"{one}::", f"{one}[")) for one in named)


def runs_on_ray(item: pytest.Item) -> bool:
    """Say whether a test asks a service that is started for it, and is not exempt; or is Ray's."""
    asks = "start" in getattr(item, "fixturenames", ())
    return item.nodeid.startswith("tests/ray/") or (asks and not is_exempt(item.nodeid))


def free_ports(count: int) -> list[int]:
    """Return ports that nothing uses now, below those that systems give to connections.

    Ray binds some only after it has opened many connections.
    """
    held: list[socket.socket] = []
    while len(held) < count:
        with suppress(OSError):
            port = 20_000 + secrets.randbelow(10_000)
            held.append(socket.create_server(("127.0.0.1", port)))
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
        # The plain service finds an operator's own modules in its current folder.
        "PYTHONPATH": str(ROOT),
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
            # Where tests run in the background, SIGINT is ignored, and Ray would not end by it.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        self.lines: list[str] = []
        self.address = f"http://127.0.0.1:{port}"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        # Ray puts before each line of a replica which one it is from.
        self.lines.extend(OF_REPLICA.sub("", line) for line in self.process.stdout)

    def wait_ready(self) -> "OnRay":
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            try:
                answer = httpx.get(f"{self.address}/health/ready")
                # Until HAProxy knows the replica, Ray's proxy in Python answers, and names itself.
                if answer.status_code == 200 and "Server" not in answer.headers:
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

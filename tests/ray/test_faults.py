"""Clients lose nothing while replicas die and change: the short form of ``make chaos-ray``."""

import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from tests.e2e.conftest import copy_bundle
from tests.ray import faults
from tests.ray.conftest import Watched


def test_a_killed_replica_takes_no_request_with_it(on_ray: Watched, seven: bytes) -> None:
    counts = faults.kill_replica(on_ray, seven)
    assert counts["lost"] == []
    assert counts["requests"] >= 40


def test_what_a_killed_replica_had_is_answered_or_may_be_asked_again(
    on_ray: Watched, seven: bytes
) -> None:
    port = urlsplit(on_ray.address).port
    assert port
    large = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(large, "PNG")
    # HAProxy can send it no second time.
    assert len(large.getvalue()) > 3 * 16384
    pictures = [large.getvalue()] * 4 + [seven] * 4
    answers = faults.answers_over_kill(on_ray, [port] * 8, pictures, killed=1)
    assert answers[4:] == [(200, None)] * 4
    # HAProxy closes the connection if it had asked over one that it had kept.
    assert set(answers[:4]) <= {(200, None), (502, "1"), (0, None)}
    assert set(answers[:4]) != {(200, None)}


def test_what_rays_proxy_in_python_loses_may_be_asked_again(on_ray: Watched, seven: bytes) -> None:
    port = int(on_ray.variables["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"])
    answers = faults.answers_over_kill(on_ray, [port] * 4, [seven] * 4, killed=2)
    assert (503, "1") in answers
    assert set(answers) <= {(200, None), (503, "1")}


def test_requests_that_come_too_slowly_are_given_up(on_ray: Watched) -> None:
    where = urlsplit(on_ray.address)

    def answered(rest: str) -> str:
        with socket.create_connection((where.hostname, where.port), timeout=300) as connection:
            connection.sendall(f"POST /predict HTTP/1.1\r\n{rest}".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    with ThreadPoolExecutor() as pool:
        of_head, of_body = pool.map(
            answered, ("Host: ", "Host: a\r\nContent-Length: 5000\r\n\r\nsome")
        )
    # What HAProxy says of a head cannot be changed.
    assert of_head.startswith("HTTP/1.1 408 ")
    head, _, body = of_body.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 408 ")
    assert "content-type: application/problem+json" in head.lower()
    assert json.loads(body)["type"] == "/problems/too-slow"


def test_a_new_version_takes_over(on_ray: Watched, seven: bytes, tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path / "bundle", version="2")
    counts = faults.roll_out(on_ray, seven, bundle, "2")
    assert counts["lost"] == []
    assert set(counts["versions"]) == {"1", "2"}

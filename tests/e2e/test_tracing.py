"""Traces of a real service, received on a collector's socket and decoded as OTLP."""

import gzip
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from service.http.guards.keys import add
from tests.e2e.conftest import PLAIN, ROOT, Start

pytest.importorskip("opentelemetry.sdk", reason="the extra pixeldp[tracing] is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

pytestmark = pytest.mark.slow

PNG = {"Content-Type": "image/png"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Receives OTLP over HTTP, as protobuf."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    content = gzip.decompress(content)
                assert self.path == "/v1/traces"
                for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
                    for attribute in resource.resource.attributes:
                        if attribute.key == "service.name":
                            collector.services.add(attribute.value.string_value)
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def attributes(span: Span) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_request_and_its_pictures_are_traced(
    start: Start, collector: Collector, seven: bytes
) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **PLAIN,
    }
    running = start(environment=environment)
    try:
        headers = PNG | {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        url = f"{running.address}/predict?max_draws=1000"
        response = httpx.post(url, content=seven, headers=headers, timeout=300)
        files = [("image", ("a.png", content, "image/png")) for content in (seven, b"none", seven)]
        httpx.post(f"{running.address}/predict/batch", files=files, timeout=300)
        unsampled = PNG | {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        httpx.post(url, content=seven, headers=unsampled, timeout=300)
    finally:
        assert running.stop() == 0, running.log
    assert collector.services == {"pixeldp"}

    spans = collector.spans
    [root] = [span for span in spans if span.parent_span_id.hex() == PARENT]
    assert root.name == "POST /predict"
    assert root.kind == Span.SPAN_KIND_SERVER
    told = attributes(root)
    assert told["http.response.status_code"] == 200
    assert told["http.route"] == "/predict"
    assert response.headers["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"

    mine = [span for span in spans if span.trace_id.hex() == TRACE]
    [prediction] = [span for span in mine if span.parent_span_id == root.span_id]
    answer = response.json()
    assert prediction.name == "prediction"
    assert attributes(prediction)["draws"] == answer["draws"]
    assert attributes(prediction)["certified_size"] == answer["certified_size"]
    decode, queue, *looks = (s for s in mine if s.parent_span_id == prediction.span_id)
    assert (decode.name, queue.name) == ("decode", "queue")
    assert {span.name for span in looks} == {"look"}
    drawn = [attributes(span)["draws"] for span in looks]
    assert drawn == sorted(drawn)
    assert drawn[-1] == answer["draws"]
    assert [attributes(span)["look"] for span in looks] == list(range(1, len(looks) + 1))
    stages = [decode, queue, *looks]
    for former, later in pairwise(stages):
        assert former.end_time_unix_nano == later.start_time_unix_nano
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in mine)
    slack = 1_000_000  # two clocks are combined, ns
    assert root.start_time_unix_nano - slack <= decode.start_time_unix_nano
    assert looks[-1].end_time_unix_nano <= root.end_time_unix_nano + slack

    # A batch is one request of several pictures; the broken one has no prediction.
    [batch] = [span for span in spans if span.name == "POST /predict/batch"]
    within = [span for span in spans if span.parent_span_id == batch.span_id]
    assert [span.name for span in within] == ["prediction"] * 2
    # What the caller does not sample is not exported, and neither are the probes of wait_ready.
    assert len([span for span in spans if span.kind == Span.SPAN_KIND_SERVER]) == 2


def test_spans_name_the_key_that_asked(
    start: Start, collector: Collector, seven: bytes, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    secret = add(keys, "alice", ["predict"], None)
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PIXELDP_KEYS": str(keys),
        **PLAIN,
    }
    running = start(environment=environment)
    try:
        for key in (secret, f"{secret[:-1]}x"):
            headers = PNG | {"X-API-Key": key}
            httpx.post(f"{running.address}/predict", content=seven, headers=headers, timeout=300)
    finally:
        assert running.stop() == 0, running.log
    asked = [attributes(span) for span in collector.spans if span.name == "POST /predict"]
    told = {span["http.response.status_code"]: span.get("pixeldp.key") for span in asked}
    assert told == {200: "alice", 401: None}
    assert secret not in str(collector.spans)


def test_an_unreachable_collector_disturbs_nothing(start: Start, seven: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",  # longer than Service.stop() waits
            **PLAIN,
        }
        running = start(environment=environment)
        try:
            response = httpx.post(f"{running.address}/predict", content=seven, headers=PNG)
            assert response.status_code == 200
        finally:
            assert running.stop() == 0, running.log


def test_without_the_extra_it_says_what_to_install() -> None:
    script = """
        import sys
        class Hidden:
            def find_spec(self, name, *_):
                if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
                    raise ImportError(name)
        sys.meta_path.insert(0, Hidden())
        from service.http import tracing
        assert tracing.start("1") is None
    """
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'pixeldp[tracing]'" in done.stdout

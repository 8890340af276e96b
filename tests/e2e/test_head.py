"""HEAD is answered as GET is, without the body."""

import http.client
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import Service

PATHS = [
    "/",
    "/page/main.js",
    "/docs",
    "/openapi.json",
    "/swagger/swagger-ui.css",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/models",
    "/models/mnist-cnn",
    "/models/nothing",
    "/problems/not-found",
    "/nothing",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/mnist-cnn",
    "/v2/models/mnist-cnn/versions/1/ready",
    "/v2/nothing",
]
# Headers that differ from moment to moment or from request to request.
OWN = {"date", "x-request-id", "traceparent", "content-length"}


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(client: httpx.Client, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    kept = [{k: v for k, v in one.headers.items() if k not in OWN} for one in (head, get)]
    assert kept[0] == kept[1]
    if path != "/metrics":
        assert head.headers["Content-Length"] == get.headers["Content-Length"]


def test_a_connection_goes_on_after_head(service: Service) -> None:
    address = urlsplit(service.address)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=300)
    for _ in range(2):
        for method in ("HEAD", "GET"):
            connection.request(method, "/models")
            response = connection.getresponse()
            assert response.status == 200
            assert bool(response.read()) == (method == "GET")
    connection.close()


def test_methods_that_a_route_does_not_have(client: httpx.Client) -> None:
    for path, allowed in (("/predict", {"POST"}), ("/models", {"GET", "HEAD"})):
        for method in {"HEAD", "GET", "DELETE"} - allowed:
            response = client.request(method, path)
            assert response.status_code == 405
            assert set(response.headers["Allow"].split(", ")) == allowed


def test_head_is_counted_by_its_route(client: httpx.Client) -> None:
    def counted() -> float:
        lines = [line for line in client.get("/metrics").text.splitlines() if "/models/" in line]
        lines = [line for line in lines if line.startswith("pixeldp_requests_total")]
        return sum(float(line.split()[-1]) for line in lines if 'route="/models/{name}"' in line)

    before = counted()
    client.head("/models/mnist-cnn")
    assert counted() == before + 1

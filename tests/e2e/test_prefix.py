"""A service under a path of its proxy, which may or may not strip the path."""

import re
from collections.abc import Iterator
from urllib.parse import urljoin

import httpx
import pytest

from tests.e2e.conftest import PLAIN, Service, Start

ROOT_PATH = "/tools/pixeldp"
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def below(start: Start) -> Iterator[httpx.Client]:
    environment = {**PLAIN, "PIXELDP_ROOT_PATH": f"{ROOT_PATH}/"}
    running = start(environment=environment)
    with httpx.Client(base_url=running.address, timeout=300) as client:
        yield client
    assert running.stop() == 0


@pytest.mark.parametrize("prefix", ["", ROOT_PATH])
def test_everything_is_answered_under_the_prefix(
    below: httpx.Client, seven: bytes, prefix: str
) -> None:
    for path in ("/", "/docs", "/models", "/health/ready", "/v2/health/ready", "/page/main.js"):
        assert below.get(prefix + path).status_code == 200
        assert below.head(prefix + path).status_code == 200
    answer = below.post(f"{prefix}/predict?target=0.5", content=seven, headers=PNG)
    assert answer.json()["label"]["name"] == "7"


def test_problems_lead_to_their_pages(below: httpx.Client) -> None:
    for path in ("/nothing", "/predict/batch", "/models/none"):
        address = str(below.base_url.join(ROOT_PATH + path))
        kind = below.get(address).json()["type"]
        assert kind.startswith(f"{ROOT_PATH}/problems/")
        page = below.get(urljoin(address, kind))
        assert page.status_code == 200
        assert kind in page.text


def test_the_documentation_finds_its_files(below: httpx.Client) -> None:
    address = str(below.base_url.join(f"{ROOT_PATH}/docs"))
    page = below.get(address).text
    links = re.findall(r"""(?:href|src|url)[=:] ?["']([^"']+)["']""", page)
    assert len(links) == 4
    for link in links:
        found = urljoin(address, link)
        assert ROOT_PATH in found
        assert below.get(found).status_code == 200
    document = below.get(f"{ROOT_PATH}/openapi.json").json()
    assert document["servers"][0]["url"] == ROOT_PATH


def test_the_page_finds_its_files(below: httpx.Client) -> None:
    bare = below.get(ROOT_PATH)
    assert (bare.status_code, bare.headers["Location"]) == (308, f"{ROOT_PATH}/")
    address = str(below.base_url.join(f"{ROOT_PATH}/"))
    page = below.get(address).text
    links = re.findall(r'(?:href|src)="([^"#:]+)"', page)
    assert "page/main.js" in links
    for link in links:
        assert below.get(urljoin(address, link)).status_code == 200, link


def test_a_proxy_may_say_what_it_stripped(client: httpx.Client) -> None:
    headers = {"X-Forwarded-Prefix": f"{ROOT_PATH}/"}
    assert (
        client.get("/nothing", headers=headers).json()["type"] == f"{ROOT_PATH}/problems/not-found"
    )
    document = client.get("/openapi.json", headers=headers).json()
    assert [server["url"] for server in document["servers"]] == [ROOT_PATH]
    # The next request is without a prefix again.
    assert client.get("/nothing").json()["type"] == "/problems/not-found"
    assert client.get("/openapi.json").json()["servers"][0]["url"] == "/"


@pytest.mark.parametrize(
    "value",
    ["pixeldp", "//evil.example", "/a b", "https://evil.example/", "/" + 300 * "a", "/a, /b"],
)
def test_only_plain_paths_are_accepted(client: httpx.Client, value: str) -> None:
    headers = {"X-Forwarded-Prefix": value}
    assert client.get("/nothing", headers=headers).json()["type"] == "/problems/not-found"


def test_the_setting_wins(below: httpx.Client) -> None:
    response = below.get("/nothing", headers={"X-Forwarded-Prefix": "/other"})
    assert response.json()["type"] == f"{ROOT_PATH}/problems/not-found"


def test_paths_that_only_begin_alike_are_different(below: httpx.Client) -> None:
    assert below.get(f"{ROOT_PATH}x/models").status_code == 404
    assert below.get(f"{ROOT_PATH}{ROOT_PATH}/models").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "pixeldp",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in ("/a//b", "/a b", "/a?b", "//", "/ä")
        ),
    ],
)
def test_invalid_prefixes(path: str) -> None:
    environment = {"PIXELDP_ROOT_PATH": path}
    with pytest.raises(AssertionError, match="PIXELDP_ROOT_PATH"):
        Service(environment=environment)

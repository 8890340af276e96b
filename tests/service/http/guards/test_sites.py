"""What pages of other sites can make a browser do if the service asks for no key."""

from types import SimpleNamespace

import pytest
from fastapi import Request
from pydantic import ValidationError

from service.http.guards.sites import is_ours, refuse_other_sites
from service.http.problems import Problem
from service.settings import Settings

FOREIGN = "http://evil.example"


def allowed(headers: dict[str, str], method: str = "POST", invited: tuple[str, ...] = ()) -> bool:
    """Whether a request to 127.0.0.1:8000 is accepted; in test_auth.py, every route asks this."""
    state = SimpleNamespace(cors_origins=invited, hosts=["pictures.example"])
    every = {"Host": "127.0.0.1:8000"} | headers
    scope = {
        "type": "http",
        "method": method,
        "headers": [(name.lower().encode(), value.encode()) for name, value in every.items()],
        "app": SimpleNamespace(state=state),
    }
    try:
        refuse_other_sites(Request(scope))
    except Problem as problem:
        return problem.name != "not-allowed"
    return True


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": FOREIGN},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8001"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://localhost:8000"},
        {"Origin": "", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": FOREIGN, "Sec-Fetch-Site": "cross-site"},
        # A name that was made to resolve here: to the browser, the page is the service's own.
        {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"},
        {"Host": "evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Host": "evil.example."},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "evil.example:8000:8000"},
    ],
)
def test_other_sites_are_refused(headers: dict[str, str]) -> None:
    assert not allowed(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:8000"},
        {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Host": "localhost:8000", "Origin": "http://localhost:8000"},
        {"Host": "[::1]:8000", "Origin": "http://[::1]:8000"},
        {"Host": "pixeldp"},
        {"Host": "pictures.example", "Origin": "https://pictures.example"},
    ],
)
def test_the_services_own_page_and_programs_are_accepted(headers: dict[str, str]) -> None:
    assert allowed(headers)


def test_a_name_that_was_made_to_resolve_here_reads_nothing() -> None:
    assert not allowed({"Host": "evil.example"}, "GET")
    assert allowed({"Origin": FOREIGN}, "GET"), "browsers hide the answer from it"


def test_sites_that_the_operator_allows() -> None:
    headers = {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"}
    assert allowed(headers, invited=("https://shop.example",))
    assert not allowed(headers | {"Origin": FOREIGN}, invited=("https://shop.example",))
    for origin in ("https://shop.example", FOREIGN, "null"):
        assert allowed(headers | {"Origin": origin}, invited=("*",))


@pytest.mark.parametrize(
    "site", ["shop.example", "https://shop.example/", "https://SHOP.example", "ftp://a", "", "null"]
)
def test_invalid_origins_are_refused_at_the_start(site: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=[site])


@pytest.mark.parametrize("host", ["", ":80", "a.b", "[::1", "a:b", "1.2.3", "a.localhost.b"])
def test_names_that_strangers_may_own(host: str) -> None:
    assert not is_ours(host, ["c.d"])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]:80", "a", "a:80", "x.localhost", "C.d:1"])
def test_names_that_strangers_cannot_own(host: str) -> None:
    assert is_ours(host, ["c.d"])

"""The short form of the attacks: codes, counts and bytes. ``make chaos`` measures times, too."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from service.http.guards.keys import add
from tests.chaos import deadlines, endings, hoards, shares
from tests.chaos.hoards import Group
from tests.chaos.processes import memory
from tests.e2e.conftest import PLAIN, Service

TWO = {**PLAIN, "PIXELDP_DEVICES": "cpu,cpu"}
CONNECTIONS = 300


@pytest.fixture(scope="module")
def held(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Service, Group | None, str]]:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    key = add(keys, "client", ["predict"], None)
    with hoards.limited(hoards.LIMIT, {**PLAIN, "PIXELDP_KEYS": str(keys)}) as (service, group):
        yield service, group, key


@pytest.mark.parametrize("name", hoards.hoards())
def test_what_connections_hold_fits_into_the_limit(
    held: tuple[Service, Group | None, str], name: str
) -> None:
    service, group, key = held
    connections = hoards.most_connections(CONNECTIONS)
    request = hoards.with_key(hoards.hoards()[name], key)
    counts = hoards.hoard(service, group, request, connections, seconds=3.0)
    assert not counts["killed for want of memory"], counts
    assert counts["all processes (MiB)"] <= hoards.LIMIT / hoards.MIB, counts
    assert set(counts["probes by status"]) <= {200, 503}, counts
    assert hoards.answers_again(service, key) == 200


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[shares.Keyed]:
    one = shares.Keyed(tmp_path_factory.mktemp("keys"), TWO)
    yield one
    assert one.service.stop() == 0, one.service.log


@pytest.mark.parametrize("name", shares.NAMES)
def test_an_attack_by_a_key_at_its_limit_costs_another_no_answer(
    keyed: shares.Keyed, seven: bytes, name: str
) -> None:
    counts = shares.attack(keyed, name, [seven], seconds=2.0, turns=1)
    assert counts["requests under attack"] > 0
    assert counts["lost"] == 0, counts
    assert set(counts["the attacker's statuses"]) <= {"200", "400", "429", "503", "504"}, counts


@pytest.fixture(scope="module")
def two() -> Iterator[Service]:
    service = Service(environment=TWO).wait_ready()
    yield service
    service.stop()


@pytest.mark.parametrize("name", deadlines.CASES)
def test_whatever_is_stopped_every_request_is_answered(two: Service, name: str) -> None:
    counts = deadlines.stop(two, name, seconds=3.0)
    assert counts["broken off"] == {}, counts
    assert set(counts["statuses"]) <= {200, 503, 504}, counts


@pytest.mark.parametrize("name", endings.CASES)
def test_whatever_hangs_the_service_ends(name: str) -> None:
    counts = endings.end(name, timeout_ms=2000, environment={**endings.DEPLOYED, **TWO})
    assert counts["exit code"] == 0, counts
    assert counts["processes left"] == [], counts


def test_exceeding_the_memory_limit_is_noticed() -> None:
    """Without a control group, too: otherwise a test without one could not fail."""
    code = "x = bytearray(b'x') * 2**28; print(flush=True); input()"
    group = hoards.make_group(64 * hoards.MIB)
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=group.join if group else None,
    )
    try:
        assert child.stdout is not None
        came = child.stdout.readline()
        if group:
            assert (came, group.kills()) == (b"", 1)
        else:
            assert memory(child.pid) >= 2**28
    finally:
        child.kill()
        child.communicate()
        if group:
            group.remove()

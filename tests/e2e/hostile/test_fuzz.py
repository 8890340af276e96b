"""Damaged requests by the thousand: no failure, no crash, no leak.

`make fuzz` sends 100,000; PIXELDP_FUZZ says how many, PIXELDP_FUZZ_SEED repeats a run.
"""

import collections
import os
import secrets
import threading
from dataclasses import dataclass, field

import httpx
import pytest

from tests.e2e.hostile.conftest import Watched
from tests.e2e.hostile.fuzzer import Call, Fuzzer

pytestmark = pytest.mark.slow

CALLS = int(os.environ.get("PIXELDP_FUZZ", "600"))
SEED = os.environ.get("PIXELDP_FUZZ_SEED") or secrets.token_hex(4)
CLIENTS = 2
# Every documented status: those below 500 and two above; 501 occurs only in the Open Inference
# Protocol, for extensions that are not served.
DOCUMENTED = {200, 206, 304, 307, 400, 404, 405, 406, 413, 415, 416, 422, 503, 504}
# Routes whose errors are problem documents; those of files and of the Open Inference Protocol
# differ.
API = ("/predict", "/models", "/metrics", "/health", "/problems", "/docs")
# What allocators keep of the largest pictures, in total.
SLACK_BYTES = 48 << 20


@dataclass
class Tally:
    """What came back."""

    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)

    def take(self, number: str, call: Call, response: httpx.Response) -> None:
        status = response.status_code
        self.statuses[status] += 1
        documented = status in DOCUMENTED or (status == 501 and call.path.startswith("/v2"))
        if not documented:
            self.wrong.append(f"{number}: {status} {call.method} {call.path} {response.text[:200]}")
        elif status >= 400 and call.method != "HEAD" and call.path.startswith(API):
            kind = response.headers["content-type"]
            if kind != "application/problem+json" and status != 406:
                self.wrong.append(f"{number}: {status} as {kind} {call.method} {call.path}")


def send(watched: Watched, client: int, start: int, calls: int, tally: Tally) -> None:
    fuzzer = Fuzzer(f"{SEED}-{client}-{start}")
    with httpx.Client(base_url=watched.address, timeout=300) as session:
        for number in range(calls):
            call = fuzzer.call()
            name = f"{client}-{start}-{number}"
            try:
                request = session.build_request(
                    call.method,
                    call.path,
                    content=call.content,
                    headers=call.headers,
                    params=call.query or None,
                )
            except (httpx.InvalidURL, UnicodeEncodeError):
                continue  # the client itself refuses to send it
            try:
                tally.take(name, call, session.send(request))
            except httpx.LocalProtocolError:
                continue
            except httpx.HTTPError as error:
                tally.wrong.append(f"{name}: {error!r} {call.method} {call.path}")


def flood(watched: Watched, start: int, calls: int) -> Tally:
    tally = Tally()
    threads = [
        threading.Thread(target=send, args=(watched, client, start, calls // CLIENTS, tally))
        for client in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def test_no_failure_no_crash_no_leak(watched: Watched) -> None:
    print(f"PIXELDP_FUZZ={CALLS} PIXELDP_FUZZ_SEED={SEED}")
    first = flood(watched, 0, CALLS // 2)
    between = watched.resident()
    second = flood(watched, 1, CALLS // 2)
    growth = watched.resident() - between
    statuses = first.statuses + second.statuses
    print(f"statuses {dict(sorted(statuses.items()))}, growth {growth / 2**20:.1f} MiB")
    wrong = first.wrong + second.wrong
    assert not wrong, f"seed {SEED}: {len(wrong)} wrong, the first: {wrong[:5]}"
    assert statuses.total() > 0.9 * CALLS
    # Requests do reach the engine, and refusals are of several kinds.
    assert statuses[200] > 0.02 * CALLS
    assert statuses[400] > 0.1 * CALLS
    assert statuses[422] > 0
    assert growth < SLACK_BYTES, f"seed {SEED}: {growth / 2**20:.1f} MiB more"


def test_the_same_seed_makes_the_same_requests() -> None:
    one, other, third = Fuzzer("a"), Fuzzer("a"), Fuzzer("b")
    calls = [one.call() for _ in range(50)]
    assert repr(calls) == repr([other.call() for _ in range(50)])  # NaN is not equal to itself
    assert repr(calls) != repr([third.call() for _ in range(50)])


def test_undocumented_failures_would_be_noticed() -> None:
    tally = Tally()
    for status in (500, 501, 502):
        response = httpx.Response(status, text="broken")
        tally.take("0", Call("POST", "/predict", b"", {}), response)
    tally.take("0", Call("POST", "/v2/models/a/infer", b"", {}), httpx.Response(501))
    assert len(tally.wrong) == 3

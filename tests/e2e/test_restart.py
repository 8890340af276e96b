"""A stream whose worker is lost, or runs out of memory, says that it begins again.

The network holds its passes until that has happened, however fast the machine is.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import pixeldp_client
from models.verification import verify
from tests.chaos.processes import workers
from tests.e2e.conftest import Service
from tests.e2e.own_network import OwnNetwork, picture, restarts

pytestmark = pytest.mark.slow

DARK = 51
DRAWS = 4000


@pytest.fixture
def dark(own: OwnNetwork, alone: Service, tmp_path: Path) -> bytes:
    """A picture that is held after its first looks."""
    alone.wait_ready()
    own.say("hold")
    return picture(tmp_path, DARK)


def lose_worker(own: OwnNetwork, service: Service) -> None:
    [worker] = workers(service.process.pid)
    os.kill(worker, signal.SIGKILL)
    own.unsay("hold")


def run_out_of_memory(own: OwnNetwork, service: Service) -> None:
    own.say("full")
    own.unsay("hold")


def events(
    service: Service, content: bytes, after_first: Callable[[], None]
) -> Iterator[tuple[str, Any]]:
    """Send a stream request, and yield its events."""
    query = f"confidence=0.999&max_draws={DRAWS}&evidence=true&timeout_ms=600000"
    url = f"{service.address}/predict/stream?{query}"
    with httpx.stream("POST", url, content=content, timeout=600) as response:
        assert response.status_code == 200
        name, first = "", True
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                if first:
                    after_first()
                    first = False
                yield name, json.loads(value)


@pytest.mark.parametrize("trouble", [lose_worker, run_out_of_memory])
def test_a_stream_over_two_runs(
    own: OwnNetwork,
    alone: Service,
    dark: bytes,
    trouble: Callable[[OwnNetwork, Service], None],
) -> None:
    before = restarts(alone)
    told = list(events(alone, dark, lambda: trouble(own, alone)))
    names = [name for name, _ in told]
    begun = names.index("restart")
    assert names == ["look"] * begun + ["restart"] + ["look"] * (len(names) - begun - 2) + [
        "answer"
    ]
    assert begun >= 1
    assert "void" in told[begun][1]["detail"]
    after = [data["draws"] for name, data in told[begun:] if name == "look"]
    assert after == sorted(after)
    assert after[0] < DRAWS
    answer = told[-1][1]
    assert answer["evidence"]["restarts"] == 1
    assert answer["draws"] == DRAWS
    assert answer["certified_size"] > 0
    assert verify(answer) == []
    # Running out of memory costs no worker.
    assert restarts(alone) == before + (trouble is lose_worker)


def check(told: list[Any]) -> None:
    """Check what a client received: looks, that they are void, further looks, the prediction."""
    kinds = [type(step) for step in told]
    begun = kinds.index(pixeldp_client.Restart)
    assert begun >= 1
    assert set(kinds[:begun]) == {pixeldp_client.Look}
    assert set(kinds[begun + 1 : -1]) <= {pixeldp_client.Look}
    assert kinds[-1] is pixeldp_client.Prediction
    assert "void" in told[begun].detail


def test_the_client_reports_it(own: OwnNetwork, alone: Service, dark: bytes) -> None:
    told: list[Any] = []
    with pixeldp_client.Client(alone.address) as client:
        for step in client.stream(dark, confidence=0.999, max_draws=DRAWS, timeout=600):
            if not told:
                lose_worker(own, alone)
            told.append(step)
    check(told)


def test_the_asyncio_client_reports_it(own: OwnNetwork, alone: Service, dark: bytes) -> None:
    told: list[Any] = []

    async def listen() -> None:
        async with pixeldp_client.AsyncClient(alone.address) as client:
            stream = client.stream(dark, confidence=0.999, max_draws=DRAWS, timeout=600)
            async for step in stream:
                if not told:
                    lose_worker(own, alone)
                told.append(step)

    asyncio.run(listen())
    check(told)

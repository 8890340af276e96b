"""A stream whose worker is lost says that it begins anew."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import pixeldp_client
from models.verification import verify
from tests.chaos.processes import title, workers
from tests.e2e.conftest import Service

PNG = {"Content-Type": "image/png"}
# So many that the worker is lost long before they are made.
DRAWS = 30_000


@pytest.fixture
def alone() -> Iterator[Service]:
    running = Service("--devices", "cpu", "--no-compile").wait_ready()
    try:
        yield running
    finally:
        assert running.stop() == 0


def lose_worker(service: Service) -> None:
    [worker] = [pid for pid in workers(service.process.pid) if "worker" in title(pid)]
    os.kill(worker, signal.SIGKILL)


def events(service: Service, seven: bytes) -> Iterator[tuple[str, Any]]:
    """Ask in a stream, and yield its events; the worker is lost after the first look."""
    query = f"confidence=0.999&max_draws={DRAWS}&evidence=true&timeout_ms=600000"
    with httpx.stream(
        "POST",
        f"{service.address}/predict/stream?{query}",
        content=seven,
        headers=PNG,
        timeout=600,
    ) as response:
        assert response.status_code == 200
        name, lost = "", False
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                if not lost:
                    lose_worker(service)
                    lost = True
                yield name, json.loads(value)


def test_a_stream_over_two_runs(alone: Service, seven: bytes) -> None:
    told = list(events(alone, seven))
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
    assert answer["certified_size"] > 0
    assert verify(answer) == []


def test_the_client_tells_of_it(alone: Service, seven: bytes) -> None:
    lost, told = False, []
    with pixeldp_client.Client(alone.address) as client:
        for step in client.stream(seven, confidence=0.999, max_draws=DRAWS, timeout=600):
            if not lost:
                lose_worker(alone)
                lost = True
            told.append(step)
    [restart] = [step for step in told if isinstance(step, pixeldp_client.Restart)]
    assert "void" in restart.detail
    assert isinstance(told[-1], pixeldp_client.Prediction)

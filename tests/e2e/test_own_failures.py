"""An operator's own network raises at some pictures: over HTTP, in shared passes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.verification import verify
from tests.e2e.conftest import Service
from tests.e2e.own_network import OwnNetwork, in_flight, picture, restarts, wait_for

pytestmark = pytest.mark.slow

DARK, WHITE = 51, 255
NEIGHBOURS = 6
OPTIONS = {"max_draws": 4000, "evidence": "true", "timeout_ms": 600_000}


async def together(own: OwnNetwork, alone: Service, folder: Path) -> list[httpx.Response]:
    """Send neighbours and, while draws are made for them, a picture that is too bright."""
    async with httpx.AsyncClient(base_url=alone.address, timeout=600) as client:

        def ask(content: bytes) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post("/predict", content=content, params=OPTIONS))

        own.say("hold")
        own.say("fail")
        asked = [ask(picture(folder, DARK)) for _ in range(NEIGHBOURS)]
        await asyncio.to_thread(own.wait_held)
        asked.append(ask(picture(folder, WHITE)))
        await asyncio.to_thread(wait_for, lambda: in_flight(alone) == len(asked))
        own.unsay("hold")
        return list(await asyncio.gather(*asked))


def test_its_neighbours_are_answered_and_its_worker_lives(
    own: OwnNetwork, alone: Service, tmp_path: Path
) -> None:
    before = restarts(alone)
    *neighbours, culprit = asyncio.run(together(own, alone, tmp_path))
    assert max(own.neighbours) > 0, "no pass was shared"
    for response in neighbours:
        assert response.status_code == 200
        answer = response.json()
        assert answer["label"]["index"] == 0
        assert answer["draws"] == OPTIONS["max_draws"]
        assert answer["evidence"]["restarts"] == 0
        assert verify(answer) == []
    assert culprit.status_code == 500
    assert culprit.json()["type"] == "/problems/model-failed"
    assert "ArithmeticError: too bright" in culprit.json()["detail"]
    # The same worker answers the same picture once nothing is wrong any more.
    own.unsay("fail")
    again = httpx.post(f"{alone.address}/predict", content=picture(tmp_path, WHITE), timeout=600)
    assert again.json()["label"]["index"] == 1
    assert restarts(alone) == before


def test_after_a_look_the_answer_is_that_looks(
    own: OwnNetwork, alone: Service, tmp_path: Path
) -> None:
    before = restarts(alone)
    own.say("hold")
    url = f"{alone.address}/predict/stream"
    with httpx.stream(
        "POST", url, content=picture(tmp_path, WHITE), params=OPTIONS, timeout=600
    ) as response:
        assert response.status_code == 200
        told: list[tuple[str, Any]] = []
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                told.append((value, None))
            elif field == "data":
                told[-1] = (told[-1][0], json.loads(value))
                own.say("fail")
                own.unsay("hold")
    assert {name for name, _ in told[:-1]} == {"look"}
    name, answer = told[-1]
    assert name == "answer"
    assert answer["draws"] < OPTIONS["max_draws"]
    assert answer["stopped"] == "deadline"
    assert answer["certified_size"] == max(look["certified_size"] for _, look in told[:-1]) > 0
    assert verify(answer) == []
    assert restarts(alone) == before

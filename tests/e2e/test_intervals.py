"""A model with intervals is served like any other, and its answers are certain."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.data.datasets import load
from models.training.loop import train
from models.training.recipe import find_recipe
from models.verification import verify
from tests.e2e.conftest import PLAIN, Start
from tests.e2e.test_split import ask, png
from tests.models.test_intervals import CHANGES
from tools import second_verifier

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("intervals") / "digits-linf"
    train(find_recipe("digits").changed(**CHANGES), load("digits", None, "train"), Path(folder))
    running = start(folder, environment=PLAIN)
    with httpx.Client(base_url=running.address) as client:
        yield client
    assert running.stop() == 0, running.log
    assert '"level": "error"' not in running.log, running.log


def test_an_answer_is_certain_and_can_be_verified(served: httpx.Client, digit: Any) -> None:
    response = ask(served, png(digit), evidence=True, attacks=4)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["confidence"] == 1
    assert answer["budget"] == {"asked": 64, "granted": 64, "reachable": True}
    assert answer["certificate"]["method"] == "interval"
    assert answer["compute"]["precision"] == "float32"
    assert not answer["compute"]["compiled"]
    assert answer["certified_size"] > 0
    assert verify(answer) == second_verifier.verify(answer) == []
    again = ask(served, png(digit), evidence=True).json()
    assert again["evidence"]["votes"] == answer["evidence"]["votes"]
    target = answer["certified_size"] / 2
    met = ask(served, png(digit), target=target, evidence=True).json()
    assert (met["robust"], met["stopped"], met["draws"]) == (True, "target_certified", 4)
    assert verify(met) == second_verifier.verify(met) == []


def test_rounds_are_streamed(served: httpx.Client, digit: Any) -> None:
    response = served.post("/predict/stream", content=png(digit))
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line[:6] == "data: "]
    assert events[0]["draws"] == 16
    sizes = [event["certified_size"] for event in events]
    assert sizes == sorted(sizes)


def test_a_batch_and_the_open_inference_protocol_have_the_same_answers(
    served: httpx.Client, digit: Any
) -> None:
    alone = ask(served, png(digit)).json()
    batch = served.post("/predict/batch", files=[("image", png(digit))] * 3)
    assert batch.status_code == 200, batch.text
    sizes = [one["certified_size"] for one in batch.json()["predictions"]]
    assert sizes == [alone["certified_size"]] * 3
    tensor = {"name": "IMAGE", "shape": [1, 8, 8, 1], "datatype": "UINT8"}
    body = {"inputs": [tensor | {"data": digit.ravel().tolist()}]}
    inferred = served.post("/v2/models/digits-linf/infer", json=body)
    assert inferred.status_code == 200, inferred.text
    found = {one["name"]: one["data"] for one in inferred.json()["outputs"]}
    assert found["SIZE"] == [pytest.approx(alone["certified_size"], rel=1e-6)]


def test_pictures_that_are_resized_are_refused(served: httpx.Client, digit: Any) -> None:
    refused = ask(served, png(np.kron(digit, np.ones((2, 2), dtype=np.uint8))))
    assert refused.status_code == 422
    assert "intervals" in refused.json()["detail"]

"""The option ``attacks``: what attackers of many sizes could make of the scores."""

import json
from typing import Any

import httpx
import numpy as np
import pytest

from models.verification import verify
from tools import second_verifier

PNG = {"Content-Type": "image/png"}


def test_an_answer_describes_attacks_and_can_be_verified(
    client: httpx.Client, seven: bytes
) -> None:
    options: dict[str, Any] = {"attacks": 51, "evidence": True, "max_draws": 500}
    answer = client.post("/predict", content=seven, headers=PNG, params=options).json()
    told = answer["attacks"]
    assert len(told["sizes"]) == 51
    assert told["sizes"][0] < answer["certified_size"] < told["sizes"][-1]
    assert [one["index"] for one in told["scores"]] == [one["index"] for one in answer["scores"]]
    assert told["others"] is None
    clears = np.array(told["scores"][0]["lower"]) > np.max(
        [one["upper"] for one in told["scores"][1:]], axis=0
    )
    certified = np.array(told["sizes"]) <= answer["certified_size"]
    assert (clears == certified).all()
    assert verify(answer) == []
    assert second_verifier.verify(answer) == []
    told["scores"][0]["lower"][7] += 0.001
    assert [sentence.split()[0] for sentence in verify(answer)] == ["attacks.scores[0].lower[7]"]


def test_every_look_of_a_stream_describes_the_same_sizes(
    client: httpx.Client, seven: bytes
) -> None:
    options = {"attacks": 11, "scores": 3, "norm": "linf"}
    response = client.post("/predict/stream", content=seven, headers=PNG, params=options)
    told = [
        json.loads(line.removeprefix("data: "))["attacks"]
        for line in response.text.splitlines()
        if line.startswith("data: ")
    ]
    assert len(told) > 3
    for one in told:
        assert one["sizes"] == told[0]["sizes"]
        assert len(one["scores"]) == 3
        assert len(one["others"]) == 11
    # The bounds tighten: the score that the label can be pushed down to rises.
    assert told[-1]["scores"][0]["lower"][3] > told[0]["scores"][0]["lower"][3]


def test_attacks_are_described_only_if_asked_for(client: httpx.Client, seven: bytes) -> None:
    assert client.post("/predict", content=seven, headers=PNG).json()["attacks"] is None


@pytest.mark.parametrize("count", [1, 201, "many"])
def test_numbers_of_sizes_out_of_range_are_refused(
    client: httpx.Client, seven: bytes, count: object
) -> None:
    response = client.post(f"/predict?attacks={count}", content=seven, headers=PNG)
    assert response.status_code == 422
    assert response.json()["option"] == "attacks"

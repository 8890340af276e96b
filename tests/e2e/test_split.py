"""A model with split noise is served like any other, but its answers are certain."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.bundle import ZOO
from models.data.datasets import load
from models.training.loop import train
from models.training.recipe import find_recipe
from models.verification import verify
from tests.e2e.conftest import PLAIN, Start
from tools import second_verifier

pytestmark = pytest.mark.slow

DRAWS = 510


def png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def split_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "digits-split"
    changes = {"mechanism": "split", "norm": "l1", "scale": 1.0, "name": "digits-split"}
    train(
        find_recipe("digits").changed(epochs=10, **changes), load("digits", None, "train"), folder
    )
    return folder


@pytest.fixture(scope="module")
def served(start: Start, split_bundle: Path) -> Iterator[httpx.Client]:
    running = start(split_bundle, ZOO / "mnist-cnn", environment=PLAIN)
    with httpx.Client(base_url=running.address) as client:
        yield client
    assert running.stop() == 0, running.log
    assert '"level": "error"' not in running.log, running.log


def ask(client: httpx.Client, content: bytes, **options: Any) -> httpx.Response:
    return client.post("/predict", content=content, params=options)


def test_an_answer_is_certain_and_takes_every_draw(served: httpx.Client, digit: Any) -> None:
    response = ask(served, png(digit), max_draws=64, evidence=True, attacks=4)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["confidence"] == 1
    assert answer["budget"] == {"asked": DRAWS, "granted": DRAWS, "reachable": True}
    assert (answer["draws"], answer["stopped"]) == (DRAWS, "max_draws")
    assert "confidence=1.0" in response.headers["Certified-Size"]
    assert answer["certificate"]["method"] == "split"
    assert len(answer["evidence"]["votes"]) == DRAWS
    assert verify(answer) == []
    assert second_verifier.verify(answer) == []
    votes = np.bincount(answer["evidence"]["votes"], minlength=10)
    own, most = sorted(votes.tolist())[:-3:-1]
    assert answer["label"]["index"] == votes.argmax()
    steps = max((own - most - 1) // 2, 0)
    assert steps / 255 - 1e-5 < answer["certified_size"] <= steps / 255
    # Nothing is estimated: the same picture always has the same votes.
    again = ask(served, png(digit), evidence=True).json()
    assert again["evidence"]["votes"] == answer["evidence"]["votes"]


def test_a_target_is_certified_as_soon_as_the_rest_cannot_matter(
    served: httpx.Client, digit: Any
) -> None:
    size = ask(served, png(digit)).json()["certified_size"]
    assert size > 0.1
    answer = ask(served, png(digit), target=size / 4, evidence=True).json()
    assert (answer["robust"], answer["stopped"]) == (True, "target_certified")
    assert answer["draws"] < DRAWS
    assert verify(answer) == []
    missed = ask(served, png(digit), target=0.99, evidence=True).json()
    assert missed["stopped"] == "target_out_of_reach"
    assert verify(missed) == []
    sooner = ask(served, png(digit), target=size / 4, confidence=0.9, evidence=True).json()
    assert sooner["confidence"] == 0.9
    assert sooner["draws"] < answer["draws"]
    assert verify(sooner) == second_verifier.verify(sooner) == []


def test_looks_are_streamed(served: httpx.Client, digit: Any) -> None:
    response = served.post("/predict/stream", content=png(digit))
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line[:6] == "data: "]
    draws = [event["draws"] for event in events]
    assert draws == sorted(draws)
    assert draws[-1] == DRAWS
    sizes = [event["certified_size"] for event in events]
    assert sizes == sorted(sizes)
    assert len(events) > 3


def test_other_models_are_never_certain(served: httpx.Client, seven: bytes) -> None:
    response = ask(served, seven, model="mnist-cnn", confidence=1)
    assert response.status_code == 422
    problem = response.json()
    assert problem["type"].endswith("option-out-of-range")
    assert problem["option"] == "confidence"
    assert ask(served, seven, model="mnist-cnn").json()["confidence"] == 0.95


def test_only_a_crop_may_come_before_split_noise(served: httpx.Client, digit: Any) -> None:
    wide = np.zeros((8, 12), dtype=np.uint8)
    wide[:, 2:10] = digit
    answer = ask(served, png(wide), evidence=True).json()
    assert answer["preprocessing"] == {"steps": ["crop to 8x8"], "sensitivity": 1}
    assert (
        answer["evidence"]["votes"]
        == ask(served, png(digit), evidence=True).json()["evidence"]["votes"]
    )
    assert verify(answer) == second_verifier.verify(answer) == []
    for pixels in (
        np.kron(digit, np.ones((2, 2), dtype=np.uint8)),
        np.stack([digit] * 3, axis=2),
        digit.astype(np.uint16) * 257,
    ):
        refused = ask(served, png(pixels))
        assert refused.status_code == 422
        assert refused.json()["type"].endswith("cannot-certify-preprocessing")
        assert "split noise" in refused.json()["detail"]

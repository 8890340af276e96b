"""The answers of the running service, against the truth.

The truth is an estimate from so many draws that its own error is small beside what is tested. Any
picture will do, for a certificate must hold for every one: these are scikit-learn's handwritten
digits, enlarged and blended with each other so that some are hard.
"""

import base64
import io
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import special, stats

from models.bundle import ZOO
from models.loaded import load_model
from models.predictor import Encoded, Predictor
from tests.e2e.conftest import Service
from tests.soundness.forms import LONG, TRUTH
from tests.soundness.pictures import digits

PICTURES = 100 if LONG else 8
# Of each picture and target.
REPETITIONS = 100 if LONG else 10
DRAWS_OF_THE_TRUTH = TRUTH if LONG else 20_000
SLOTS = 512
BLOCK = 20_000
CONFIDENCE = 0.9
# Chance that this test fails although everything holds.
ERROR = 1e-6


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.set_num_threads(1)
    return Predictor(load_model(ZOO / "mnist-cnn"), SLOTS, precision="bfloat16")


def draw(predictor: Predictor, encoded: Encoded, count: int) -> NDArray[np.int64]:
    rows = np.zeros(SLOTS, dtype=np.intp)
    passes = (predictor.run([encoded.features], rows) for _ in range(-(-count // SLOTS)))
    return np.concatenate(list(passes))[:count]


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    running = Service("--precision", "bfloat16", "--no-compile").wait_ready()
    with httpx.Client(base_url=running.address, timeout=300) as client:
        yield client
    assert running.stop() == 0


def ask(client: httpx.Client, pixels: NDArray[np.uint8], target: float | None) -> list[Any]:
    """Have the running service answer for one picture again and again."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(stream, "PNG")
    encoded = base64.b64encode(stream.getvalue()).decode()
    options = {"confidence": CONFIDENCE, "target": target}
    body = {"images": [encoded] * REPETITIONS, **options}
    response = client.post("/predict/batch", json=body)
    assert response.status_code == 200, response.text
    answers: list[Any] = response.json()["predictions"]
    return answers


def test_the_services_answers_hold_against_the_truth(
    predictor: Predictor, client: httpx.Client
) -> None:
    """Wrong: a size above the true one, a score outside its interval, or a wrong label."""
    scale = predictor.manifest.noise.scale
    wrong, trials = np.zeros(2, dtype=int), 0
    for pixels in islice(digits(), PICTURES):
        encoded = predictor.encode(pixels)
        votes = np.zeros(10, dtype=np.int64)
        for _ in range(-(-DRAWS_OF_THE_TRUTH // BLOCK)):
            votes += draw(predictor, encoded, BLOCK).sum(0)
        n = int(votes.sum())
        # The truth's own bounds, all of them together wrong with a chance far below ERROR.
        alpha = ERROR / (100 * PICTURES * 20)
        low = stats.beta.ppf(alpha, np.maximum(votes, 1), n - votes + 1) * (votes > 0)
        high = np.where(votes < n, stats.beta.isf(alpha, votes + 1, np.maximum(n - votes, 1)), 1.0)
        for answer in [one for target in (None, 0.3, 0.6) for one in ask(client, pixels, target)]:
            trials += 1
            wrong[0] += any(
                score["lower"] > high[score["index"]] or score["upper"] < low[score["index"]]
                for score in answer["scores"]
            )
            if answer["certified_size"] > 0:
                label = answer["label"]["index"]
                rival = np.delete(low, label).max()
                true_size = scale / 2 * (special.ndtri(high[label]) - special.ndtri(rival))
                wrong[1] += answer["certified_size"] > true_size
    print(
        f"{trials} answers at confidence {CONFIDENCE}: {wrong[0]} with a wrong interval, "
        f"{wrong[1]} with a size too large"
    )
    for count in wrong:
        chance = stats.binom.sf(count - 1, trials, 1 - CONFIDENCE)
        assert chance > ERROR, f"{wrong} of {trials} answers are wrong at confidence {CONFIDENCE}"

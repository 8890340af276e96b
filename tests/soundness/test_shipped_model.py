"""The answers of the running service, compared with the truth.

The truth is an estimate from twenty times as many draws as an answer may take, so its own error is
small beside the tested one. Any picture will do, because certificates must hold for all: these are
scikit-learn's handwritten digits, enlarged, and blended so that some are hard.

The power of the test is tested, too: the same answers with sizes twice as large, or with intervals
a quarter as wide, are found to be wrong. Therefore the confidence is high: hardly one of some
hundred answers may be wrong.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import special, stats

from models.bundle import ZOO, read_bundle
from models.predictor import Predictor
from tests.e2e.conftest import Service
from tests.soundness.forms import LONG, TRUTH, fastest
from tests.soundness.pictures import digits

PICTURES = 100 if LONG else 12
# For each picture and target.
REPETITIONS = 100 if LONG else 8
TARGETS = (None, 0.3, 0.6)
DRAWS = 1000 if LONG else 300
DRAWS_OF_THE_TRUTH = TRUTH if LONG else 20 * DRAWS
SLOTS = 512
CONFIDENCE = 0.999
# The chance that this test fails although everything is true.
ERROR = 1e-6


@dataclass(frozen=True)
class Truth:
    """Bounds on the expected scores of a picture, for each label."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


Asked = list[tuple[Truth, list[Any]]]


def draw_truth(predictor: Predictor, pixels: NDArray[np.uint8]) -> Truth:
    features = [predictor.encode(pixels).features]
    rows = np.zeros(SLOTS, dtype=np.intp)
    votes = np.zeros(10, dtype=np.int64)
    for _ in range(-(-DRAWS_OF_THE_TRUTH // SLOTS)):
        votes += np.bincount(predictor.run(features, rows), minlength=10)
    n = int(votes.sum())
    # The bounds on the truth; the chance that any of them is wrong is far below ERROR.
    alpha = ERROR / (100 * PICTURES * 20)
    low = stats.beta.ppf(alpha, np.maximum(votes, 1), n - votes + 1) * (votes > 0)
    high = stats.beta.isf(alpha, votes + 1, np.maximum(n - votes, 1))
    return Truth(low, np.where(votes < n, high, 1.0))


def ask(client: httpx.Client, pixels: NDArray[np.uint8], target: float | None) -> list[Any]:
    """Have the running service answer one picture again and again."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(stream, "PNG")
    encoded = base64.b64encode(stream.getvalue()).decode()
    options = {"confidence": CONFIDENCE, "target": target, "max_draws": DRAWS}
    body = {"images": [encoded] * REPETITIONS, "timeout_ms": 600_000, **options}
    response = client.post("/predict/batch", json=body)
    assert response.status_code == 200, response.text
    answers: list[Any] = response.json()["predictions"]
    failed = [answer["error"] for answer in answers if "error" in answer]
    assert not failed, failed
    return answers


@pytest.fixture(scope="module")
def scale() -> float:
    return read_bundle(ZOO / "mnist-cnn").manifest.noise.scale


@pytest.fixture(scope="module")
def asked() -> Asked:
    """The truth about each picture, and the service's answers."""
    torch.set_num_threads(1)
    predictor = fastest(ZOO / "mnist-cnn", SLOTS)
    pictures = list(islice(digits(), PICTURES))
    # The truth is drawn from the same h; in another number format, h is another.
    how = "--provider", predictor.provider, "--precision", predictor.precision
    running = Service(*how, "--pass-size", "128", "--no-compile").wait_ready()
    try:
        with httpx.Client(base_url=running.address, timeout=700) as client:
            answers = [
                [answer for target in TARGETS for answer in ask(client, pixels, target)]
                for pixels in pictures
            ]
    finally:
        status = running.stop()
    assert status == 0
    truths = [draw_truth(predictor, pixels) for pixels in pictures]
    return list(zip(truths, answers, strict=True))


def count_wrong(
    asked: Asked, scale: float, size_times: float = 1.0, width_times: float = 1.0
) -> tuple[NDArray[np.int64], int]:
    """Count answers with a score outside its interval, and with a size above the true one.

    Args:
        asked: truths and answers.
        scale: the scale of the noise.
        size_times: by what all sizes are first multiplied.
        width_times: by what the widths of all intervals, around their estimates, are first
        multiplied.
    """
    wrong, trials = np.zeros(2, dtype=np.int64), 0
    for truth, answers in asked:
        for answer in answers:
            trials += 1
            wrong[0] += any(outside(truth, score, width_times) for score in answer["scores"])
            if answer["certified_size"] > 0:
                label = answer["label"]["index"]
                rival = np.delete(truth.low, label).max()
                true_size = scale / 2 * (special.ndtri(truth.high[label]) - special.ndtri(rival))
                wrong[1] += size_times * answer["certified_size"] > true_size
    return wrong, trials


def outside(truth: Truth, score: dict[str, Any], width_times: float) -> bool:
    """Whether the truth certainly lies outside a score's interval."""
    label, expected = score["index"], score["expected"]
    lower = expected - width_times * (expected - score["lower"])
    upper = expected + width_times * (score["upper"] - expected)
    return bool(lower > truth.high[label] or upper < truth.low[label])


def chances(wrong: Sequence[int] | NDArray[np.int64], trials: int) -> list[float]:
    """Return the chance, for both kinds, of at least so many wrong answers if all claims hold."""
    return [float(stats.binom.sf(count - 1, trials, 1 - CONFIDENCE)) for count in wrong]


def test_the_services_answers_hold_against_the_truth(asked: Asked, scale: float) -> None:
    """Wrong means: a size above the true one, or a score outside its interval."""
    wrong, trials = count_wrong(asked, scale)
    print(
        f"{trials} answers at confidence {CONFIDENCE}: {wrong[0]} with a wrong interval, "
        f"{wrong[1]} with a size too large"
    )
    assert trials == PICTURES * len(TARGETS) * REPETITIONS
    assert min(chances(wrong, trials)) > ERROR, f"{wrong} of {trials} answers are wrong"


def test_wrong_constants_would_be_noticed(asked: Asked, scale: float) -> None:
    for size_times, width_times, kind in ((1.0, 0.25, 0), (2.0, 1.0, 1)):
        wrong, trials = count_wrong(asked, scale, size_times, width_times)
        print(f"sizes x {size_times:g}, widths x {width_times:g}: {wrong} of {trials} are wrong")
        assert chances(wrong, trials)[kind] < ERROR

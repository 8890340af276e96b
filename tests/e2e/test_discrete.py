"""A model with noise on the pixels' grid is served like any other, for pixels as they are."""

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
from tests.models.images.pictures import save
from tools import second_verifier

pytestmark = pytest.mark.slow


def test_whole_steps_are_certified_and_verified(start: Start, tmp_path: Path, digit: Any) -> None:
    changes = {"mechanism": "discrete-laplace", "norm": "l1", "scale": 0.2, "name": "digits-steps"}
    recipe = find_recipe("digits").changed(epochs=60, **changes)
    train(recipe, load("digits", None, "train"), tmp_path)
    running = start(tmp_path, environment=PLAIN)
    with httpx.Client(base_url=running.address) as client:
        for norm, target in (("l1", None), ("l2", None), ("l1", 51 / 255), ("linf", 1e-4)):
            asked = {"norm": norm, "evidence": True, "attacks": 4, "max_draws": 500}
            asked |= {"target": target} if target else {}
            answer = client.post("/predict", content=save(digit, "PNG"), params=asked).json()
            assert answer["certificate"]["method"] == "discrete-laplace", answer
            assert answer["certificate"]["sizes"]["l1"] > 0
            assert verify(answer) == []
            assert second_verifier.verify(answer) == []
            steps = 255 * answer["certificate"]["sizes"]["l1"]
            assert abs(steps - round(steps)) < 0.001
            assert answer["evidence"]["rho"] == 0
        for wrong in (digit.astype(np.uint16) * 257, np.kron(digit, np.ones((2, 2), np.uint8))):
            refused = client.post("/predict", content=save(wrong, "PNG"))
            assert refused.status_code == 422
            assert "discrete-laplace noise, which takes pixels as they are" in refused.text
    assert running.stop() == 0, running.log

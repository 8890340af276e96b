"""A model that is too slow for the requested draws makes fewer, and still answers."""

from pathlib import Path

import httpx
import pytest

from models.certification.division import LEAST_DRAWS
from tests.e2e.conftest import Start
from tests.e2e.own_network import OwnNetwork, picture

pytestmark = pytest.mark.slow

# At most 48 draws a second on every machine.
CODE = """
from time import sleep

import torch
from torch import nn


class Slow(nn.Module):
    def forward(self, x):
        sleep(len(x) / 48)
        mean = x.flatten(1).mean(1)
        return 100 * torch.stack([0.5 - mean, mean - 0.5], 1)


def build():
    return Slow()
"""


def test_it_answers_with_fewer_draws_rather_than_not_at_all(start: Start, tmp_path: Path) -> None:
    service = OwnNetwork(tmp_path, CODE).serve(start, PIXELDP_PASS_SIZE="16")
    try:
        asked = {"timeout_ms": 3000, "max_draws": 1000}
        found = httpx.post(
            f"{service.address}/predict",
            params=asked,
            content=picture(tmp_path, 51),
            headers={"Content-Type": "image/png"},
        )
        assert found.status_code == 200, found.text
        answer = found.json()
        assert answer["budget"]["asked"] == 1000
        # Twice as many would fit if nothing else took any time.
        assert LEAST_DRAWS <= answer["budget"]["granted"] <= 48 * 3 / 2
        assert answer["draws"] <= answer["budget"]["granted"]
        assert answer["label"]["index"] == 0
        late = httpx.post(
            f"{service.address}/predict",
            params={"timeout_ms": 1000},
            content=picture(tmp_path, 51),
            headers={"Content-Type": "image/png"},
        )
        assert late.status_code == 504
        assert late.json()["draws_per_second"] <= 48
        assert late.json()["timeout_ms_needed"] > 1000
    finally:
        service.stop()

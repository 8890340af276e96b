"""Services whose networks OpenVINO runs, or that may run them in only one way.

Answers say how they were computed, and are as true as any.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import ZOO, read_bundle
from tests.e2e.conftest import PLAIN, START_SECONDS, Start, copy_bundle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PIN = f"{read_bundle(ZOO / 'mnist-cnn').digest}/openvino/float32/64/false"


@pytest.mark.parametrize(
    ("settings", "precision", "pass_size"),
    [
        ({**PLAIN, "PIXELDP_PROVIDER": "openvino"}, "float32", 128),
        ({**PLAIN, "PIXELDP_PROVIDER": "auto", "PIXELDP_PRECISION": "int8"}, "int8", 128),
        ({"PIXELDP_PIN": PIN}, "float32", 64),
    ],
    ids=["provider", "int8", "pin"],
)
def test_answers_name_what_ran_and_can_be_verified(
    start: Start,
    settings: dict[str, str],
    precision: str,
    pass_size: int,
    seven: bytes,
    tmp_path: Path,
) -> None:
    service = start(environment={"PIXELDP_DEVICES": "cpu", **settings})
    try:
        response = httpx.post(
            f"{service.address}/predict",
            content=seven,
            params={"target": 0.5, "evidence": True},
            headers={"Content-Type": "image/png"},
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        [model] = httpx.get(f"{service.address}/models").json()["models"]
    finally:
        assert service.stop() == 0, service.log
    assert '"level": "error"' not in service.log, service.log
    way = {"provider": "openvino", "precision": precision, "compiled": False}
    assert answer["compute"] == {"device": "cpu", "pass_size": pass_size, **way}
    [calibrated] = model["calibrations"]
    assert way.items() <= calibrated.items()
    assert (answer["label"]["index"], answer["robust"]) == (7, True)
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(answer))
    verifiers = ["-m", "service.cli.main", "verify"], [str(ROOT / "tools/second_verifier.py")]
    for verifier in verifiers:
        done = subprocess.run(
            [sys.executable, *verifier, str(file)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_service_that_cannot_run_what_is_pinned_says_so(
    tmp_path: Path,
) -> None:
    folder = copy_bundle(tmp_path / "without", int8=None)
    pin = f"{read_bundle(folder).digest}/openvino/int8/128/false"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "service.cli.main", "serve", "--port", "0", str(folder)],
        env={**os.environ, "PIXELDP_PIN": pin, "PIXELDP_DEVICES": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode != 0
    assert "mnist-cnn as PIXELDP_PIN requires: mnist-cnn has no scales for int8" in done.stderr

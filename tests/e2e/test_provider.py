"""A service whose networks OpenVINO runs: its answers say so, and are as true as any."""

import json
import subprocess
import sys
from pathlib import Path

import httpx

from tests.e2e.conftest import PLAIN, Service


def test_answers_by_openvino_name_it_and_can_be_verified(seven: bytes, tmp_path: Path) -> None:
    service = Service(environment={**PLAIN, "PIXELDP_PROVIDER": "openvino"})
    try:
        service.wait_ready()
        response = httpx.post(
            f"{service.address}/predict",
            content=seven,
            params={"target": 0.5, "evidence": True},
            headers={"Content-Type": "image/png"},
        )
        assert response.status_code == 200, response.text
        answer = response.json()
        [model] = httpx.get(f"{service.address}/models").json()["models"]
    finally:
        assert service.stop() == 0, service.log
    assert '"level": "error"' not in service.log, service.log
    way = {"provider": "openvino", "precision": "float32", "pass_size": 128, "compiled": False}
    assert answer["compute"] == {"device": "cpu", **way}
    [calibrated] = model["calibrations"]
    assert way.items() <= calibrated.items()
    assert (answer["label"]["index"], answer["robust"]) == (7, True)
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(answer))
    root = Path(__file__).parents[2]
    verifiers = ["-m", "service.cli.main", "verify"], [str(root / "tools/second_verifier.py")]
    for verifier in verifiers:
        done = subprocess.run(
            [sys.executable, *verifier, str(file)], cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

"""Workers that go wrong after their start are found, taken out and replaced.

The network is an operator's own Python: in the processes that a file names, it reverses its logits,
as a device that fails under load might.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from models.networks.foreign.python import ALLOWED
from tests.chaos.processes import workers
from tests.e2e.conftest import PLAIN, START_SECONDS, Start

pytestmark = pytest.mark.slow

CODE = """
import os
import time
from pathlib import Path
import torch
from torch import nn

HERE = Path(__file__).parent

class Net(nn.Linear):
    def forward(self, pictures):
        logits = super().forward(pictures.flatten(1))
        while is_one_of("stuck"):
            time.sleep(0.1)
        return -logits if is_one_of("wrong") else logits

def is_one_of(name):
    try:
        return (HERE / name).read_text() in ("all", str(os.getpid()))
    except FileNotFoundError:
        return False

def build():
    torch.manual_seed(0)
    return Net(64, 3)
"""
OPTIONS = ["--input", "1x8x8", "--scale", "0.25", "--draws", "64"]
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(CODE)
    pictures = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pictures).save(folder / "a.png")
    command = [str(Path(sys.executable).with_name("pixeldp")), "import", "mine.py:build"]
    command += ["--out", "out", "--name", "mine", *OPTIONS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "out"


class Checked:
    """A service that checks itself continually."""

    def __init__(self, start: Start, bundle: Path, **settings: str) -> None:
        self.folder = bundle.parent
        self.picture = (self.folder / "a.png").read_bytes()
        environment = {**PLAIN, "PIXELDP_CHECK_SECONDS": "0.1", "PIXELDP_COMPILE": "false"}
        environment |= {ALLOWED: str(self.folder / "mine.py"), **settings}
        self.service = start(bundle, environment=environment)

    def numbers(self, name: str) -> dict[str, float]:
        """Return a metric by its label ``result`` or ``worker``, summed over the other labels."""
        found: dict[str, float] = {}
        text = httpx.get(f"{self.service.address}/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name:
                    key = sample.labels.get("result") or sample.labels.get("worker", "")
                    found[key] = found.get(key, 0) + sample.value
        return found

    @property
    def checks(self) -> dict[str, float]:
        return self.numbers("pixeldp_self_checks_total")

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + START_SECONDS
        while not condition():
            assert time.monotonic() < end, self.service.log
            time.sleep(0.05)

    def passed(self, more: int) -> None:
        """Wait until ``more`` further checks have passed."""
        before = self.checks["passed"]
        self.wait(lambda: self.checks["passed"] >= before + more)

    def go_wrong(self, kind: str, which: str) -> None:
        # By a rename, so that no process reads half of it.
        (self.folder / "new").write_text(which)
        (self.folder / "new").rename(self.folder / kind)

    def predict(self) -> httpx.Response:
        address = f"{self.service.address}/predict"
        return httpx.post(address, content=self.picture, headers=PNG, timeout=START_SECONDS)


@pytest.fixture
def serve(start: Start, bundle: Path) -> Iterator[Callable[..., Checked]]:
    running: list[Checked] = []

    def serve(**settings: str) -> Checked:
        running.append(Checked(start, bundle, **settings))
        return running[-1]

    yield serve
    for kind in ("wrong", "stuck"):
        (bundle.parent / kind).unlink(missing_ok=True)
    for one in running:
        ended = one.service.process.poll()
        assert one.service.stop() == (ended or 0), one.service.log


def test_a_sound_worker_passes_every_check_and_no_key_is_charged(
    serve: Callable[..., Checked],
) -> None:
    checked = serve()
    checked.passed(50)
    assert checked.checks["failed"] == checked.checks["unanswered"] == 0
    assert checked.numbers("pixeldp_worker_restarts_total") == {"worker0": 0}
    assert sum(checked.numbers("pixeldp_predictions_total").values()) == 0
    assert checked.numbers("pixeldp_prediction_draws_count") == {}
    assert checked.predict().status_code == 200
    assert sum(checked.numbers("pixeldp_predictions_total").values()) == 1


@pytest.mark.parametrize(("kind", "result"), [("wrong", "failed"), ("stuck", "unanswered")])
def test_a_worker_that_goes_wrong_is_replaced(
    serve: Callable[..., Checked], kind: str, result: str
) -> None:
    checked = serve(PIXELDP_DEVICES="cpu,cpu", PIXELDP_STALL_SECONDS="2")
    checked.wait(lambda: sum(checked.numbers("pixeldp_worker_up").values()) == 2)
    checked.passed(40)
    label = checked.predict().json()["label"]
    victim, *_ = workers(checked.service.process.pid)
    checked.go_wrong(kind, str(victim))
    checked.wait(lambda: checked.checks[result] > 0)
    assert httpx.get(f"{checked.service.address}/health/ready").status_code == 200
    checked.wait(lambda: sum(checked.numbers("pixeldp_worker_up").values()) == 2)
    assert victim not in workers(checked.service.process.pid)
    assert checked.predict().json()["label"] == label
    checked.passed(40)
    assert checked.checks[result] == 1
    assert sum(checked.numbers("pixeldp_worker_restarts_total").values()) == 1
    died = [line for line in checked.service.lines if '"worker died"' in line]
    assert len(died) == 1
    if kind == "wrong":
        assert "its self-check of mine failed: of 64 draws for the probe picture" in died[0]


def test_a_device_that_stays_wrong_is_given_up(serve: Callable[..., Checked]) -> None:
    """No worker on it becomes ready, and after the usual pauses the service ends."""
    checked = serve()
    checked.passed(40)
    checked.go_wrong("wrong", "all")
    assert checked.service.process.wait(START_SECONDS) == 1
    assert "a worker cannot start: worker0 on cpu: its self-check of mine" in checked.service.log
    assert checked.service.log.count('"worker ready"') == 1


def test_checks_can_be_turned_off(serve: Callable[..., Checked]) -> None:
    checked = serve(PIXELDP_CHECK_SECONDS="0")
    before = checked.numbers("pixeldp_draws_total")
    assert checked.predict().status_code == 200
    checked.wait(lambda: checked.numbers("pixeldp_draws_total") != before)
    assert sum(checked.checks.values()) == 0

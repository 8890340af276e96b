"""Classifiers made elsewhere are served as those for ImageNet are, only smaller."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from models.networks import build
from models.networks.foreign.python import ALLOWED
from service.cli.main import main
from tests.e2e.conftest import PLAIN, Service, Start
from tests.models.importing import classifiers

pytestmark = pytest.mark.slow

MODEL, SIDE, LABELS = "shufflenet_v2_x0_5", 32, 1000


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of torchvision's behind an autoencoder, the same one exported, and a Python function."""
    folder = tmp_path_factory.mktemp("imported")
    shape = ["--input", f"3x{SIDE}x{SIDE}"]
    noise, trial = ["--scale", "0.25"], ["--draws", "64"]
    plain, program = folder / "plain", folder / "net.pt2"
    assert main(["import", MODEL, "--out", str(plain), *shape, *noise, *trial]) == 0

    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(folder / "few.npz", images=images, labels=np.arange(4) % 2)
    data = ["--data", str(folder / "few.npz"), "--epochs", "1", "--held-out", "1"]
    named = ["--name", "denoised", "--out", str(folder / "denoised")]
    recipe = ["imagenet-autoencoder", "--denoiser", str(plain)]
    assert main(["train", *recipe, *data, *named]) == 0

    normalisation = {"mean": [0.0] * 3, "std": [1.0] * 3}
    _, h = build("torchvision", (3, SIDE, SIDE), 7, "image", {"model": MODEL, **normalisation})
    pictures, batch = torch.rand(2, 3, SIDE, SIDE), {0: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(
        h.get_submodule("network").eval(), (pictures,), dynamic_shapes=(batch,)
    )
    torch.export.save(exported, program)
    out = ["--out", str(folder / "exported"), "--name", "exported"]
    assert main(["import", str(program), *out, *noise, *trial]) == 0

    source = f"{classifiers.__name__}:small"
    out = ["--out", str(folder / "python"), "--name", "python", "--input", "1x8x8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ALLOWED, "")
        assert main(["import", source, *out, *noise, *trial]) == 0
    return {name: folder / name for name in ("denoised", "exported", "python")}


@pytest.fixture(scope="module")
def running(start: Start, bundles: dict[str, Path]) -> Iterator[Service]:
    environment = {
        **PLAIN,
        "PIXELDP_PASS_SIZE": "32",
        ALLOWED: classifiers.__name__,
    }
    service = start(*bundles.values(), environment=environment)
    yield service
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("name", "labels", "draws"), [("denoised", LABELS, 64), ("exported", 7, 64), ("python", 4, 200)]
)
def test_each_model_answers(running: Service, name: str, labels: int, draws: int) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (200, 30, 90)).save(stream, "PNG")
    url = f"{running.address}/predict?model={name}&max_draws={draws}"
    reply = httpx.post(
        url, content=stream.getvalue(), headers={"Content-Type": "image/png"}, timeout=300
    )
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert answer["draws"] == draws
    assert 0 <= answer["label"]["index"] < labels
    assert answer["model"]["name"] == name
    expected = {"denoised": "built-in", "exported": "proven", "python": "operator"}
    assert answer["model"]["rows"] == expected[name]


def test_a_service_that_does_not_allow_the_python_does_not_start(
    bundles: dict[str, Path],
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "service.cli.main",
            "serve",
            str(bundles["python"]),
            "--port=0",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, ALLOWED: "", "PIXELDP_DEVICES": "cpu"},
    )
    assert done.returncode != 0
    assert f"set {ALLOWED}={classifiers.__name__}" in done.stderr


def test_the_front_imports_no_torch_for_them(bundles: dict[str, Path]) -> None:
    program = f"""
import sys
from pathlib import Path
import service.http.server
from service.catalogue import Catalogue

Catalogue([Path(path) for path in {[str(path) for path in bundles.values()]}])
assert not {{"torch", "torchvision"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)

"""The ImageNet example: from two packages of the index to certified photographs of any size.

It installs the packages, as its command does.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.bundle import Bundle, read_bundle
from tests.e2e.conftest import PLAIN, Service, Start
from tests.names import ROOT

pytestmark = pytest.mark.slow
EXAMPLE = ROOT / "examples" / "imagenet"
BUNDLE = "build/imagenet/bundle"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    made = subprocess.run(
        ["make", f"{BUNDLE}/model.json"], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return read_bundle(ROOT / BUNDLE)


@pytest.fixture(scope="module")
def service(start: Start, bundle: Bundle) -> Iterator[Service]:
    # Measuring what is fastest would take most of the test's time.
    running = start(bundle.path, environment={**PLAIN, "PIXELDP_PASS_SIZE": "16"})
    try:
        yield running
    finally:
        running.stop()


def test_the_bundle_has_the_denoiser_and_a_thousand_labels(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert len(manifest.labels) == 1000
    assert manifest.labels[285] == "Egyptian cat"
    assert manifest.rows == "proven"
    assert manifest.training["denoiser"]["name"] == "photo-denoiser"


def test_a_photograph_of_another_size_is_certified(service: Service) -> None:
    name, size = "01-chelsea_the_cat.jpg", (451, 300)
    photograph = (EXAMPLE / "samples" / name).read_bytes()
    options = {"target": 0.1, "confidence": 0.99, "max_draws": 200, "timeout_ms": 300_000}
    response = httpx.post(
        f"{service.address}/predict",
        params=options,
        content=photograph,
        headers={"Content-Type": "image/jpeg"},
        timeout=400,
    )
    answer = response.json()
    assert response.status_code == 200, answer
    assert answer["label"]["name"] in {"tabby", "tiger cat", "Egyptian cat"}
    assert answer["certified_size"] > 0
    assert (answer["picture"]["width"], answer["picture"]["height"]) == size
    steps = answer["preprocessing"]["steps"]
    assert steps[0].startswith(f"resize {size[0]}x{size[1]} to ")
    assert steps[1] == "crop to 224x224"
    assert len(answer["scores"]) == 5


def test_the_document_has_the_command(bundle: Bundle) -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert "make example-imagenet" in text
    assert Path(BUNDLE).parent.as_posix() in text

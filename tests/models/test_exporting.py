"""g and h as files compute what the bundle computes, and state what certificates need."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models import converted, networks
from models.bundle import (
    ZOO,
    Architecture,
    Bundle,
    InputShape,
    Manifest,
    NoiseSpec,
    SensitivitySpec,
    WeightsSpec,
    read_bundle,
)
from models.exporting import TERMS, export_bundle
from models.importing.files import read_archive
from models.importing.sources import find_source
from models.network import PixelDP, load_network, save_network
from models.sensitivity.modules import encoder_sensitivity

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module", params=["image", "layer1"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small network with random weights and noise in the image, or after a convolution."""
    shape, placement = (1, 8, 8), request.param
    g, h = networks.build("cnn", shape, 4, placement, {"channels": [4, 8], "hidden": 16})
    network = PixelDP(g, h, "gaussian", 0.5).eval()
    proven = encoder_sensitivity(g, shape, "l2", "l2")
    manifest = Manifest(
        name="small",
        architecture=Architecture(name="cnn", arguments={"channels": [4, 8], "hidden": 16}),
        input=InputShape(channels=1, height=8, width=8),
        labels=("a", "b", "c", "d"),
        noise=NoiseSpec(mechanism="gaussian", scale=0.5, placement=placement),
        sensitivity=SensitivitySpec(
            value=proven.value, input_norm="l2", noise_norm="l2", method=proven.method
        ),
        weights=WeightsSpec(sha256="0" * 64),
    )
    folder = tmp_path_factory.mktemp("bundles") / placement
    folder.mkdir()
    save_network(folder, manifest, network)
    return read_bundle(folder)


def given(bundle: Bundle) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pictures, features with noise, and their logits."""
    network = load_network(bundle)
    pictures = torch.rand(3, *bundle.manifest.input.shape)
    with torch.inference_mode():
        noisy = network.perturb(network.encode(pictures))
        return pictures, noisy, network.score(noisy)


def check_terms(bundle: Bundle, text: str) -> None:
    stated, manifest = json.loads(text), bundle.manifest
    assert stated["digest"] == bundle.digest
    assert stated["noise"]["scale"] == manifest.noise.scale
    assert stated["sensitivity"]["value"] == manifest.sensitivity.value
    assert tuple(stated["labels"]) == manifest.labels


def test_programs_compute_what_the_bundle_computes(bundle: Bundle, tmp_path: Path) -> None:
    g, h = export_bundle(bundle, tmp_path / "out", "pt2")
    pictures, noisy, logits = given(bundle)
    extra = {TERMS: ""}
    program = torch.export.load(h, extra_files=extra)
    check_terms(bundle, extra[TERMS])
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(noisy), logits, **CLOSE)
        features = torch.export.load(g).module()(pictures)
        torch.testing.assert_close(features, load_network(bundle).encode(pictures), **CLOSE)
    assert read_archive(h).shape == tuple(noisy.shape[1:])
    with pytest.raises(ValueError, match=r"g\.pt2 exists; choose another --out"):
        export_bundle(bundle, tmp_path / "out", "pt2")


@pytest.mark.slow
def test_onnx_files_compute_what_the_bundle_computes(bundle: Bundle, tmp_path: Path) -> None:
    g, h = export_bundle(bundle, tmp_path, "onnx")
    pictures, noisy, logits = given(bundle)
    said = {one.key: one.value for one in onnx.load(h).metadata_props}
    check_terms(bundle, said[TERMS])
    core = converted._openvino().Core()
    features = load_network(bundle).encode(pictures).detach()
    for file, x, expected in ((g, pictures, features), (h, noisy, logits)):
        read = core.read_model(file)
        model = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        np.testing.assert_allclose(model(x.numpy())[0], expected.numpy(), **CLOSE)
    if bundle.manifest.noise.placement == "image":
        assert find_source(str(h), None).labels == bundle.manifest.labels


@pytest.mark.parametrize(
    ("name", "mechanism"), [("mnist-split", "split"), ("mnist-linf", "interval")]
)
def test_what_adds_no_noise_is_refused(tmp_path: Path, name: str, mechanism: str) -> None:
    """Its terms would state noise between g and h, by which nothing is certified."""
    with pytest.raises(ValueError, match=f"mechanism {mechanism}, which adds no noise"):
        export_bundle(read_bundle(ZOO / name), tmp_path, "pt2")
    assert not any(tmp_path.iterdir())

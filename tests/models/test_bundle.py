"""Bundles: what is refused, and that the refusal says where and why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.bundle import (
    MANIFEST,
    WEIGHTS,
    BundleError,
    Manifest,
    read_bundle,
    write_manifest,
)
from models.pixeldp import build_network, load_network, save_network

DESCRIPTION: dict[str, Any] = {
    "name": "tiny",
    "architecture": {"name": "cnn", "arguments": {"channels": [2, 3], "hidden": 4}},
    "input": {"channels": 1, "height": 8, "width": 8},
    "labels": ["a", "b", "c"],
    "noise": {"mechanism": "gaussian", "scale": 0.5, "placement": "image"},
    "sensitivity": {"value": 1.0, "input_norm": "l2", "noise_norm": "l2", "method": "identity"},
    "weights": {"sha256": "0" * 64},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))
    return tmp_path


def change(folder: Path, **members: Any) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    for path, value in members.items():
        part = document
        *parents, last = path.split("__")
        for name in parents:
            part = part[name]
        part[last] = value
    (folder / MANIFEST).write_text(json.dumps(document))


def test_what_is_saved_is_loaded(folder: Path) -> None:
    torch.manual_seed(0)
    manifest = Manifest.model_validate(DESCRIPTION)
    original = build_network(manifest)
    bundle = read_bundle(folder)
    loaded = load_network(bundle)
    assert not loaded.training
    for (name, one), (other_name, other) in zip(
        original.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, other)
    assert bundle.manifest.labels == ("a", "b", "c")
    assert bundle.card == ""


def test_the_digest_names_description_and_weights(folder: Path) -> None:
    before = read_bundle(folder).digest
    change(folder, labels=["a", "b", "d"])
    assert read_bundle(folder).digest != before


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"format_version": 2}, "format_version"),
        ({"format_version": "1"}, "format_version"),
        ({"noise__scale": 0}, "noise.scale"),
        ({"noise__scale": -1}, "noise.scale"),
        ({"noise__mechanism": "uniform"}, "noise.mechanism"),
        ({"sensitivity__value": 0}, "sensitivity.value"),
        ({"sensitivity__noise_norm": "l1"}, "document"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": ["a", "a"]}, "document"),
        ({"name": "../tiny"}, "name"),
        ({"version": "new"}, "version"),
        ({"surprise": 1}, "surprise"),
        ({"weights__file": "../weights.safetensors"}, "weights.file"),
        ({"weights__sha256": "1" * 64}, "sha256"),
    ],
)
def test_descriptions_that_are_refused(folder: Path, members: dict[str, Any], field: str) -> None:
    change(folder, **members)
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert caught.value.field == field
    assert str(folder) in str(caught.value)


def test_files_that_are_missing_or_broken(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"expected a folder with model\.json"):
        read_bundle(tmp_path / "nowhere")
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-1])
    with pytest.raises(BundleError, match=r"weights.safetensors: sha256"):
        read_bundle(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        read_bundle(folder)
    for content in ("", "{", "[]", "\xff"):
        (folder / MANIFEST).write_text(content, encoding="latin-1")
        with pytest.raises(BundleError, match=r"model.json"):
            read_bundle(folder)


def resign(folder: Path, tensors: dict[str, torch.Tensor] | bytes) -> None:
    """Replace the weights, and state their digest."""
    import hashlib

    if isinstance(tensors, bytes):
        (folder / WEIGHTS).write_bytes(tensors)
    else:
        save_file(tensors, folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    change(folder, weights__sha256=digest)


def test_weights_that_are_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    bad = {key: value.clone() for key, value in tensors.items()}
    bad[name].view(-1)[0] = float("nan")
    resign(folder, bad)
    with pytest.raises(BundleError, match=f"{name}: holds NaN or infinity"):
        load_network(read_bundle(folder))
    resign(folder, {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(BundleError, match="do not fit the architecture"):
        load_network(read_bundle(folder))
    resign(folder, b"not safetensors")
    with pytest.raises(BundleError, match="is not a safetensors file"):
        load_network(read_bundle(folder))


def test_architectures_that_are_refused(folder: Path) -> None:
    for members in (
        {"architecture__name": "transformer"},
        {"architecture__arguments": {"depth": 3}},
        {"noise__placement": "nowhere"},
    ):
        before = (folder / MANIFEST).read_text()
        change(folder, **members)
        with pytest.raises(BundleError, match="architecture"):
            load_network(read_bundle(folder))
        (folder / MANIFEST).write_text(before)


def test_a_sensitivity_below_what_the_weights_allow_is_refused(tmp_path: Path) -> None:
    """The stated Δ is not believed: it is bounded again from the weights."""
    torch.manual_seed(0)
    description = {**DESCRIPTION, "noise": {**DESCRIPTION["noise"], "placement": "layer1"}}
    description["sensitivity"] = {**DESCRIPTION["sensitivity"], "value": 1e-3}
    manifest = Manifest.model_validate(description)
    save_network(tmp_path, manifest, build_network(manifest))
    with pytest.raises(BundleError, match="proven bound is") as caught:
        load_network(read_bundle(tmp_path))
    assert caught.value.field == "sensitivity.value"


def test_a_manifest_survives_writing(tmp_path: Path) -> None:
    manifest = Manifest.model_validate(DESCRIPTION)
    write_manifest(tmp_path, manifest)
    assert Manifest.model_validate_json((tmp_path / MANIFEST).read_text()) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def test_weights_that_change_after_reading_are_refused(folder: Path) -> None:
    bundle = read_bundle(folder)
    other = {name: tensor + 1 for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(other, folder / WEIGHTS)
    with pytest.raises(BundleError, match="has changed since the bundle was read"):
        load_network(bundle)

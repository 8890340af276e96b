"""``pixeldp sensitivity``, as people type it."""

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from models.bundle import ZOO, Manifest
from models.network import build_network, save_network
from models.sensitivity.modules import encoder_sensitivity
from service.cli.main import main
from tests.models.test_bundle import DESCRIPTION, RESIDUAL, change


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["sensitivity", *arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def make(folder: Path, description: dict[str, Any], stated: float | None) -> float:
    """Save a model that states ``stated``, or its proven bound; return the proven bound."""
    torch.manual_seed(0)
    manifest = Manifest.model_validate(description)
    network = build_network(manifest)
    spec = manifest.sensitivity
    proven = encoder_sensitivity(
        network.encoder, manifest.input.shape, spec.input_norm, spec.noise_norm
    ).value
    spec = spec.model_copy(update={"value": stated or proven})
    save_network(folder, manifest.model_copy(update={"sensitivity": spec}), network)
    return proven


def test_a_table_of_layers_with_their_product_beside_the_stated_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placed = {**DESCRIPTION, "noise": {**DESCRIPTION["noise"], "placement": "2"}}
    proven = make(tmp_path, placed, 20.0)
    status, out, err = run(capsys, str(tmp_path))
    assert (status, err) == (0, "")
    title, _, headings, *lines = out.splitlines()
    assert title == "tiny 1, noise placement 2"
    assert headings.split() == ["layer", "kind", "norms", "sensitivity", "method"]
    cells = [line.split() for line in lines]
    assert [row[:2] for row in cells[:3]] == [["0", "Conv2d"], ["1", "ReLU"], ["2", "Conv2d"]]
    assert all(row[2:5] == ["l2", "to", "l2"] for row in cells[:3])
    assert "largest singular value" in lines[0]
    assert "slope of the activation" in lines[1]
    assert prod(float(row[5]) for row in cells[:3]) == pytest.approx(proven, rel=1e-7)
    assert cells[3][:5] == ["product", "l2", "to", "l2", f"{proven:.9g}"]
    assert cells[4] == ["stated", "l2", "to", "l2", "20", "in", "the", "bundle"]


def test_the_paths_of_residual_sums_stand_below_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proven = make(tmp_path, RESIDUAL, None)
    _, out, _ = run(capsys, str(tmp_path))
    lines = out.splitlines()
    names = [line.split("  ")[0] for line in lines if "Conv2d" in line]
    assert names[0] == "stem.0, stem.1"
    inside = next(line for line in lines if "stage1.0.branch.0, stage1.0.branch.1" in line)
    assert inside.startswith("  ")
    assert any(line.startswith("  stage1.0.shortcut ") for line in lines)
    document = json.loads(run(capsys, str(tmp_path), "--json")[1])
    assert document["proven"] == document["stated"] == proven
    assert prod(layer["sensitivity"] for layer in document["layers"]) == proven
    sum_ = next(layer for layer in document["layers"] if layer["kind"] == "Residual")
    parts = [prod(layer["sensitivity"] for layer in path) for path in sum_["paths"]]
    assert sum(parts) == pytest.approx(sum_["sensitivity"])


def test_the_shipped_model_has_its_noise_in_the_image(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, str(ZOO / "mnist-cnn"))
    assert status == 0
    row, product, stated = (line.split() for line in out.splitlines()[-3:])
    assert row == ["g", "Identity", "l2", "to", "l2", "1", "identity"]
    assert product[4] == stated[4] == "1"


def test_a_bundle_that_states_too_little_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proven = make(tmp_path, RESIDUAL, None)
    change(tmp_path, sensitivity__value=proven / 2)
    status, out, err = run(capsys, str(tmp_path))
    assert (status, out) == (1, "")
    assert f"sensitivity.value: states {proven / 2}" in err
    assert f"proven bound is {proven}" in err
    assert err.count("\n") == 1


def test_folders_that_are_not_bundles_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, str(tmp_path))
    assert (status, out) == (1, "")
    assert "expected a folder with model.json" in err

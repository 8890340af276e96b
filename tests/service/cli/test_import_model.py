"""``pixeldp import``: what it prints, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from models import execution
from models.bundle import WEIGHTS, read_bundle
from models.data.datasets import load
from models.networks.foreign.python import ALLOWED
from models.training.loop import train
from models.training.recipe import find_recipe
from service.cli.main import main
from tests.models.importing import classifiers

Captured = pytest.CaptureFixture[str]
SMALL = f"{classifiers.__name__}:small"
NOISE = ["--scale", "0.25"]


@pytest.fixture(autouse=True)
def _nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "")


def test_a_python_function(tmp_path: Path, capsys: Captured) -> None:
    labels, picture, weights = (tmp_path / name for name in ("labels", "a.png", "net.safetensors"))
    labels.write_text("cat\ndog\n\nbird\nfish\n")
    Image.new("RGB", (20, 10), (10, 200, 30)).save(picture)
    state = classifiers.small().state_dict()
    state["head.bias"] += torch.tensor([0.0, 100.0, 0.0, 0.0])
    save_file(state, weights)
    out = tmp_path / "out"
    options = ["--labels", str(labels), "--picture", str(picture), "--weights", str(weights)]
    options += ["--input", "1x8x8", "--mean", "0.5", "--std", "0.25", "--name", "pets"]
    assert main(["import", SMALL, "--out", str(out), *NOISE, *options]) == 0
    said = capsys.readouterr()
    assert "pets, 4 labels, gaussian noise of scale 0.25 (image), sensitivity 1" in said.out
    assert "runs in float32 and bfloat16" in said.out
    assert "a.png: dog, certified against any change of l2 size 1.0" in said.out
    assert f"{ALLOWED}={classifiers.__name__}" in said.err
    manifest = read_bundle(out).manifest
    assert manifest.labels == ("cat", "dog", "bird", "fish")
    assert manifest.architecture.arguments["mean"] == [0.5]
    assert main(["evaluate", str(out), "--data", "digits"]) == 1
    assert "labels" in capsys.readouterr().err


@pytest.mark.slow
def test_samples_come_into_the_bundle(tmp_path: Path, capsys: Captured) -> None:
    folder, out = tmp_path / "own", tmp_path / "out"
    folder.mkdir()
    for name in ("b.png", "a.jpg", "a.png"):
        Image.new("RGB", (20, 10), (10, 200, 30)).save(folder / name)
    command = ["import", SMALL, "--out", str(out), *NOISE, "--input", "1x8x8", "--draws", "64"]
    assert main([*command, "--samples", str(folder)]) == 0
    bundle = read_bundle(out)
    assert bundle.samples == ["a.jpg", "a.png", "b.png"]
    assert bundle.sample("a.jpg") == (folder / "a.jpg").read_bytes()
    # A bundle that replaces another keeps none of its samples.
    assert main([*command, "--force"]) == 0
    assert read_bundle(out).samples == []
    capsys.readouterr()
    (folder / "c.png").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    wrong = {
        "own": "c.png: cannot be a sample of this model",
        "empty": "holds no pictures",
        "none": "is not a folder of pictures",
    }
    for name, complaint in wrong.items():
        other = tmp_path / "refused"
        command[3] = str(other)
        assert main([*command, "--samples", str(tmp_path / name)]) == 1
        assert complaint in capsys.readouterr().err
        assert not other.exists()


@pytest.mark.slow
def test_what_int8_costs_is_measured_on_a_data_set(tmp_path: Path, capsys: Captured) -> None:
    train(find_recipe("digits").changed(epochs=3), load("digits", None, "train"), tmp_path / "own")
    trained = load_file(tmp_path / "own" / WEIGHTS)
    state = {name.removeprefix("classifier."): value for name, value in trained.items()}
    save_file(state, tmp_path / "net.safetensors")
    command = ["import", f"{classifiers.__name__}:digits_cnn", *NOISE, "--input", "1x8x8"]
    command += ["--weights", str(tmp_path / "net.safetensors"), "--draws", "64", "--force"]
    command += ["--out", str(tmp_path / "out")]
    assert main([*command, "--data", "digits", "--split", "test"]) == 0
    said = capsys.readouterr().out
    assert "int8: on 297 pictures of digits (test) it loses " in said
    manifest = read_bundle(tmp_path / "out").manifest
    assert manifest.int8 is not None
    found = manifest.int8.record
    assert found is not None
    assert (found.max_draws, found.confidence, found.pictures) == (64, 0.95, 297)
    assert found.certified[0].float32 > 0.2, "there is something to lose"
    # Without a data set nothing is measured, and nothing is reported.
    assert main(command) == 0
    assert "int8: " not in capsys.readouterr().out
    assert read_bundle(tmp_path / "out").manifest.int8 is None


def test_a_data_set_of_something_else_is_refused(tmp_path: Path, capsys: Captured) -> None:
    command = ["import", SMALL, "--out", str(tmp_path / "out"), *NOISE, "--input", "1x8x8"]
    assert main([*command, "--labels", "cat,dog,bird,fish", "--data", "digits"]) == 1
    assert "(cat, dog, bird, fish; 4 in all)" in capsys.readouterr().err
    assert main([*command, "--data", "nope"]) == 1
    assert "no data set 'nope'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_labels_names_may_come_from_the_data_set(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without OpenVINO, that is the data set's only effect."""
    monkeypatch.setattr(execution, "find_spec", lambda name: None)
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)
    names = np.array(["cat", "dog", "bird", "fish"])
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(8) % 4, names=names)
    command = ["import", SMALL, "--out", str(tmp_path / "out"), *NOISE, "--input", "1x8x8"]
    assert main([*command, "--data", str(tmp_path / "own.npz"), "--draws", "64"]) == 0
    said = capsys.readouterr().out
    assert "int8: nothing was measured, so it does not serve by default: OpenVINO is not" in said
    manifest = read_bundle(tmp_path / "out").manifest
    assert manifest.labels == tuple(names)
    assert manifest.int8 is None


@pytest.mark.slow
def test_one_of_torchvisions(tmp_path: Path, capsys: Captured) -> None:
    weights = tmp_path / "net.pth"
    from models.networks.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()
    from torchvision.models import shufflenet_v2_x0_5

    torch.save(shufflenet_v2_x0_5(num_classes=3).state_dict(), weights)
    options = ["--labels", "a,b,c", "--input", "3x32x32", "--construction-bound", "0.1"]
    command = ["import", "shufflenet_v2_x0_5", "--out", str(tmp_path / "out"), *options]
    assert main([*command, "--weights", str(weights), "--draws", "64"]) == 0
    said = capsys.readouterr()
    assert "shufflenet_v2_x0_5, 3 labels, gaussian noise of scale 0.253727 (image)" in said.out
    # Only progress messages, on a slow machine.
    assert all(line.endswith(" …") for line in said.err.splitlines()), said.err
    manifest = read_bundle(tmp_path / "out").manifest
    assert manifest.architecture.arguments["mean"] == [0.485, 0.456, 0.406]
    bound = manifest.noise.construction_bound
    assert bound
    assert (bound.size, bound.epsilon, bound.delta) == (0.1, 1.0, 0.05)
    command[3] = str(tmp_path / "random")
    assert main([*command, "--draws", "64"]) == 0
    assert "its weights are random" in capsys.readouterr().err


@pytest.mark.parametrize("start", ["\ufeffcat\n", pytest.param("cat\r\n", marks=pytest.mark.slow)])
def test_labels_as_editors_save_them(tmp_path: Path, start: str) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_bytes(f"{start}dög\nbird\nfish".encode())
    options = ["--labels", str(labels), "--input", "1x8x8", "--draws", "64"]
    assert main(["import", SMALL, "--out", str(tmp_path / "out"), *NOISE, *options]) == 0
    assert read_bundle(tmp_path / "out").manifest.labels == ("cat", "dög", "bird", "fish")


@pytest.mark.parametrize(
    ("encoding", "complaint"),
    [
        ("latin-1", "is not UTF-8 (byte 0xf6 in line 2; Latin-1 or Windows-1252?)"),
        ("utf-16", "is UTF-16"),
    ],
)
def test_labels_in_another_encoding_are_refused(
    tmp_path: Path, capsys: Captured, encoding: str, complaint: str
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_bytes("cat\ndög\n".encode(encoding))
    options = ["--labels", str(labels), "--input", "1x8x8"]
    assert main(["import", SMALL, "--out", str(tmp_path / "out"), *NOISE, *options]) == 1
    said = capsys.readouterr().err
    assert f"{labels}: {complaint}" in said
    assert "save it as UTF-8" in said
    assert not (tmp_path / "out").exists()


def test_weights_of_something_larger(tmp_path: Path, capsys: Captured) -> None:
    state = classifiers.small().state_dict()
    named = {f"model._orig_mod.{name}": value for name, value in state.items()}
    torch.save({"state_dict": {**named, "loss.weight": torch.ones(4)}}, tmp_path / "last.ckpt")
    options = ["--weights", str(tmp_path / "last.ckpt"), "--input", "1x8x8", "--draws", "64"]
    assert main(["import", SMALL, "--out", str(tmp_path / "out"), *NOISE, *options]) == 0
    assert "left out of the weights, because they do not belong to the network: loss.weight" in (
        capsys.readouterr().err
    )
    imported = read_bundle(tmp_path / "out").manifest.training["imported"]
    assert imported["left_out"] == ["loss.weight"]


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["resnet", *NOISE], 1, "'resnet' is not a classifier"),
        (["missing.pt2", *NOISE], 1, "missing.pt2: cannot be imported"),
        (["resnet18", *NOISE, "--weights", "missing.pth"], 1, "missing.pth: cannot be read"),
        ([SMALL, *NOISE], 1, "does not define its input"),
        ([SMALL, *NOISE, "--input", "8x8"], 2, "expected channels x height x width"),
        ([SMALL, *NOISE, "--input", "1x8x8", "--mean", "a"], 2, "--mean: expected numbers"),
        ([SMALL, *NOISE, "--input", "1x8x8", "--labels", "cat"], 1, "there is no file cat"),
        ([SMALL, *NOISE, "--input", "1x8x8", "--labels", "a,b"], 1, "returns 4 logits"),
        ([SMALL, *NOISE, "--input", "1x8x8", "--labels", "a,a,b,c"], 1, "labels must differ"),
        ([SMALL, *NOISE, "--input", "1x8x8", "--name", "No"], 1, "name: "),
        ([SMALL, *NOISE, "--input", "1x8x8", "--mean", "123.7"], 1, "by 255 (mean 0.4851)"),
        ([SMALL, *NOISE, "--input", "1x8x8", "--std", "58"], 1, "by 255 (std 0.2275)"),
        ([SMALL, "--scale", "0", "--input", "1x8x8"], 1, "greater than 0"),
        ([SMALL, "--input", "1x8x8"], 1, "either the noise's scale or a construction bound"),
        ([SMALL, *NOISE, "--epsilon", "1"], 1, "belong to --construction-bound"),
        ([SMALL, "--construction-bound", "-1"], 1, "construction bound: size: "),
        (
            [SMALL, "--mechanism", "laplace", "--construction-bound", "1", "--delta", "0.1"],
            1,
            "Laplace noise has no --delta",
        ),
        ([SMALL, *NOISE, "--denoiser", "missing"], 1, "missing/model.json"),
        ([f"{SMALL}er", *NOISE, "--input", "1x8x8"], 1, "cannot be imported"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, capsys: Captured, arguments: list[str], status: int, complaint: str
) -> None:
    assert main(["import", *arguments, "--out", str(tmp_path / "out")]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert complaint in captured.err
    assert not (tmp_path / "out").exists()

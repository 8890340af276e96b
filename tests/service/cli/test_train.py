"""``pixeldp train``: noise by options, pictures held out, denoisers."""

from pathlib import Path

import numpy as np
import pytest

from models import execution
from models.bundle import SAMPLES, ZOO, Manifest, read_bundle
from models.certification.question import Question
from models.data.datasets import load
from models.evaluation.pairs import compare_int8
from models.loaded import load_model
from models.samples import collect_samples, shipped_samples
from service.cli.main import main
from tests.e2e.test_page_samples import shows

Captured = pytest.CaptureFixture[str]
INT8 = ["train", "digits", "--epochs", "2"]


def trained(out: Path, *options: str) -> Manifest:
    assert main(["train", "digits", "--out", str(out), "--epochs", "1", "--no-int8", *options]) == 0
    return read_bundle(out).manifest


def test_the_noise_can_be_set(tmp_path: Path) -> None:
    manifest = trained(tmp_path / "scale", "--scale", "0.4", "--placement", "layer1")
    assert (manifest.noise.scale, manifest.noise.placement) == (0.4, "layer1")
    manifest = trained(tmp_path / "laplace", "--mechanism", "laplace")
    assert (manifest.noise.mechanism, manifest.sensitivity.input_norm) == ("laplace", "l1")
    manifest = trained(tmp_path / "norm", "--norm", "linf", "--placement", "layer1")
    assert (manifest.sensitivity.input_norm, manifest.sensitivity.noise_norm) == ("linf", "l2")
    bound = ["--construction-bound", "0.2", "--epsilon", "0.5", "--delta", "0.01"]
    manifest = trained(tmp_path / "bound", *bound)
    assert manifest.noise.scale == pytest.approx(0.2 / 0.5 * (2 * 4.8283137) ** 0.5)
    stated = manifest.noise.construction_bound
    assert stated is not None
    assert (stated.size, stated.epsilon, stated.delta) == (0.2, 0.5, 0.01)
    assert manifest.training["recipe"]["scale"] is None


def test_samples_come_into_the_bundle(tmp_path: Path, capsys: Captured) -> None:
    trained(tmp_path / "without")
    assert read_bundle(tmp_path / "without").samples == []
    shipped = ZOO / "mnist-cnn" / SAMPLES
    trained(tmp_path / "with", "--samples", str(shipped))
    bundle = read_bundle(tmp_path / "with")
    assert bundle.samples == read_bundle(ZOO / "mnist-cnn").samples
    assert all(bundle.sample(name) == (shipped / name).read_bytes() for name in bundle.samples)
    capsys.readouterr()
    command = ["train", "digits", "--out", str(tmp_path / "none"), "--samples", str(tmp_path)]
    assert main(command) == 1
    assert "is not a regular file" in capsys.readouterr().err
    assert not (tmp_path / "none").exists(), "refused before anything is trained"


def test_named_data_sets_bring_samples_of_their_labels() -> None:
    for dataset in ("mnist", "cifar10"):
        folder = shipped_samples(dataset)
        assert folder
        labels = read_bundle(folder.parent).manifest.labels
        assert all(shows(name, labels) for name in collect_samples(folder))
    for dataset in ("digits", "svhn", "cifar100", "mine.npz"):
        assert shipped_samples(dataset) is None


def test_held_out_pictures_show_the_progress(tmp_path: Path, capsys: Captured) -> None:
    manifest = trained(tmp_path / "out", "--held-out", "40", "--epochs", "12")
    lines = capsys.readouterr().err.splitlines()
    assert all("held out: accuracy" in line for line in lines)
    assert "certified at l2 >= 0.125: " in lines[-1]
    held_out = manifest.training["held_out"]
    assert held_out["pictures"] == 40
    assert held_out["accuracy"] > 0.6
    assert 0.2 < held_out["certified"] <= held_out["accuracy"]
    assert manifest.training["data"]["pictures"] == 1460


def test_what_int8_costs_is_measured_on_pictures_held_out(tmp_path: Path, capsys: Captured) -> None:
    """The record is the same as from an evaluation of these pictures."""
    assert main([*INT8, "--out", str(tmp_path), "--held-out", "40"]) == 0
    said = capsys.readouterr().out
    assert "; int8: on 40 pictures of digits (held out) it loses " in said
    assert "it does not serve by default: 500 pictures are needed" in said
    bundle = read_bundle(tmp_path)
    spec = bundle.manifest.int8
    assert spec is not None
    assert not spec.serves
    held_out = load("digits", None, "train").apart(40)[1]
    question = Question(0.999, 1000, None, "l2")
    radii = (0.0625, 0.125, 0.25)
    name = "digits (held out)"
    assert spec == compare_int8(load_model(bundle), held_out, question, radii, dataset=name)
    found = spec.record
    assert found is not None
    assert found.certified[0].float32 > 0.2, "there is something to lose"


def test_what_int8_costs_is_measured_on_the_test_part_if_there_is_one(
    tmp_path: Path, capsys: Captured
) -> None:
    for part, count in (("train", 30), ("test", 7)):
        images, labels, names = (
            np.random.default_rng(count).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8),
            np.arange(count) % 3,
            np.array(["a", "b", "c"]),
        )
        np.savez(tmp_path / f"{part}.npz", images=images, labels=labels, names=names)
    out = tmp_path / "out"
    assert main([*INT8, "--data", str(tmp_path), "--out", str(out)]) == 0
    assert f"int8: on 7 pictures of {tmp_path} (test)" in capsys.readouterr().out
    # These pictures are all for training.
    own = str(tmp_path / "train.npz")
    assert main([*INT8, "--data", own, "--out", str(tmp_path / "own")]) == 0
    said = capsys.readouterr().out
    assert "; int8: nothing was measured, so it does not serve by default: no pictures" in said
    assert "--held-out 500" in said
    assert "pixeldp evaluate --write" in said
    assert read_bundle(tmp_path / "own").manifest.int8 is None


def test_without_openvino_training_says_that_nothing_is_known_of_int8(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "find_spec", lambda name: None)
    assert main([*INT8, "--out", str(tmp_path / "without")]) == 0
    said = capsys.readouterr().out
    assert "int8: nothing was measured" in said
    assert "OpenVINO is not installed: install pixeldp[openvino]; pixeldp evaluate --write" in said
    assert read_bundle(tmp_path / "without").manifest.int8 is None
    assert main([*INT8, "--out", str(tmp_path / "forbidden"), "--no-int8"]) == 0
    assert "int8" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_denoiser_in_front_of_a_bundle(tmp_path: Path, capsys: Captured) -> None:
    trained(tmp_path / "plain", "--undefended")
    options = ["--denoiser", str(tmp_path / "plain"), "--out", str(tmp_path / "denoised")]
    assert main(["train", "digits-denoiser", *options, "--epochs", "1", "--scale", "0.3"]) == 0
    assert "digits-denoiser, gaussian noise of scale 0.3 (image)" in capsys.readouterr().out
    manifest = read_bundle(tmp_path / "denoised").manifest
    assert manifest.architecture.name == "denoised"
    assert manifest.training["classifier"]["name"] == "digits-undefended"
    assert manifest.int8 is not None
    assert manifest.int8.record is not None
    # The test part has other labels than the classifier's own.
    assert (manifest.int8.record.dataset, manifest.int8.record.pictures) == (
        "digits (held out)",
        50,
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["digits", "--scale", "0.1", "--construction-bound", "0.1"], "not both"),
        (["digits", "--delta", "0.1"], "belong to --construction-bound"),
        (["digits", "--undefended", "--scale", "0.1"], "omit the noise's options"),
        (["digits", "--scale", "0"], "scale: "),
        (["digits", "--held-out", "1500"], "cannot hold 1500 of 1500"),
        (["digits-denoiser"], "name the classifier behind it (--denoiser)"),
        (["digits", "--placement", "nowhere"], "no module 'nowhere'"),
        (["imagenet-autoencoder"], "imagenet needs the folder that holds it"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, capsys: Captured, arguments: list[str], complaint: str
) -> None:
    assert main(["train", *arguments, "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert complaint in captured.err

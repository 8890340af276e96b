"""``pixeldp train``: noise by options, pictures held out, denoisers."""

from pathlib import Path

import pytest

from models.bundle import SAMPLES, ZOO, Manifest, read_bundle
from models.samples import collect_samples, shipped_samples
from service.cli.main import main
from tests.e2e.test_page_samples import shows

Captured = pytest.CaptureFixture[str]


def trained(out: Path, *options: str) -> Manifest:
    assert main(["train", "digits", "--out", str(out), "--epochs", "1", *options]) == 0
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


def test_a_denoiser_in_front_of_a_bundle(tmp_path: Path, capsys: Captured) -> None:
    trained(tmp_path / "plain", "--undefended")
    options = ["--denoiser", str(tmp_path / "plain"), "--out", str(tmp_path / "denoised")]
    assert main(["train", "digits-denoiser", *options, "--epochs", "1", "--scale", "0.3"]) == 0
    assert "digits-denoiser, gaussian noise of scale 0.3 (image)" in capsys.readouterr().out
    manifest = read_bundle(tmp_path / "denoised").manifest
    assert manifest.architecture.name == "denoised"
    assert manifest.training["classifier"]["name"] == "digits-undefended"


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

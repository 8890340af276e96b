import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from models.bundle import read_bundle
from service.cli.main import app, main

SEVEN = Path(__file__).parents[3] / "examples" / "7.png"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle trained by the command."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    options = ["--epochs", "6", "--seed", "3", "--threads", "1", "--name", "tried", "--no-int8"]
    assert main(["train", "digits", "--out", str(folder), *options]) == 0
    return folder


def test_train_makes_a_bundle_with_the_given_options(bundle: Path) -> None:
    manifest = read_bundle(bundle).manifest
    assert manifest.name == "tried"
    recipe = manifest.training["recipe"]
    assert (recipe["epochs"], recipe["seed"], recipe["threads"]) == (6, 3, 1)


def test_train_reports_the_outcome(tmp_path: Path, capsys: Captured) -> None:
    assert main(["train", "digits", "--out", str(tmp_path), "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "gaussian noise of scale 0.25 (image), sensitivity 1 from l2 to l2 (identity)" in said


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_train_in_the_given_number_format(tmp_path: Path, precision: str) -> None:
    options = ["--epochs", "1", "--precision", precision, "--no-int8"]
    assert main(["train", "digits", "--out", str(tmp_path), *options]) == 0
    assert read_bundle(tmp_path).manifest.training["recipe"]["precision"] == precision


def test_train_on_pictures_of_ones_own(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (60, 9, 7, 3), dtype=np.uint8)
    file = tmp_path / "own.npz"
    np.savez(file, images=images, labels=np.arange(60) % 3, names=np.array(["a", "b", "c"]))
    out = tmp_path / "own"
    options = ["--data", str(file), "--epochs", "1", "--name", "mine", "--version", "7"]
    assert main(["train", "digits", "--out", str(out), *options]) == 0
    manifest = read_bundle(out).manifest
    assert (manifest.name, manifest.version) == ("mine", "7")
    assert manifest.input.shape == (3, 9, 7)
    assert manifest.labels == ("a", "b", "c")
    assert main(["evaluate", str(out), "--data", str(file), "--every", "30", "--draws", "64"]) == 0


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (
            ["train", "vgg", "--out", "OUT"],
            1,
            "no recipe 'vgg'; known: mnist-cnn, ",
        ),
        (["train", "mnist-cnn", "--out", "OUT"], 1, "mnist needs the folder that holds it"),
        (["train", "mnist-cnn", "--out", "OUT", "--root", "OUT"], 1, "MNIST files are missing"),
        (["train", "digits", "--out", "OUT", "--epochs", "0"], 1, "epochs: "),
        (["train", "digits", "--out", "OUT", "--version", "1.2"], 1, "version: "),
        (["train", "digits", "--out", "OUT", "--data", "nope"], 1, "no data set 'nope'"),
        (["train", "digits"], 2, "Missing option '--out'"),
        (["train", "digits", "--out", "OUT", "--epochs", "many"], 2, "'--epochs': Input should be"),
        (["fly"], 2, "No such command 'fly'; pixeldp --help lists what there is"),
        (["--fly"], 2, "No such option: --fly; pixeldp --help lists what there is"),
        (["train", "--fly"], 2, "pixeldp train --help lists what there is"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, capsys: Captured, arguments: list[str], status: int, complaint: str
) -> None:
    out = str(tmp_path / "out")
    assert main([out if part == "OUT" else part for part in arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pixeldp: ")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err


def test_a_finished_bundle_is_not_overwritten(bundle: Path, capsys: Captured) -> None:
    assert main(["train", "digits", "--out", str(bundle)]) == 1
    assert "holds a finished bundle; --force replaces it" in capsys.readouterr().err


def test_a_finished_bundle_is_replaced_by_force(tmp_path: Path) -> None:
    for version in ("1", "2"):
        options = ["--epochs", "1", "--version", version, "--force", "--no-int8"]
        assert main(["train", "digits", "--out", str(tmp_path), *options]) == 0
        assert read_bundle(tmp_path).manifest.version == version


def test_train_without_noise(tmp_path: Path, capsys: Captured) -> None:
    options = ["--epochs", "1", "--undefended"]
    assert main(["train", "digits", "--out", str(tmp_path), *options]) == 0
    assert "digits-undefended, gaussian noise of scale 1e-06 (image)" in capsys.readouterr().out


def test_help_needs_no_torch() -> None:
    program = (
        "import sys; from service.cli.main import main; status = main(['--help']); "
        "sys.exit(status or 'torch' in sys.modules or 'pydantic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True
    )
    assert "train" in done.stdout
    assert "evaluate" in done.stdout


def test_without_a_command_it_shows_help_as_an_error(capsys: Captured) -> None:
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_an_option_means_the_same_in_every_command() -> None:
    meant: dict[str, dict[str, set[Any]]] = {}
    for command in app.registered_commands:
        assert command.callback is not None
        for option, kind in get_type_hints(command.callback).items():
            kinds = set(get_args(kind) or (kind,)) - {type(None)}
            meant.setdefault(option, {})[command.callback.__name__] = kinds
    for option in ("data", "root", "version", "force", "device", "download", "threads"):
        first, *others = meant[option].values()
        assert others, f"only one command has {option}"
        assert all(kinds == first for kinds in others), meant[option]


def test_every_command_that_runs_a_network_has_the_option_device() -> None:
    found = {}
    for command in app.registered_commands:
        assert command.callback is not None
        hints = get_type_hints(command.callback, include_extras=True)
        # That of plan is the name of a machine, and nothing runs there.
        if "device" in hints and command.callback.__name__ != "plan":
            found[command.callback.__name__.strip("_")] = hints["device"]
    assert sorted(found) == ["compare", "evaluate", "import", "predict", "train"]
    assert all(hint == found["train"] for hint in found.values())


def test_train_on_a_device(tmp_path: Path) -> None:
    options = ["--epochs", "1", "--device", "cpu", "--no-int8"]
    assert main(["train", "digits", "--out", str(tmp_path), *options]) == 0
    assert read_bundle(tmp_path).manifest.training["device"] == "cpu"


def test_every_command_accepts_names_of_the_zoo(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of that name takes precedence, whatever it holds."""
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28, 1), dtype=np.uint8)
    names = np.array([str(number) for number in range(10)])
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(10), names=names)
    monkeypatch.chdir(tmp_path)
    options = ["--data", "own.npz", "--every", "10", "--draws", "64"]
    commands = {
        "evaluate": ["evaluate", "mnist-cnn", *options],
        "baseline": ["evaluate", "mnist-cnn", *options, "--baseline", "mnist-cnn"],
        "predict": ["predict", str(SEVEN), "--model", "mnist-cnn", "--max-draws", "64"],
        "sensitivity": ["sensitivity", "mnist-cnn"],
        "models": ["models", "mnist-cnn"],
    }
    for command, line in commands.items():
        assert main(line) == 0, command
        assert capsys.readouterr().out, command
    denoiser = ["train", "digits-denoiser", "--denoiser", "mnist-cnn", "--out", "out"]
    assert main(denoiser) == 1
    assert "zoo/mnist-cnn takes [1, 28, 28]" in capsys.readouterr().err
    front = ["import", "resnet18", "--denoiser", "mnist-cnn", "--out", "out", "--input", "3x28x28"]
    assert main(front) == 1
    assert "zoo/mnist-cnn holds no denoiser" in capsys.readouterr().err
    (tmp_path / "mnist-cnn").mkdir()
    for command, line in {**commands, "denoiser": denoiser, "front": front}.items():
        assert main(line) == 1, command
        assert capsys.readouterr().err.startswith("pixeldp: mnist-cnn"), command

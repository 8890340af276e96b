"""Invalid command lines are refused before anything slow is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Packages that take seconds to import on a slow machine, and are not needed for these errors.
SLOW = ("torch", "torchvision", "fastapi", "sklearn", "uvicorn")
SOME = ["--scale", "0.1", "--out", "OUT"]

WRONG = {
    "train nope --out OUT": "no recipe 'nope'; known: mnist-cnn",
    "train mnist-cn --out OUT": "did you mean mnist-cnn?",
    "train digits --out OUT --epochs 0": "epochs: Input should be greater than",
    "train digits --out OUT --scale -1": "scale: ",
    "train digits --out OUT --version x": "version: ",
    "train digits --out OUT --device tpu": "device 'tpu' cannot be used: expected",
    "train digits --out OUT --denoiser nope": "nope/model.json",
    "train digits --out OUT --denoiser mnist-cnn": "omit --denoiser",
    "train digits-denoiser --out OUT": "name the classifier behind it",
    "train digits --out BUNDLE": "--force replaces it",
    "train digits --out UNFINISHED": "--resume continues it",
    "train digits --out OUT --data OWN --held-out 3": "cannot hold 3 of 3",
    "train mnist-cnn --out OUT": "--root FOLDER",
    "train mnist-cnn --out OUT --root OUT": "MNIST files are missing",
    "train svhn-resnet --out OUT --root OUT": "SVHN files are missing",
    "train cifar10-resnet --out OUT --root OUT": "CIFAR10 files are missing",
    "train imagenet-autoencoder --out OUT": "imagenet needs the folder that holds it",
    "train mnist-cnn --out OUT --data ROOT": "--data cifar10 --root ROOT or --data mnist",
    "train mnist-cnn --out OUT --data minst": "did you mean mnist?",
    "evaluate nope --data mnist": "expected a folder with model.json, or one of the shipped models",
    "evaluate mnist-cnn --data nope": "no data set 'nope'",
    "evaluate mnist-cnn --data ROOT": "--data mnist --root ROOT",
    "evaluate mnist-cnn --data mnist --radii 0": "radii must be above 0",
    "evaluate mnist-cnn --data mnist --radii a": "expected numbers separated by commas",
    "evaluate mnist-cnn --data mnist --attack foo": "no attack 'foo'; known: pgd, ",
    "evaluate mnist-cnn --data mnist --confidence 2": "confidence must lie between",
    "evaluate mnist-cnn --data mnist --device cuda0": "device 'cuda0' cannot be used: expected",
    "evaluate mnist-cnn --data mnist --write": "comes with the project; copy it first",
    "evaluate cifar10-resnet --data OWN": "are not those of cifar10-resnet",
    "evaluate mnist-cnn --data OWN --baseline cifar10-resnet": "labels",
    "import resnet5 SOME": "did you mean resnet50?",
    "import resnet50 --out OUT": "give either the noise's scale or a construction bound",
    "import resnet50 SOME --weights nope.pth": "nope.pth: cannot be read as weights",
    "import resnet50 SOME --name A": "name: ",
    "import resnet50 SOME --version A": "version: ",
    "import resnet50 SOME --mean 0.5": "expected one number for each of 3 channels",
    "import resnet50 SOME --labels a,a": "'a' is given twice",
    "import resnet50 SOME --input 3x0x2": "no picture has a side of 0",
    "import resnet50 SOME --picture nope.png": "nope.png: ",
    "import resnet50 SOME --denoiser nope": "nope/model.json",
    "import resnet50 --out OUT --denoiser mnist-cnn": "holds no denoiser",
    "import resnet50 SOME --device mps": "device 'mps' cannot be used: expected",
    "import resnet50 --scale 0 --out OUT": "noise.scale: ",
    "import resnet50 --scale 0.1 --out BUNDLE": "--force replaces it",
    "import a:b SOME": "does not define its input",
    "import a.py:b SOME --input 1x8x8": "there is no file a.py",
    "import timm:B SOME": "timm has no classifier 'B'",
    "import hf:nope SOME": "there is no folder nope",
    "import onnx:a.onnx SOME": "give the file itself: a.onnx",
    "import nope.pt2 SOME": "nope.pt2: cannot be imported",
    "sensitivity nope": "nope/model.json",
    "predict nope.png": "nope.png: No such file",
    "predict BUNDLE": "no picture files here",
    "predict nope.png --model digits": "digits/model.json",
    "evaluate mnist-cnn --data digits --certificate renyi": "--certificate needs --certified",
    "predict nope.png --confidence 1": "confidence is 1, but mnist-cnn",
    "predict nope.png --max-draws 1": "max_draws must be at least 64",
    "predict nope.png --device gpu": "device 'gpu' cannot be used: expected",
    "models nope": "no bundle here",
    "serve --port 99999": "--port is '99999'",
    "serve nope": "families, which are served: cifar10, mnist",
    "serve mnist-cnn mnist-cnn": "is already served from another folder",
    "serve --host 0.0.0.0": "other machines could use the service",
    "serve --zzz": "lists what there is: --compile, --devices, ",
    "serve --prot 1": "Possible options: --host, --port",
    "fly": "lists what there is: serve, ",
    "evaluat mnist-cnn": "Did you mean 'evaluate'",
    "keys zz": "lists what there is: add, list, remove",
    "predict a.png --norm l3": "'--norm': 'l3' is not one of 'l1', 'l2', 'linf'",
}

PROGRAM = f"""
import contextlib, io, json, sys
from service.cli.main import main
for line in json.load(sys.stdin):
    before = set(sys.modules)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = main(line)
    slow = [name for name in {SLOW} if name in sys.modules and name not in before]
    print(json.dumps([status, said.getvalue(), slow]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, list[str]]]:
    """The answer to each command line, and the slow packages that it imported, in one process."""
    folder = tmp_path_factory.mktemp("errors")
    places = {name: folder / name for name in ("OUT", "BUNDLE", "UNFINISHED", "ROOT", "OWN.npz")}
    for name, inside in (
        ("BUNDLE", "model.json"),
        ("UNFINISHED", "checkpoint.json"),
        ("ROOT", "MNIST/raw/any"),
        ("ROOT", "cifar10/train.npz"),
    ):
        file = places[name] / inside
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    images = np.zeros((3, 28, 28, 1), dtype=np.uint8)
    names = np.array([str(number) for number in range(10)])
    np.savez(places["OWN.npz"], images=images, labels=np.arange(3), names=names)
    words = {name.removesuffix(".npz"): [str(place)] for name, place in places.items()}
    words["SOME"] = [words["OUT"][0] if word == "OUT" else word for word in SOME]
    lines = [[out for word in line.split() for out in words.get(word, [word])] for line in WRONG]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=300,
        check=True,
    )
    found = (json.loads(line) for line in done.stdout.splitlines())
    return {
        line: (status, said.replace(f"{folder}/", ""), slow)
        for line, (status, said, slow) in zip(WRONG, found, strict=True)
    }


@pytest.mark.parametrize("line", WRONG)
def test_invalid_command_lines_are_refused_at_once(
    answers: dict[str, tuple[int, str, list[str]]], line: str
) -> None:
    status, said, slow = answers[line]
    assert slow == []
    assert status in (1, 2)
    assert said.startswith("pixeldp: ")
    assert said.count("\n") == 1
    assert WRONG[line] in said


def test_refusing_a_device_of_another_build_needs_no_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from service.cli.main import main
    from service.system import devices

    monkeypatch.setattr(devices, "built_for_cuda", lambda: False)
    for command in (
        ["train", "digits", "--out", "nowhere"],
        ["evaluate", "mnist-cnn", "--data", "digits"],
        ["import", "resnet18", "--out", "nowhere", "--scale", "0.1"],
        ["predict", "a.png"],
    ):
        for name in ("cuda", "cuda:0"):
            assert main([*command, "--device", name]) == 1
            said = capsys.readouterr().err
            assert f"device {name!r} cannot be used here (the installed PyTorch" in said

"""Classifiers built by code in the user's own folder are imported, evaluated and served there.

The folder is hostile: it has packages named like the project's, and modules named like those that
the project needs.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from models.bundle import read_bundle
from models.networks.foreign.python import ALLOWED
from service.cli.main import INTERRUPTED
from tests.e2e.conftest import Service

pytestmark = pytest.mark.slow

# torchvision's import fails unless its operators are declared first.
CODE = """
import torchvision
from torch import nn
import beside

def build():
    with open("calls", "a") as calls:
        calls.write("x")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, beside.LABELS))
"""
OPTIONS = ["--input", "1x8x8", "--scale", "0.25", "--draws", "64"]
BAD = "raise RuntimeError('the wrong module was imported')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "beside.py").write_text("LABELS = 3\n")
    for name in ("models", "service", "torch", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(BAD)
    (tmp_path / "scipy.py").write_text(BAD)
    return tmp_path


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != ALLOWED}
    return {**kept, **changes}


def run(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("pixeldp")), *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment(**changes)
    )


@pytest.mark.parametrize("source", ["mine:build", "mine.py:build", "./mine.py:build"])
def test_import_evaluate_and_serve(folder: Path, source: str) -> None:
    done = run(folder, "import", source, "--out", "out", "--name", "mine", *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "mine, 3 labels" in done.stdout
    assert "random ones, unless that loads some" in done.stderr
    # Once when the bundle is made, and once as it will be served.
    assert (folder / "calls").read_text() == "xx"
    code = "mine" if source == "mine:build" else str(folder / "mine.py")
    assert f"{ALLOWED}={code} set" in done.stderr
    manifest = read_bundle(folder / "out").manifest
    assert manifest.architecture.arguments["builder"] == f"{code}:build"
    assert manifest.training["imported"]["weights"] == "its own"

    few = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    np.savez(folder / "few.npz", images=few, labels=np.arange(6) % 3)
    measure = ["evaluate", "out", "--data", "few.npz", "--draws", "64"]
    refused = run(folder, *measure)
    assert refused.returncode == 1
    assert f"set {ALLOWED}={code}" in refused.stderr
    done = run(folder, *measure, **{ALLOWED: code})
    assert done.returncode == 0, done.stderr

    Image.fromarray(few[0, :, :, 0]).save(folder / "a.png")
    settings = {"PIXELDP_DEVICES": "cpu", ALLOWED: code}
    service = Service(str(folder / "out"), environment=settings, folder=folder).wait_ready()
    raw = {"Content-Type": "image/png"}
    content = (folder / "a.png").read_bytes()
    reply = httpx.post(f"{service.address}/predict?max_draws=64", content=content, headers=raw)
    assert service.stop() == 0
    assert reply.json()["model"]["name"] == "mine"


@pytest.mark.parametrize(
    ("files", "source", "complaint"),
    [
        ({}, "models.net:build", "PixelDP itself has a package models"),
        (
            {"own.py": "from models import resnet\n"},
            "own:build",
            "PixelDP itself has a package models",
        ),
        ({"own.py": "import models.net\n"}, "own.py:build", "export the network by torch.export"),
        ({"timm.py": CODE}, "timm:Build", "timm has no classifier 'Build'"),
        ({"onnx.py": CODE}, "onnx:net.onnx", "give the file itself: net.onnx"),
        ({}, "hf:microsoft/resnet-50", "there is no folder microsoft/resnet-50"),
        ({}, "cohen:net.tar", "there is no file net.tar"),
        ({}, "absent:build", "and in the current folder"),
        ({}, "absent.py:build", "there is no file absent.py"),
        ({}, "mine:absent", "cannot be imported (mine has no absent)"),
        ({"own.py": "raise SystemExit(3)\n"}, "own:build", "SystemExit: 3"),
        ({"own.py": "def build(:\n"}, "own:build", "SyntaxError"),
        ({"own.py": "def build():\n    exit(3)\n"}, "own:build", "failed: SystemExit"),
    ],
)
def test_refusals_are_one_line(
    folder: Path, files: dict[str, str], source: str, complaint: str
) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    done = run(folder, "import", source, "--out", "runs/out", *OPTIONS)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("pixeldp: ")
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr
    assert not (folder / "runs").exists()
    assert not [entry for entry in folder.iterdir() if entry.name.startswith(".")]


def test_a_module_named_like_a_kind_of_source_is_found_by_its_file(folder: Path) -> None:
    (folder / "timm.py").write_text(CODE)
    done = run(folder, "import", "timm.py:build", "--out", "out", *OPTIONS)
    assert done.returncode == 0, done.stderr


def test_force_repeats_a_trial_and_an_interrupted_one_leaves_nothing(folder: Path) -> None:
    again = ["import", "mine:build", "--out", "runs/out", *OPTIONS]
    assert run(folder, *again).returncode == 0
    first = read_bundle(folder / "runs" / "out").digest
    refused = run(folder, *again)
    assert refused.returncode == 1
    assert "--force replaces it" in refused.stderr
    assert read_bundle(folder / "runs" / "out").digest == first
    assert run(folder, *again, "--force").returncode == 0
    assert read_bundle(folder / "runs" / "out").digest != first

    (folder / "slow.py").write_text(
        "import time\nfrom torch import nn\n\ndef build():\n    open('began', 'a').write('x')\n"
        "    if open('began').read() == 'xx':\n        time.sleep(600)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    command = [str(Path(sys.executable).with_name("pixeldp"))]
    command += ["import", "slow:build", "--out", "other/out", *OPTIONS]
    process = subprocess.Popen(command, cwd=folder, env=environment())
    try:
        began = folder / "began"
        while process.poll() is None and (not began.exists() or began.read_text() != "xx"):
            time.sleep(0.05)
        assert any(entry.name.startswith(".out.") for entry in folder.iterdir())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == INTERRUPTED
    finally:
        process.kill()
        process.wait()
    assert not any(entry.name.startswith(".out.") for entry in folder.iterdir())
    assert not (folder / "other").exists()

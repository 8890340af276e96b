"""A network of an operator's own code, which does what files beside it say: hold, or fail.

Whatever a test does while a picture is drawn for, is so done in time on every machine.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.networks.foreign.python import ALLOWED
from tests.e2e.conftest import PLAIN, Service

CODE = '''
from pathlib import Path
from time import sleep

import torch
from torch import nn

HOLD, FAIL, FULL = (Path(__file__).with_name(name) for name in ("hold", "fail", "full"))
HELD = Path(__file__).with_name("held")
FAILED = Path(__file__).with_name("failed")


class Brightness(nn.Module):
    """Tells dark (0) from bright (1)."""

    passes = 0

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        self.passes = self.passes + 1 if HOLD.exists() else 0
        while self.passes > 8 and HOLD.exists():
            HELD.touch()
            sleep(0.01)
        if FAIL.exists() and (mean > 0.9).any():
            with FAILED.open("a") as file:
                file.write(f"{int((mean < 0.9).sum())}\\n")
            raise ArithmeticError("too bright")
        if FULL.exists():
            FULL.unlink()
            raise MemoryError
        return 100 * torch.stack([0.5 - mean, mean - 0.5], 1)


def build():
    return Brightness()
'''


class OwnNetwork:
    """The network's bundle, and the files that steer it."""

    def __init__(self, folder: Path, code: str = CODE) -> None:
        self._folder = folder
        self.code = folder / "own.py"
        self.code.write_text(code)
        self.bundle = folder / "bundle"
        command = [sys.executable, "-P", "-m", "service.cli.main", "import", f"{self.code}:build"]
        options = ["--input", "1x8x8", "--scale", "0.25", "--draws", "64"]
        done = subprocess.run(
            [*command, "--out", str(self.bundle), "--name", "own", *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def serve(self, **environment: str) -> Service:
        """Start a service of one worker, which is not given up while it is held."""
        settings = {
            **PLAIN,
            ALLOWED: str(self.code),
            "PIXELDP_COMPILE": "false",
            "PIXELDP_STALL_SECONDS": "3600",
            "PIXELDP_CHECK_SECONDS": "0",  # a check's passes would be counted, too
            **environment,
        }
        return Service(str(self.bundle), environment=settings).wait_ready()

    def say(self, name: str) -> None:
        """Have it ``hold`` after some passes, ``fail`` at bright pictures, or once be ``full``."""
        (self._folder / name).touch()

    def unsay(self, *names: str) -> None:
        """Take that back."""
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    @property
    def holds(self) -> bool:
        """Whether it has held a pass since that was taken back."""
        return (self._folder / "held").exists()

    @property
    def neighbours(self) -> list[int]:
        """In each pass at which it failed, how many rows were not of bright pictures."""
        path = self._folder / "failed"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def picture(folder: Path, grey: int) -> bytes:
    """Return a picture file of one grey."""
    path = folder / f"{grey}.png"
    Image.fromarray(np.full((8, 8), grey, np.uint8)).save(path)
    return path.read_bytes()


def numbers(text: str, name: str) -> list[Any]:
    """Return the values of a metric."""
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return [float(line.split()[-1]) for line in lines]

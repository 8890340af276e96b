"""A network made of an operator's own code, which holds or fails as files beside it say.

A test can thus act while draws are made for a picture, however fast the machine is.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from models.networks.foreign.python import ALLOWED
from tests.e2e.conftest import PLAIN, START_SECONDS, Service, Start

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

    def serve(self, start: Start, **environment: str) -> Service:
        """Start a service with one worker, which is not given up while its network holds."""
        settings = {
            **PLAIN,
            # The first look comes at 160 draws at the latest. The network holds after 8 passes, or
            # 512 draws, and every picture of the tests takes more than that.
            "PIXELDP_PASS_SIZE": "64",
            ALLOWED: str(self.code),
            "PIXELDP_COMPILE": "false",
            "PIXELDP_STALL_SECONDS": "3600",
            "PIXELDP_CHECK_SECONDS": "0",  # passes of self-checks would be counted, too
            **environment,
        }
        return start(self.bundle, environment=settings)

    def say(self, name: str) -> None:
        """Make it ``hold`` after some passes, ``fail`` at bright pictures, or be ``full`` once."""
        (self._folder / name).touch()

    def unsay(self, *names: str) -> None:
        """Undo one of these, or by default all of them and their traces."""
        for name in names or ("hold", "held", "fail", "failed", "full"):
            (self._folder / name).unlink(missing_ok=True)

    def wait_held(self) -> None:
        """Wait until it is holding a pass."""
        wait_for((self._folder / "held").exists)

    @property
    def neighbours(self) -> list[int]:
        """For each pass that failed, how many rows were not of bright pictures."""
        path = self._folder / "failed"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def picture(folder: Path, grey: int) -> bytes:
    """Return a picture file of one shade of grey."""
    path = folder / f"{grey}.png"
    Image.fromarray(np.full((8, 8), grey, np.uint8)).save(path)
    return path.read_bytes()


def in_flight(service: Service) -> int:
    """Return how many pictures the worker has."""
    return _count(service, "pixeldp_pictures_in_flight")


def restarts(service: Service) -> int:
    """Return how often its worker has been replaced."""
    return _count(service, 'pixeldp_worker_restarts_total{worker="worker0"}')


def _count(service: Service, name: str) -> int:
    text = httpx.get(f"{service.address}/metrics").text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found
    return int(float(found[1]))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the worker has so many pictures."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

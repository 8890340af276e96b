"""The service on a GPU: its start, its rate over that of passes alone, and what it survives."""

import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch

from benchmarks import gpu_passes
from benchmarks.gpu_machine import Machine
from benchmarks.outcomes import outcomes
from benchmarks.peers import cohen, load_classifier
from benchmarks.service import CLIENTS, Service, png, serving
from models.bundle import ZOO, describe
from models.device import open_device
from models.loaded import load_model
from models.memory import is_out_of_memory
from models.predictor import Predictor

BUNDLE, OTHER = ZOO / "cifar10-resnet", "mnist-cnn-l1"
DRAWS, CONFIDENCE = 1000, 0.999
START_SECONDS, RECOVERY_SECONDS = 300.0, 120.0


def _bodies() -> list[bytes]:
    random = np.random.default_rng(0)
    return [png(random.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(2 * CLIENTS)]


def _serving(machine: Machine, bundle: Path = BUNDLE) -> Any:
    options = ["--devices", machine.device, "--no-compile"]
    options += machine.choose([], ["--pass-size", "64"])
    return serving(bundle, *options, seconds=START_SECONDS, PIXELDP_REPOSITORY=str(ZOO))


def start(machine: Machine) -> dict[str, Any]:
    """Seconds from the command to readiness, twice: the second start finds files in memory."""
    found = {}
    for which in ("first", "second"):
        began = time.monotonic()
        with _serving(machine):
            found[f"{which} start (s)"] = time.monotonic() - began
    return found


def saturated(machine: Machine) -> dict[str, Any]:
    """Draws per second through HTTP over those of passes alone in the same way."""
    found = _saturated(machine, "fast-resnet", BUNDLE)
    if not machine.small:
        with tempfile.TemporaryDirectory() as folder:
            found |= _saturated(machine, "wrn-28-10", gpu_passes.write("wrn-28-10", Path(folder)))
    return found


def _saturated(machine: Machine, name: str, bundle: Path) -> dict[str, Any]:
    seconds = machine.choose(6.0, 0.5)
    with _serving(machine, bundle) as (port, _):
        service = Service(port, CONFIDENCE, _bodies())
        [way] = service.ways()
        replies, took = service.saturate_for(DRAWS, None, seconds)
        certified, lasted = service.saturate_for(DRAWS, 0.125, seconds)
        how, found = service.how(), outcomes(replies)
    if found.failed:
        raise RuntimeError(found.told())
    loaded, on = load_model(bundle), open_device(machine.device)
    size, precision, provider = way["pass_size"], way["precision"], way["provider"]
    bare = Predictor(loaded, size, on, precision, provider=provider).measure(
        machine.choose(2.0, 0.2)
    )
    on.free()
    served, peak = found.draws / took, machine.peak or float("nan")
    return {
        f"{name}: how": how,
        f"{name}: draws/s through HTTP": served,
        f"{name}: draws/s of passes alone": bare,
        f"{name}: share of passes alone": served / bare,
        f"{name}: share of peak": served * gpu_passes.operations(name) / peak,
        f"{name}: decisions/s, target ½σ": outcomes(certified).answered / lasted,
    }


def cohen_loop(machine: Machine) -> dict[str, Any]:
    """Decisions per second of Cohen's procedure as a loop of PyTorch, on the same device."""
    classifier, scale = load_classifier(BUNDLE)
    classifier = classifier.to(machine.device, torch.bfloat16).eval()
    picture = torch.rand(1, 3, 32, 32, device=machine.device).bfloat16()
    draws = machine.choose(DRAWS, 20)
    took = machine.time(lambda: cohen(classifier, picture, draws, scale, CONFIDENCE))
    return {"decisions/s": 1 / took, "draws each": draws + 100}


def faults(machine: Machine) -> dict[str, Any]:
    """A worker is killed, a model leaves, and the GPU's memory is gone, while clients ask."""
    found: dict[str, Any] = {}
    with _serving(machine) as (port, front):
        service, stop = Service(port, CONFIDENCE, _bodies()), threading.Event()
        counted: list[Any] = []

        def ask() -> None:
            counted.extend(service.saturate(100, None, lambda: not stop.is_set())[0])

        clients = threading.Thread(target=ask)
        clients.start()
        try:
            found["load and unload (s)"] = _load_and_unload(port)
            if not machine.small:
                found["memory taken meanwhile"] = _take_memory(machine, port)
            found["from kill -9 to the next answer (s)"] = _kill(port, front, service.bodies[0])
        finally:
            stop.set()
            clients.join(RECOVERY_SECONDS)
        said = outcomes(counted)
    return found | {"answered meanwhile": said.answered, "failed meanwhile": dict(said.failed)}


def _post(port: int, path: str, body: bytes = b"", kind: str = "application/json") -> Any:
    request = Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": kind})
    with urlopen(request, timeout=RECOVERY_SECONDS) as response:
        return json.loads(response.read() or b"{}")


def _load_and_unload(port: int) -> float:
    began = time.monotonic()
    name = describe(ZOO / OTHER).manifest.name
    for change in ("load", "unload"):
        _post(port, f"/v2/repository/models/{name}/{change}", b"{}")
    return time.monotonic() - began


def _kill(port: int, front: int, picture: bytes) -> float:
    [worker] = _workers(front)
    began = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    while True:
        try:
            _post(port, f"/predict?max_draws=100&timeout_ms={120_000}", picture, "image/png")
        except OSError:
            if time.monotonic() - began > RECOVERY_SECONDS:
                raise
            time.sleep(0.1)
        else:
            return time.monotonic() - began


def _workers(front: int) -> list[int]:
    """Return the worker processes of a front process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            name = (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if parent == front and name.startswith(b"pixeldp-worker"):
            found.append(int(folder.name))
    return found


def _take_memory(machine: Machine, port: int) -> str:
    """Take all memory of the GPU for some seconds; the service answers meanwhile and after."""
    taken = []
    size = 1 << 30
    while size >= 1 << 20:
        try:
            taken.append(torch.empty(size, dtype=torch.uint8, device=machine.device))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            size //= 2
    held = sum(map(len, taken)) / 2**30
    for _ in range(10):
        _post(port, "/predict?max_draws=100", _bodies()[0], "image/png")
    taken.clear()
    open_device(machine.device).free()
    return f"{held:.1f} GiB; ten answers"

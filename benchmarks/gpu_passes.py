"""Passes on a GPU: their noise, their rows, and that what is proven is what serves."""

import hashlib
import importlib.util
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_machine import Machine
from models.bundle import ZOO, Architecture, InputShape, describe
from models.device import open_device
from models.loaded import LoadedModel, load_model
from models.memory import is_out_of_memory
from models.network import build_network, save_network
from models.noise import Features
from models.predictor import Predictor

_MEAN, _SPREAD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SMALL, LARGE = (3, 32, 32), (3, 224, 224)
# Architecture, its arguments, shape of pictures, labels, and pass sizes.
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], int, tuple[int, ...]]] = {
    "fast-resnet": ("fast-resnet", {"channels": [24, 48, 96, 192]}, SMALL, 10, (256, 1024, 4096)),
    "fast-resnet-64": ("fast-resnet", {"channels": [64, 128, 256, 512]}, SMALL, 10, (256, 1024)),
    "resnet20": ("resnet", {"depth": 20}, SMALL, 10, (256, 1024, 4096)),
    "resnet110": ("resnet", {"depth": 110}, SMALL, 10, (256, 1024)),
    "wrn-28-10": ("wide-resnet", {"depth": 28, "width": 10}, SMALL, 10, (256, 512, 1024)),
    "resnet50": (
        "torchvision",
        {"model": "resnet50", "mean": _MEAN, "std": _SPREAD},
        LARGE,
        1000,
        (64, 256),
    ),
    "inception": (
        "torchvision",
        {"model": "inception_v3", "mean": [0.5] * 3, "std": [0.5] * 3},
        (3, 299, 299),
        1000,
        (64, 256),
    ),
}
IN_SMALL = {"fast-resnet": (16,)}
REPLAYS = 10_000


def write(name: str, folder: Path) -> Path:
    """Write a bundle of one of the networks, with random weights."""
    architecture, arguments, (channels, height, width), labels, _ = NETWORKS[name]
    manifest = describe(ZOO / "cifar10-resnet").manifest.model_copy(
        update={
            "name": name,
            "architecture": Architecture(name=architecture, arguments=arguments),
            "input": InputShape(channels=channels, height=height, width=width),
            "labels": tuple(map(str, range(labels))),
            "training": {},
            "evaluation": {},
            "int8": None,
        }
    )
    torch.manual_seed(0)
    save_network(folder / name, manifest, build_network(manifest).eval())
    return folder / name


@cache
def model(name: str) -> LoadedModel:
    """Return one of the networks, loaded."""
    with tempfile.TemporaryDirectory() as folder:
        return load_model(write(name, Path(folder)))


def operations(name: str) -> float:
    """Return the floating-point operations of a draw."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loaded = model(name)
        loaded.classifier("cpu", torch.float32)(torch.zeros(1, *loaded.manifest.input.shape))
    return float(counter.get_total_flops())


def _predictor(machine: Machine, name: str, rows: int, precision: Any = "bfloat16") -> Predictor:
    return Predictor(model(name), rows, open_device(machine.device), precision)


def _pictures(predictor: Predictor, rows: int) -> tuple[list[Features], Any]:
    channels, height, width = predictor.manifest.input.shape
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, height, width, channels), np.uint8)
    deeper = random.integers(0, 2**16, (height, width, channels), np.uint16)
    encoded = [predictor.encode(one) for one in [*pixels, deeper]]
    return [one.features for one in encoded], np.arange(rows) % len(encoded)


def noise(machine: Machine) -> dict[str, Any]:
    """The noise of a pass is the reference's, bit for bit; and how fast it is drawn."""
    predictor = _predictor(machine, "fast-resnet", rows := machine.choose(4096, 16))
    predictor.on.check()
    pictures, chosen = _pictures(predictor, rows)
    key, few = os.urandom(32), chosen[: machine.choose(256, 16)]
    resident = predictor.resident
    noisy = resident.noisy(pictures, few, key).cpu().numpy().reshape(len(few), -1)
    steps = resident.reference(pictures, few, key)
    if not np.array_equal(noisy, steps.astype(np.float32) * np.float32(predictor.noise.step)):
        raise RuntimeError("the noise is not that of the reference")
    on_grid = machine.time(lambda: resident.noisy(pictures[:1], chosen * 0, key))
    between = machine.time(lambda: resident.noisy(pictures[3:], chosen * 0, key))
    return {
        "coordinates compared": steps.size,
        "coordinates/s on the grid": rows * steps.shape[1] / on_grid,
        "coordinates/s between grid points": rows * steps.shape[1] / between,
    }


def rows(machine: Machine) -> dict[str, Any]:
    """Rows stand alone, the graph is h as it was written, and the rate of passes alone."""
    found: dict[str, Any] = {}
    chosen = machine.choose({name: one[4] for name, one in NETWORKS.items()}, IN_SMALL)
    for name, sizes in chosen.items():
        if NETWORKS[name][0] == "torchvision" and importlib.util.find_spec("torchvision") is None:
            found[name] = "left out: there is no torchvision"
            continue
        for size in sizes:
            found[f"{name}, {size} rows"] = _try(machine, name, size)
        open_device(machine.device).free()
    return found


def _try(machine: Machine, name: str, size: int) -> str:
    predictor = _predictor(machine, name, size)
    try:
        predictor.try_rows(alone=2)
        speed = predictor.measure(machine.choose(0.5, 0.05))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return "out of memory"
    resident: Any = predictor.resident
    pictures, chosen = _pictures(predictor, size)
    noisy = resident.noisy(pictures, chosen, bytes(32))
    served, written = resident.logits(noisy), resident.written(noisy)
    likeness = "equal" if torch.equal(served, written) else "differs"
    how = "launched" if getattr(resident, "launched", None) else "graph"
    share = speed * operations(name) / machine.peak if machine.peak else float("nan")
    return f"alone; {how} {likeness} h as written; {speed:.0f} draws/s; {share:.3f} of peak"


def replays(machine: Machine) -> dict[str, Any]:
    """Passes by one key are all different on a GPU, as its graph counts them."""
    predictor = _predictor(machine, "fast-resnet", 8)
    pictures, chosen = _pictures(predictor, 8)
    resident: Any = predictor.resident
    seen, count = set(), machine.choose(REPLAYS, 20)
    for number in range(count):
        if machine.small:
            drawn = resident.noisy(pictures, chosen, number.to_bytes(32, "little"))
        else:
            resident.submit(pictures, chosen, bytes(32)).votes()
            drawn = resident.last_noisy(8)
        seen.add(hashlib.blake2b(drawn[0].float().cpu().numpy().tobytes()).digest())
    if len(seen) != count:
        raise RuntimeError(f"{count - len(seen)} of {count} passes repeat others' noise")
    return {"passes": count, "different": len(seen)}


def short_memory(machine: Machine) -> dict[str, Any]:
    """With ever less memory, what is captured is the same h, or nothing."""
    if machine.small:
        return {"left out": "processors do not choose algorithms by memory"}
    torch.cuda.empty_cache()
    name, size = "wrn-28-10", 256
    total = torch.cuda.get_device_properties(machine.device).total_memory
    predictor = _predictor(machine, name, size)
    pictures, chosen = _pictures(predictor, size)
    noisy = predictor.resident.noisy(pictures, chosen, bytes(32))
    predictor.resident.prepare(size)
    usual, peak = predictor.logits(noisy), torch.cuda.max_memory_reserved(machine.device)
    found = {}
    for share in (1.0, 0.9, 0.8, 0.6, 0.4):
        open_device(machine.device).free()
        torch.cuda.set_per_process_memory_fraction(min(1.0, peak * share / total), machine.device)
        try:
            other = _predictor(machine, name, size)
            other.resident.prepare(size)
            same = torch.equal(other.logits(noisy), usual)
            found[f"{share:g} of the memory"] = "same h" if same else "another h"
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found[f"{share:g} of the memory"] = "out of memory"
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, machine.device)
    return found

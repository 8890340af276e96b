"""One of torchvision's ImageNet classifiers behind an autoencoder, from export to answer.

    python -m benchmarks.imagenet --model inception_v3 --weights inception_v3.safetensors

It uses the users' commands: the classifier is exported by ``torch.export``, imported as a bundle
(``pixeldp import``), gets an autoencoder in front (``pixeldp train --denoiser``, here for one step
on two pictures, which is enough to measure), and is served at its own size with its 1,000 labels by
one worker. Without weights they are random; speed and memory are the same.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.http import Reply, closed_loop
from benchmarks.outcomes import outcomes
from benchmarks.report import Figures
from benchmarks.service import Service, png, serving
from models.importing.files import read_weights
from models.networks import build
from models.networks.foreign.torchvision import find_defaults

PICTURES = 2
# At least this many draws, enough for a label, and as many as a slow machine makes in this time.
LEAST_DRAWS, LONGEST_SECONDS = 64, 300.0
CONFIDENCE = 0.95


def export(model: str, weights: Path | None, file: Path) -> None:
    """Write the classifier as an exported program."""
    side = find_defaults(model).size
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3}
    _, h = build("torchvision", (3, side, side), 1000, "image", {"model": model, **plain})
    network = h.get_submodule("network").eval()
    if weights:
        network.load_state_dict(read_weights(weights))
    batch = {0: torch.export.Dim.DYNAMIC}
    pictures = torch.rand(2, 3, side, side)
    torch.export.save(torch.export.export(network, (pictures,), dynamic_shapes=(batch,)), file)


def pixeldp(*arguments: str) -> float:
    """Run a command and return how many seconds it took."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-m", "service.cli.main", *arguments], check=True)
    return time.perf_counter() - began


def worker_of(front: int) -> int:
    """Return the process id of the service's only worker."""
    return int(Path(f"/proc/{front}/task/{front}/children").read_text().split()[0])


def peak_memory(process: int) -> float:
    """Return the largest resident memory so far, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


def cpu_seconds(process: int) -> float:
    """Return the processor time so far, which other work on the machine does not lengthen."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answer(service: Service, body: bytes, draws: int) -> tuple[list[Reply], float]:
    """Ask for one picture, once."""
    once = iter((True, False))
    ask = service.connection(draws, None)
    return asyncio.run(closed_loop(ask, [body], 1, lambda: next(once)))


def main() -> None:
    """Run everything and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="inception_v3", help="a classifier of torchvision's")
    parser.add_argument("--weights", type=Path, help="its weights, as torchvision has them")
    parser.add_argument("--draws", type=int, default=256, help="for the picture that is asked for")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    known, figures = find_defaults(arguments.model), Figures()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (PICTURES, known.size, known.size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program, plain, bundle = (folder / name for name in ("net.pt2", "plain", "denoised"))
        data, labels = folder / "pictures.npz", folder / "labels.txt"
        np.savez(data, images=images, labels=np.arange(PICTURES))
        labels.write_text("\n".join(known.labels))
        began = time.perf_counter()
        export(arguments.model, arguments.weights, program)
        figures.note("export, seconds", time.perf_counter() - began)
        normalisation = {"--mean": known.mean, "--std": known.std}
        options = [
            f"{name}={','.join(map(str, numbers))}" for name, numbers in normalisation.items()
        ]
        options += ["--labels", str(labels), "--scale", "0.25", "--draws", "64"]
        took = pixeldp("import", str(program), "--out", str(plain), *options)
        figures.note("import, with its trials, seconds", took)
        options = ["--denoiser", str(plain), "--data", str(data), "--epochs", "1"]
        options += ["--held-out", "1", "--out", str(bundle)]
        took = pixeldp("train", "imagenet-autoencoder", *options)
        figures.note("one step of the autoencoder and 128 draws, seconds", took)
        size = sum(file.stat().st_size for file in bundle.iterdir())
        figures.note("bundle, MB", size / 1e6)
        began = time.perf_counter()
        options = ["--devices", arguments.device, "--no-compile"]
        with serving(bundle, *options, seconds=1800) as (port, front):
            figures.note("from start to ready, seconds", time.perf_counter() - began)
            service = Service(port, CONFIDENCE, [])
            calibration, speed = service.how(), service.speed()
            figures.note("draws/s, calibrated", speed)
            asked = min(arguments.draws, max(LEAST_DRAWS, int(speed * LONGEST_SECONDS)))
            if asked < arguments.draws:
                figures.remark(f"{asked} draws instead of {arguments.draws}, as they are slow here")
            worker = worker_of(front)
            began, used = time.perf_counter(), cpu_seconds(worker)
            replies, _ = answer(service, png(images[0]), asked)
            took, used = time.perf_counter() - began, cpu_seconds(worker) - used
            found = outcomes(replies)
            figures.remark(found.told())
            figures.note(f"one picture of {found.draws} draws, seconds", took)
            figures.note("draws/s, as answered", found.draws / took)
            figures.ratio("draws a second of the worker's processor", found.draws, used)
            figures.note("peak memory of the front, MB", peak_memory(front))
            figures.note("peak memory of the worker, MB", peak_memory(worker))
    title = f"{arguments.model} behind an autoencoder at {known.size}x{known.size}, {calibration}"
    figures.report(title, arguments.json, calibration=calibration)


if __name__ == "__main__":
    main()

"""The gain from the way of running h, and the cost of more labels.

    python -m benchmarks.networks [--bundle BUNDLE] [--json FILE]

- fast path: draws per second of one thread, as the service runs the bundle (provider, number
  format, layout, folded normalisation, compiled if faster), over plain float32 PyTorch,
  alternating.
- providers: draws per second of h alone in each number format of each installed provider, not
  compiled, over PyTorch's float32, alternating, at one pass size.
- labels: the bundle's network with random weights and 10, 100 and 1,000 labels, served: draws per
  second through HTTP, and milliseconds of certification per answer.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.arguments import add_timing, bundle_parser
from benchmarks.outcomes import outcomes
from benchmarks.report import Figures
from benchmarks.service import CLIENTS, Service, png, serving, settle
from models.bundle import Bundle, read_bundle
from models.calibration import calibrate, compare
from models.certification.answer import conclude
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.execution import ways
from models.loaded import load_model
from models.network import build_network, load_network, save_network
from models.predictor import Predictor

LABELS = (10, 100, 1000)
DRAWS = 1000
TURN_SECONDS = 0.5


def plain(bundle: Bundle, rows: int, device: str) -> Callable[[float], float]:
    """Return a function that measures draws per second of plain float32 PyTorch, with noise."""
    network = load_network(bundle).to(device)
    picture = torch.zeros(rows, *bundle.manifest.input.shape, device=device)

    def measure(seconds: float) -> float:
        passes, start = -1, 0.0
        with torch.inference_mode():
            features = network.encode(picture)
            while passes < 1 or time.perf_counter() - start < seconds:
                # Reading the votes waits for the device.
                network.score(network.perturb(features)).argmax(1).cpu()
                passes += 1
                start = start or time.perf_counter()
        return passes * rows / (time.perf_counter() - start)

    return measure


def in_turns(ways: dict[str, Callable[[float], float]], seconds: float) -> dict[str, float]:
    """Measure each for ``seconds``, in short turns, so that all meet the same conditions."""
    turns = max(1, round(seconds / TURN_SECONDS))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, measure in ways.items():
            found[name].append(measure(seconds / turns))
    return {name: float(np.mean(speeds)) for name, speeds in found.items()}


def fast_path(bundle: Bundle, device: str, rounds: int, seconds: float, figures: Figures) -> None:
    """Compare the chosen way with plain PyTorch."""
    torch.set_num_threads(1)
    eager, _ = calibrate(load_model(bundle), device, None, None)
    how = f"{eager.provider} {eager.precision}, passes of {eager.pass_size}"
    chosen = f"{how}, eager"
    found = {"plain float32": plain(bundle, eager.pass_size, device), chosen: eager.measure}
    try:
        compiled = eager.compile()
    except RuntimeError as error:
        figures.remark(f"nothing can be compiled here ({str(error).partition(chr(10))[0]})")
    else:
        found[f"{how}, compiled"] = compiled.measure
        if compare(eager, compiled):
            chosen = f"{how}, compiled"
    for _ in range(rounds):
        speeds = in_turns(found, seconds)
        for name, speed in speeds.items():
            figures.note(f"draws/s, {name}", speed)
        figures.ratio("fast path over plain float32", speeds[chosen], speeds["plain float32"])


def h_alone(predictor: Predictor) -> Callable[[float], float]:
    """Return a function that measures draws of h per second of processor time, without noise."""
    random = np.random.default_rng(0)
    shape = predictor.manifest.input.shape
    picture = predictor.encode(random.integers(0, 256, (*shape[1:], shape[0]), dtype=np.uint8))
    noisy = predictor.noisy([picture.features], np.zeros(predictor.pass_size, dtype=np.intp))

    def measure(seconds: float) -> float:
        # On a processor, and a quiet machine, the time of the processor is the elapsed one;
        # otherwise it excludes other processes.
        clock = time.process_time if predictor.device == "cpu" else time.perf_counter
        passes, start = 0, clock()
        while not passes or clock() - start < seconds:
            predictor.score(noisy)
            passes += 1
        return passes * predictor.pass_size / (clock() - start)

    return measure


def providers(
    bundle: Bundle, device: str, rows: int, rounds: int, seconds: float, figures: Figures
) -> None:
    """Compare the providers of h and their number formats."""
    torch.set_num_threads(1)
    model = load_model(bundle)
    found: dict[str, Callable[[float], float]] = {}
    for provider, precision in ways(device, None, None, int8=model.manifest.int8 is not None):
        name = f"h alone by {provider} in {precision}, passes of {rows}"
        measure = h_alone(Predictor(model, rows, device, precision, provider=provider))
        try:
            measure(0.0)
        except RuntimeError as error:
            figures.remark(f"{name}: {str(error).partition(chr(10))[0]}")
        else:
            found[name] = measure
    eager = next(iter(found))
    for _ in range(rounds):
        speeds = in_turns(found, seconds)
        for name, speed in speeds.items():
            figures.note(f"draws/s, {name}", speed)
            if name != eager:
                figures.ratio(f"{name}, over PyTorch's float32", speed, speeds[eager])


def with_labels(bundle: Bundle, labels: int, folder: Path) -> Path:
    """Write the bundle's network with random weights and ``labels`` labels."""
    manifest = bundle.manifest.model_copy(
        update={
            "name": f"labels-{labels}",
            "labels": tuple(map(str, range(labels))),
            "training": {},
            "evaluation": {},
        }
    )
    torch.manual_seed(0)
    save_network(folder / manifest.name, manifest, build_network(manifest).eval())
    return folder / manifest.name


def certification(bundle: Bundle, labels: int, repeats: int = 20) -> float:
    """Return the milliseconds of looks and answer for a picture with 1,000 draws."""
    predictor = Predictor(load_model(bundle), 64)
    shape = bundle.manifest.input.shape
    black = predictor.encode(np.zeros((shape[1], shape[2], shape[0]), np.uint8))
    votes = np.random.default_rng(0).integers(0, labels, DRAWS)
    scores = np.eye(labels, dtype=np.int64)[votes]
    start = time.perf_counter()
    for _ in range(repeats):
        inquiry = Inquiry(Question(0.999, DRAWS, None, "l2"), black.terms, labels, "votes")
        inquiry.add(scores)
        conclude(inquiry, 10)
    return 1000 * (time.perf_counter() - start) / repeats


def growth(bundle: Bundle, device: str, seconds: float, longest: float, figures: Figures) -> None:
    """Serve the network with more and more labels."""
    shape = bundle.manifest.input.shape
    random = np.random.default_rng(0)
    bodies = [
        png(random.integers(0, 256, (shape[1], shape[2], shape[0]), dtype=np.uint8))
        for _ in range(CLIENTS)
    ]
    with tempfile.TemporaryDirectory() as folder:
        for labels in LABELS:
            path = with_labels(bundle, labels, Path(folder))
            milliseconds = certification(read_bundle(path), labels)
            figures.note(f"certification, {labels} labels (ms an answer)", milliseconds)
            devices = ["--devices", device] if device != "cpu" else []
            with serving(path, *devices) as (port, front):
                settle(front, longest)
                service = Service(port, 0.999, bodies)
                replies, took = service.saturate_for(DRAWS, None, seconds)
                found = outcomes(replies)
                figures.remark(f"{labels} labels: {found.told()}" if found.failed else "")
                figures.note(f"draws/s, {labels} labels", found.draws / took)


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = bundle_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    add_timing(parser, 4.0)
    parser.add_argument("--rows", type=int, default=128, help="of a pass, for providers")
    parser.add_argument("--device", default="cpu", help="cpu means all processors for the service")
    parser.add_argument("--only-providers", action="store_true", help="measure nothing else")
    arguments = parser.parse_args()
    bundle, figures = read_bundle(arguments.bundle), Figures()
    device = arguments.device
    providers(bundle, device, arguments.rows, arguments.rounds, arguments.seconds, figures)
    if not arguments.only_providers:
        fast_path(bundle, device, arguments.rounds, arguments.seconds, figures)
        growth(bundle, device, arguments.seconds, arguments.settle, figures)
    figures.report(bundle.manifest.name, arguments.json)


if __name__ == "__main__":
    main()

"""The sizes of certificates and the draws that they take, compared on the same draws.

    python -m benchmarks.certificates --root DATA [--pictures 1000] [--json FILE]

Draws votes of the shipped model for pictures of MNIST's test set (DATA contains MNIST/raw in
torchvision's layout), and then runs each procedure over the same sequences: the service's own
through ``Inquiry``, and the paper's and Cohen's. Ratios of mean sizes need no clock.
"""

import json
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.arguments import pictures_parser
from benchmarks.comparison import cohen_size, paper_size
from models.calibration import calibrate
from models.certification.answer import conclude
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.certification.tally import Tally
from models.certification.terms import Terms
from models.data.datasets import load
from models.loaded import load_model
from models.predictor import Predictor

PASS = 512
COHEN_SELECTION = 100
# The pilot may take up to 128 draws before the first that counts.
MOST_PILOT = 128
# As many scores as an answer shows by default.
SHOWN = 5
# Certification is also timed as if there were so many labels, most without votes.
MANY = 1000

Votes = NDArray[np.int64]


def draw_votes(predictor: Predictor, pixels: NDArray[np.uint8], count: int) -> tuple[Terms, Votes]:
    """Draw ``count`` votes, as label indices, for one picture."""
    encoded = predictor.encode(pixels)
    rows = np.zeros(PASS, dtype=np.intp)
    passes = -(-count // PASS)
    votes = [predictor.run([encoded.features], rows) for _ in range(passes)]
    return encoded.terms, np.concatenate(votes)[:count].astype(np.int64)


def one_hot(votes: Votes, labels: int) -> Votes:
    """Return the integer scores of votes."""
    return np.eye(labels, dtype=np.int64)[votes]


def run(terms: Terms, votes: Votes, labels: int, question: Question) -> Inquiry:
    """Answer ``question`` from recorded votes, given in parts as a worker would draw them."""
    inquiry, at = Inquiry(question, terms, labels, "votes"), 0
    while not inquiry.stopped and at < len(votes):
        part = votes[at : at + max(inquiry.wanted, question.steps.least)]
        at += inquiry.add(part[: question.max_draws - at])
    return inquiry


def cost(
    recorded: Sequence[tuple[Terms, Votes]], labels: int, question: Question
) -> tuple[float, float]:
    """Return what certification takes a decision in microseconds, without the draws.

    That is: to record draws, to look, and to conclude.

    Returns:
        The mean of processor time, and the median of time.
    """
    taken = []
    start = time.process_time()
    for terms, votes in recorded:
        began = time.perf_counter()
        conclude(run(terms, votes, labels, question), SHOWN)
        taken.append(time.perf_counter() - began)
    mean = (time.process_time() - start) / len(recorded)
    return 1e6 * mean, 1e6 * float(np.median(taken))


def forget() -> None:
    """Drop what certification remembers of other pictures, as in a worker that has just begun."""
    for name, module in list(sys.modules.items()):
        if name.startswith("models.certification"):
            for one in vars(module).values():
                getattr(one, "cache_clear", int)()


def ratio(above: float, below: float) -> float:
    """Return a ratio of mean sizes; nan if nothing was certified."""
    return above / below if below else float("nan")


def measure(
    recorded: Sequence[tuple[Terms, Votes]], labels: int, confidence: float
) -> list[tuple[str, float, str]]:
    """Return rows of (figure, value, required value)."""
    rows: list[tuple[str, float, str]] = []
    for n in (300, 1000):
        question = Question(confidence, n, None, "l2")
        ours = np.mean([run(*one, labels, question).size for one in recorded])
        paper = np.mean(
            [
                paper_size(Tally.of(one_hot(votes[:n], labels), "votes"), terms, confidence)
                for terms, votes in recorded
            ]
        )
        name = f"mean size over the paper's procedure, n = {n}"
        rows.append((name, ratio(float(ours), float(paper)), "3.5"))
    n = 1000
    ours_, cohen = [], []
    for terms, votes in recorded:
        # Equal numbers of counted draws: the pilot comes on top of them, as Cohen's 100 do.
        pilot = run(terms, votes, labels, Question(confidence, n, None, "l2")).pilot.draws
        question = Question(confidence, pilot + n, None, "l2")
        ours_.append(run(terms, votes, labels, question).size)
        parts = votes[:COHEN_SELECTION], votes[COHEN_SELECTION : COHEN_SELECTION + n]
        selection, tally = (Tally.of(one_hot(part, labels), "votes") for part in parts)
        cohen.append(cohen_size(selection, tally, terms, confidence))
    over = ratio(float(np.mean(ours_)), float(np.mean(cohen)))
    rows.append(("mean size over Cohen's procedure, n = 1000 counted", over, "0.995"))
    scale = recorded[0][0].scale / recorded[0][0].sensitivity
    for many, most in ((labels, "≤ 150"), (MANY, "≤ 300")):
        question = Question(confidence, n, scale / 2, "l2")
        forget()
        for when in ("a new worker", "later"):
            mean, median = cost(recorded, many, question)
            figure = f"certification, µs a decision, target ½σ/Δ, {many} labels, {when}"
            rows += [(f"{figure}: mean", mean, most), (f"{figure}: median", median, most)]
    for n, most in ((300, "≤ 130"), (1000, "≤ 215"), (10_000, "≤ 620")):
        if len(recorded[0][1]) < n:
            continue
        target = scale / 2
        targeted = [run(*one, labels, Question(confidence, n, target, "l2")) for one in recorded]
        fixed = [run(*one, labels, Question(confidence, n, None, "l2")).size for one in recorded]
        draws = float(np.mean([inquiry.total.draws for inquiry in targeted]))
        lost = np.mean([size >= target for size in fixed]) - np.mean(
            [inquiry.size >= target for inquiry in targeted]
        )
        same = np.mean(
            [
                (inquiry.size >= target) == (size >= target)
                for inquiry, size in zip(targeted, fixed, strict=True)
            ]
        )
        rows.append((f"mean draws, target ½σ/Δ, max_draws = {n}", draws, most))
        rows.append((f"mean draws over fixed n = {n}", draws / n, ""))
        rows.append((f"decisions equal to fixed n = {n}", float(same), "≥ 0.995"))
        rows.append((f"points of pictures lost against fixed n = {n}", 100 * float(lost), "≤ 0.5"))
    return rows


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = pictures_parser(__doc__)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument(
        "--minutes", type=float, default=90, help="of drawing at most, by taking fewer pictures"
    )
    parser.add_argument("--confidence", type=float, default=0.999)
    parser.add_argument("--device", default="cpu", help="on which the draws are made")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    predictor, calibration = calibrate(load_model(arguments.bundle), arguments.device, None, PASS)
    pictures = load(arguments.data, arguments.root, "test").images
    count = max(arguments.draws, 1000 + MOST_PILOT, 1000 + COHEN_SELECTION)
    bearable = int(60 * arguments.minutes * calibration.draws_per_second / count)
    asked = min(arguments.pictures, max(1, bearable))
    if asked < arguments.pictures:
        print(
            f"{asked} pictures instead of {arguments.pictures}: at "
            f"{calibration.draws_per_second:.4g} draws/s more would take longer than "
            f"{arguments.minutes:g} minutes (--minutes)",
            file=sys.stderr,
        )
    chosen = pictures[:: max(1, len(pictures) // asked)][:asked]
    bar = tqdm(chosen, "drawing", disable=not sys.stderr.isatty())
    recorded = [draw_votes(predictor, picture, count) for picture in bar]
    labels = len(predictor.manifest.labels)
    rows = measure(recorded, labels, arguments.confidence)
    name = predictor.manifest.name
    print(f"\n{name}, {len(chosen)} pictures, confidence {arguments.confidence}\n")
    print("| figure | measured | to reach |\n| --- | ---: | ---: |")
    for figure, value, reach in rows:
        print(f"| {figure} | {value:.3f} | {reach} |")
    if arguments.json:
        document = {"model": name, "pictures": len(chosen), "figures": {r[0]: r[1] for r in rows}}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

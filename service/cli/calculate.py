"""``pixeldp size``, ``bounds``, ``plan`` and ``verify``: the certification mathematics by hand.

These are the functions that answer pictures, for planning a deployment or checking one. They are
imported inside the commands, so that help appears at once.
"""

import json
import sys
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from models.certification.names import (
    CERTIFICATES,
    CONTINUOUS,
    MECHANISM_NORMS,
    Bound,
    Mechanism,
)

# The true scores of the label for which a plan states the number of draws.
PLANNED_SCORES = (1.0, 0.9999, 0.999, 0.995, 0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6)

# What benchmarks.capacity measured for the service's own front (docs/capacity.md).
FRONT_MS = 3.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def size(
    certificate: Annotated[
        str,
        typer.Option(help=f"{', '.join(CERTIFICATES)}."),
    ],
    lower: Annotated[
        float, typer.Option(min=0, max=1, help="Lower bound on the label's expected score.")
    ],
    upper: Annotated[float, typer.Option(min=0, max=1, help="Upper bound on that of every rival.")],
    scale: Annotated[float, typer.Option(help="σ or b.")],
    sensitivity: Annotated[float, typer.Option(help="Δ of g, preprocessing included.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Compute the certified size that two bounds allow."""
    from models.certification.certificates import size

    value = float(size(certificate, lower, upper, scale, sensitivity))
    typer.echo(json.dumps({"size": value}) if as_json else f"{value:.12g}")


def bounds(
    method: Annotated[Bound, typer.Option()],
    sum_: Annotated[float, typer.Option("--sum", help="Σx of the scores x in [0, 1].")],
    draws: Annotated[int, typer.Option(min=1, help="n.")],
    alpha: Annotated[float, typer.Option(help="The probability that one side is wrong.")],
    sum_squares: Annotated[
        float | None, typer.Option(help="Σx²; by default Σx, which is right for votes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the lower and the upper bound on an expected score from its sums."""
    from models.certification.bounds import CONVERGED_STEPS, bounds

    squares = sum_ if sum_squares is None else sum_squares
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie strictly between 0 and 1, not {alpha}")
    if not 0 <= squares <= sum_ <= draws or sum_ * sum_ > draws * squares * (1 + 1e-12):
        raise ValueError(
            "scores in [0, 1] have 0 <= sum of squares <= sum <= draws and "
            "sum^2 <= draws * sum of squares"
        )
    if method == "empirical-bernstein" and draws < 2:
        raise ValueError("empirical-bernstein needs at least 2 draws")
    low, high = bounds(method, draws, sum_, squares, alpha, steps=CONVERGED_STEPS)
    document = {"lower": float(low), "upper": float(high)}
    lines = (f"{name} {value:.15g}" for name, value in document.items())
    typer.echo(json.dumps(document) if as_json else "\n".join(lines))


def plan(
    scale: Annotated[float | None, typer.Option(help="σ, b or λ.")] = None,
    target: Annotated[
        float | None, typer.Option(help="The size that you need, in the model's norm.")
    ] = None,
    sensitivity: Annotated[float, typer.Option(help="Δ of g, preprocessing included.")] = 1.0,
    mechanism: Annotated[Mechanism, typer.Option()] = "gaussian",
    confidence: Annotated[float, typer.Option(help="η.")] = 0.95,
    labels: Annotated[int, typer.Option(min=2, help="The number of labels.")] = 10,
    rate: Annotated[
        float | None,
        typer.Option(help="In place of scale and target: size a service for so many pictures/s."),
    ] = None,
    p99: Annotated[
        str, typer.Option(help="The wanted 99th percentile of answers' times, such as 200ms.")
    ] = "1s",
    device: Annotated[
        str | None,
        typer.Option(
            help="NAME=DRAWS: a device and the draws per second that a worker measured on it "
            "(GET /models, make gpu)."
        ),
    ] = None,
    decisions: Annotated[
        str | None,
        typer.Option(help="The draws of a decision: mean,median,99th percentile."),
    ] = None,
    certified: Annotated[
        Path | None,
        typer.Option(help="Take the draws of decisions from this folder of pixeldp certify."),
    ] = None,
    pass_size: Annotated[int, typer.Option(min=1, help="The number of draws in a pass.")] = 256,
    front_ms: Annotated[
        float, typer.Option(min=0.01, help="Processor time of the front for an answer.")
    ] = FRONT_MS,
    worker_ms: Annotated[
        float, typer.Option(min=0, help="A worker's time for an answer beside its draws.")
    ] = 0.0,
    measured: Annotated[
        Path | None,
        typer.Option(
            help="In place of device, draws, pass size and times: what python -m "
            "benchmarks.capacity --json has measured of your service."
        ),
    ] = None,
    hourly: Annotated[
        float | None, typer.Option(min=0, help="What a device costs per hour, in any currency.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print how many draws a target takes, for several true scores of the label.

    The worst case: one rival has all the rest. For votes, with a target, including the pilot.

    With --rate and --device, or --measured: print how many workers and fronts a load takes
    (docs/capacity.md).
    """
    if rate is not None:
        from service.cli.size_service import size_service

        size_service(
            rate,
            p99,
            device,
            (decisions, certified),
            pass_size,
            (front_ms, worker_ms),
            measured,
            hourly,
            as_json=as_json,
        )
        return
    if scale is None or target is None:
        raise typer.BadParameter("Missing option '--scale' or '--target', or '--rate'")
    from models.certification.kinds import terms_kind
    from models.certification.question import Question
    from models.certification.reach import draws_needed

    norm = MECHANISM_NORMS[mechanism]
    terms = terms_kind(mechanism)(mechanism, scale, sensitivity, norm, 1)
    _check_positive(scale=scale, sensitivity=sensitivity, target=target)
    if mechanism not in CONTINUOUS and sensitivity != 1:
        raise ValueError(f"{mechanism} needs a sensitivity of 1")
    question = Question(confidence, 64, target, norm)
    rows = [
        (
            score,
            _most(mechanism, score, scale, sensitivity),
            draws_needed(question, terms, "votes", labels, score),
        )
        for score in PLANNED_SCORES
    ]
    if as_json:
        members = ("score", "largest_size", "draws")
        typer.echo(json.dumps({"plan": [dict(zip(members, row, strict=True)) for row in rows]}))
        return
    typer.echo(f"{'true score':>10}  {'largest size':>12}  {'draws needed':>12}")
    for score, most, draws in rows:
        largest = "unbounded" if most is None else f"{most:.4g}"
        needed = "out of reach" if draws is None else f"{draws:,}"
        typer.echo(f"{score:>10}  {largest:>12}  {needed:>12}")


def _most(mechanism: Mechanism, score: float, scale: float, sensitivity: float) -> float | None:
    """Return the size at the true score, which no number of draws exceeds."""
    from models.certification.certificates import DEFAULT, size

    found = float(size(DEFAULT[mechanism], score, 1 - score, scale, sensitivity))
    return found if isfinite(found) else None


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be above 0 and finite, not {value}")


def verify(
    answer: Annotated[
        Path, typer.Argument(help="The JSON of an answer with evidence; - for standard input.")
    ],
) -> None:
    """Compute an answer again from its own evidence, and fail if anything in it differs.

    The exit status is 1 if anything differs, and 2 if it is not an answer with evidence.
    """
    from models.verification import WORD, MalformedAnswerError, parse, verify

    # Bytes, whose encoding json detects: Windows' shells write UTF-16, and byte-order marks.
    text = sys.stdin.read() if str(answer) == "-" else answer.read_bytes()
    try:
        document = parse(text)
        found = verify(document)
    except MalformedAnswerError as error:
        refused = typer.TyperException(f"{answer}: {error}")
        refused.exit_code = 2
        raise refused from None
    for sentence in found:
        typer.echo(f"differs: {sentence}")
    if found:
        raise typer.Exit(1)
    typer.echo(
        f"everything follows: label {document['label']['index']}, certified size "
        f"{document['certified_size']} in {document['norm']}, confidence {document['confidence']}"
    )
    typer.echo(f"only the service's word, or the question: {', '.join(WORD)}")

"""``pixeldp plan --rate``: the size of a service that bears a load."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from models.capacity import Decisions, Machine, Sizing

_TIME = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>ms|s)")
# Of draws of a decision, and of a device's per second.
MOST = 1e9
_DEVICE = re.compile(r"(?P<name>[^=]+)=(?P<draws>\d+(\.\d+)?(e\d+)?)")


def size_service(
    rate: float,
    p99: str,
    device: str | None,
    counted: tuple[str | None, Path | None],
    pass_size: int,
    answer_ms: tuple[float, float],
    measured: Path | None,
    hourly: float | None,
    *,
    as_json: bool,
) -> None:
    """Print how many workers and fronts a load takes; the arguments are options of ``plan``.

    ``counted`` says the draws of a decision or where they are counted, and ``answer_ms`` what an
    answer takes the front, and a worker beside its draws.
    """
    from models.capacity import Machine, cost_per_million, size

    if not 0 < rate < float("inf"):
        raise typer.BadParameter(f"--rate must be above 0 and finite, not {rate}")
    if measured is not None:
        if device is not None or counted != (None, None):
            raise typer.BadParameter(
                "--measured says all that --device, --decisions and --certified say; give either"
            )
        name, machine = "device", _measured(measured)
    else:
        name, draws = _device(device)
        front, worker = (one / 1000 for one in answer_ms)
        machine = Machine.computed(_decisions(*counted), draws, pass_size, front, worker)
    found = size(machine, rate, _seconds(p99))
    cost = None if hourly is None else cost_per_million(found.workers, rate, hourly)
    if as_json:
        typer.echo(json.dumps({"device": name, **asdict(found), "cost_per_million": cost}))
    else:
        typer.echo(_told(name, found, cost))


def _measured(file: Path) -> "Machine":
    """Return what ``benchmarks.capacity`` has measured."""
    from pydantic import TypeAdapter, ValidationError

    from models.capacity import Machine

    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return TypeAdapter(Machine).validate_python(document["machine"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise typer.BadParameter(
            f"--measured: {file} is not what python -m benchmarks.capacity --json FILE writes "
            f"({type(error).__name__}: {reason})"
        ) from None


def _told(name: str, found: "Sizing", cost: float | None) -> str:
    lines = [
        f"{'workers, one for each ' + name:<30}{found.workers:>10,}",
        f"{'fronts, of one core each':<30}{found.fronts:>10,}",
        f"{'utilisation':<30}{found.busy:>10.0%}",
        f"{'most answers per second':<30}{found.capacity:>10,.4g}",
        f"{'median time, ms':<30}{1000 * found.median:>10,.3g}",
        f"{'99th percentile, ms':<30}{1000 * found.high:>10,.3g}",
    ]
    if cost is not None:
        lines.append(f"{'cost of a million answers':<30}{cost:>10,.4g}")
    return "\n".join(lines)


def _device(text: str | None) -> tuple[str, float]:
    read = _DEVICE.fullmatch(text or "")
    if read is None or not 0 < float(read["draws"]) <= MOST:
        raise typer.BadParameter(
            f"--device is {text!r}; expected NAME=DRAWS, such as h100=250000, with the draws per "
            "second that a worker measured for your model: GET /models of a running service shows "
            "draws_per_second, and make gpu measures a GPU"
        )
    return read["name"], float(read["draws"])


def _seconds(text: str) -> float:
    read = _TIME.fullmatch(text)
    if read is None or not float(read["number"]):
        raise typer.BadParameter(f"--p99 is {text!r}; expected a time such as 200ms or 1.5s")
    return float(read["number"]) / (1000 if read["unit"] == "ms" else 1)


def _decisions(text: str | None, certified: Path | None) -> "Decisions":
    """Return the draws of a decision, as stated or as counted.

    Raises:
        JobError: the folder has no answers.
    """
    from models.capacity import Decisions

    if (text is None) == (certified is None):
        raise typer.BadParameter(
            "expected either --decisions with mean,median,99th percentile of the draws, or "
            "--certified with a folder of pixeldp certify, made with your target"
        )
    if certified is not None:
        import numpy as np

        from models.bulk.job import read_columns

        columns, _ = read_columns(certified, "draws")
        draws = [one for one in columns["draws"] if one is not None]
        if not draws:
            raise ValueError(f"{certified}: no picture is answered there")
        median, high = np.quantile(draws, (0.5, 0.99))
        return Decisions(float(np.mean(draws)), float(median), float(high))
    try:
        mean, median, high = map(float, (text or "").split(","))
    except ValueError:
        mean = median = high = 0.0
    if not (1 <= mean <= MOST and 1 <= median <= high <= MOST):
        raise typer.BadParameter(
            f"--decisions is {text!r}; expected mean,median,99th percentile, such as 38,32,250"
        )
    return Decisions(mean, median, high)

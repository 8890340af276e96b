"""Everything that the project claims of GPUs, in one command of less than ten minutes.

    python -m benchmarks.gpu [--device cuda:0] [--seconds 560] [--only STEP,…] [--out runs/gpu]

Without a GPU it ends at once with status 2. ``--device cpu`` runs the same steps in small, to try
the command itself: its figures say nothing. The report, ``report.json`` and ``report.md``, is
written after every step. A step that no longer fits into the time is left out, and the report says
so. A step that fails does not stop the others; then the command ends with status 1.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import gpu_passes, gpu_service
from benchmarks.gpu_machine import Machine, environment, limits, tests
from models.device import find_device


class Step(NamedTuple):
    """One part of the report: what makes its figures, and about how many seconds it takes."""

    seconds: float
    run: Callable[[Machine], dict[str, Any]]


STEPS: dict[str, Step] = {
    "environment": Step(5, environment),
    "limits": Step(10, limits),
    "tests": Step(90, tests),
    "noise": Step(15, gpu_passes.noise),
    "rows": Step(120, gpu_passes.rows),
    "replays": Step(15, gpu_passes.replays),
    "short-memory": Step(20, gpu_passes.short_memory),
    "start": Step(30, gpu_service.start),
    "service": Step(90, gpu_service.saturated),
    "cohen": Step(10, gpu_service.cohen_loop),
    "faults": Step(60, gpu_service.faults),
}


class Report:
    """What was found so far, on disk after every step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, step: str, found: dict[str, Any]) -> None:
        """Add the figures of a step, print them, and write everything."""
        self.steps[step] = found
        print(f"{step}: {json.dumps(found, default=str)}", file=sys.stderr, flush=True)
        content = json.dumps(self.steps, indent=2, default=str)
        (self.folder / "report.json").write_text(f"{content}\n")
        (self.folder / "report.md").write_text(self.as_markdown())

    def as_markdown(self) -> str:
        """Return a table for each step."""
        parts = ["# GPU report\n"]
        for step, found in self.steps.items():
            rows = [f"| {name} | {_cell(value)} |" for name, value in found.items()]
            parts.append("\n".join([f"## {step}\n", "| figure | value |", "| --- | --- |", *rows]))
        return "\n\n".join(parts) + "\n"

    @property
    def failed(self) -> list[str]:
        """The steps that failed."""
        return [step for step, found in self.steps.items() if "failed" in found]


def _cell(value: object) -> str:
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def measure(machine: Machine, report: Report, chosen: list[str], seconds: float) -> None:
    """Run the chosen steps that fit into the time."""
    end = time.monotonic() + seconds
    for name in chosen:
        step, left = STEPS[name], end - time.monotonic()
        if left < step.seconds:
            report.add(name, {"left out": f"takes {step.seconds:g} s, and {left:.0f} s are left"})
            continue
        began = time.monotonic()
        try:
            found = step.run(machine)
        except Exception as error:  # whatever it was, the other steps go on
            where = traceback.format_exc().strip().splitlines()[-6:]
            found = {"failed": f"{type(error).__name__}: {error}", "where": " / ".join(where)}
        report.add(name, {**found, "seconds": round(time.monotonic() - began, 1)})


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=560.0, help="for everything")
    parser.add_argument("--only", default=",".join(STEPS), help="steps, separated by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - STEPS.keys():
        parser.error(f"unknown steps: {', '.join(sorted(unknown))}; known: {', '.join(STEPS)}")
    try:
        device = find_device(arguments.device)
    except ValueError as error:
        print(f"benchmarks.gpu: {error}, in which form the figures say nothing", file=sys.stderr)
        sys.exit(2)
    report = Report(arguments.out)
    measure(Machine(device), report, chosen, arguments.seconds)
    print(report.as_markdown())
    if report.failed:
        sys.exit(f"benchmarks.gpu: failed: {', '.join(report.failed)}")


if __name__ == "__main__":
    main()

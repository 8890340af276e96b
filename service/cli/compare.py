"""``pixeldp compare``: certification logs side by side."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from models.evaluation.logs import Log, LogFigures


def compare(
    logs: Annotated[
        list[str],
        typer.Argument(
            help="Logs as evaluate --tsv and Cohen et al.'s code write them: files, or NAME=FILE."
        ),
    ],
    radii: Annotated[
        str | None,
        typer.Option(help="Radii to report, separated by commas; by default multiples of 0.25."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for a plot as PNG and SVG (needs matplotlib).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare the certified accuracy of logs, picture by picture with that of the first log.

    Shares have 95 % intervals over pictures. Radii of different norms cannot be compared: a log
    does not say its norm, which is L2 unless evaluate --norm or the model says otherwise.
    """
    try:
        sizes = tuple(float(part) for part in radii.split(",")) if radii else ()
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, not {radii!r}") from None
    if not all(0 <= size < float("inf") for size in sizes):
        raise ValueError(f"radii must be at least 0, not {list(sizes)}")

    from pydantic_core import to_json

    from models.evaluation import logs as certification
    from models.evaluation.asked import check_matplotlib

    if plots is not None:
        check_matplotlib()
    read = _distinct(logs, [_read(text) for text in logs])
    figures = certification.compare(read, sizes)
    typer.echo(to_json(figures, indent=2).decode() if json else _tables(figures))
    if plots is not None:
        from models.evaluation.plots import plot_logs

        for file in plot_logs(read, plots):
            typer.echo(f"drawn: {file}", err=True)


def _read(text: str) -> "Log":
    from models.evaluation.logs import read_log

    name, equals, file = text.rpartition("=")
    if equals and not Path(text).exists():
        return read_log(Path(file), name)
    return read_log(Path(text))


def _distinct(texts: "Sequence[str]", logs: "Sequence[Log]") -> "list[Log]":
    """Name logs as they were given if they have the same name: often only their folders differ."""
    counts = Counter(log.name for log in logs)
    return [
        replace(log, name=text) if counts[log.name] > 1 else log
        for text, log in zip(texts, logs, strict=True)
    ]


def _tables(figures: "Sequence[LogFigures]") -> str:
    first, *others = figures
    names = [log.name for log in figures]
    widths = [max(24, len(name) + 2) for name in names]
    lines = [
        _row("", names, widths),
        _row("pictures", (f"{log.pictures:,}" for log in figures), widths),
        _row("mean radius", (f"{log.mean_radius:.3f}" for log in figures), widths),
    ]
    for place, at in enumerate(first.certified):
        shares = []
        for log in figures:
            low, high = log.certified[place].accuracy_interval
            shares.append(f"{log.certified[place].accuracy:.1%} ({100 * low:.1f}-{100 * high:.1f})")
        lines.append(_row(f"{at.radius:.4g}", shares, widths))
    paired = [log for log in others if log.paired]
    if paired:
        widths = [max(24, len(log.name) + 2) for log in paired]
        lines += [
            "",
            f"points above {first.name}, on common pictures",
            _row("", (log.name for log in paired), widths),
            _row("pictures", (f"{log.paired:,}" for log in paired), widths),
        ]
    for place, at in enumerate(first.certified if paired else ()):
        points = []
        for log in paired:
            found = log.differences[place]
            low, high = (100 * end for end in found.difference_interval)
            points.append(f"{100 * found.difference:+.1f} ({low:+.1f} to {high:+.1f})")
        lines.append(_row(f"{at.radius:.4g}", points, widths))
    lines += [
        f"{log.name}: has no pictures of {first.name}, or labels one of them differently"
        for log in others
        if not log.paired
    ]
    return "\n".join(lines)


def _row(head: str, cells: "Iterable[str]", widths: "Sequence[int]") -> str:
    parts = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{head:<12}{''.join(parts)}"

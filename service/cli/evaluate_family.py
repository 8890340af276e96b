"""``pixeldp evaluate --family``: the members of a family, and the envelope that they serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from service.cli.sizes import shown

if TYPE_CHECKING:
    from models.data.labelled import DataSet
    from models.evaluation.evaluate import Running
    from models.evaluation.families import FamilyFigures


def evaluate_members(
    path: Path,
    data: "DataSet",
    running: "Running",
    *,
    plots: Path | None,
    json: bool,
    **options: Any,
) -> None:
    """Measure all members of a family on the same pictures, and print their figures.

    Args:
        path: the family's file.
        data: the pictures.
        running: where and how to run.
        plots: the folder for a plot.
        json: whether to print JSON.
        options: of :func:`models.evaluation.evaluate.evaluate`.
    """
    from models.bundle import read_bundle
    from models.evaluation.evaluate import evaluate
    from models.evaluation.families import put_together
    from models.evaluation.plots import plot_family
    from models.family import check_members, read_family

    family = read_family(path)
    bundles = [read_bundle(folder) for folder in family.folders]
    check_members(path, bundles)
    members = [evaluate(bundle, data, running=running, **options) for bundle in bundles]
    figures = put_together(family, members)
    typer.echo(figures.model_dump_json(indent=2) if json else _table(figures))
    for file in plot_family(figures, plots) if plots is not None else []:
        typer.echo(f"drawn: {file}", err=True)


def _table(figures: "FamilyFigures") -> str:
    first = figures.members[0]
    names = [member.model for member in figures.members]
    widths = [max(24, len(name) + 2) for name in names]
    served = max(20, len(figures.name) + 12, *map(len, names))
    lines = [
        f"{figures.name} on {first.dataset}: {first.pictures:,} pictures, "
        f"{first.max_draws:,} draws each, confidence {first.confidence:g}; "
        "shares with 95 % intervals",
        "",
        f"{'':<26}{f'{figures.name} answers':<{served}}"
        + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True)),
    ]
    for place, at in enumerate(figures.envelope):
        found = [member.certified[place] for member in figures.members]
        cells = [
            f"{one.accuracy:.1%} ({100 * one.accuracy_interval[0]:.1f}-"
            f"{100 * one.accuracy_interval[1]:.1f}){'*' if name == at.best else ' '}"
            for one, name in zip(found, names, strict=True)
        ]
        what = f"certified at {first.norm} >= {shown(at.radius)}"
        lines.append(
            f"{what:<26}{f'by {at.member}':<{served}}"
            + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        )
    lines += [
        "",
        "* the best of the members at that size",
        "",
        "the envelope: the best over the members, chosen for each size by these same pictures",
        f"{'':<26}{'share':>7}  95 % interval of the best member's true share",
    ]
    for at in figures.envelope:
        low, high = at.best_interval
        what = f"certified at {first.norm} >= {shown(at.radius)}"
        lines.append(f"{what:<26}{at.best_accuracy:>7.1%}  {low:.1%} to {high:.1%}, by {at.best}")
    lines += [
        "The share leans upwards, as the luckier member is taken; the interval allows for that.",
        "It holds for one size at a time, and who asks at a size gets the member that answers it.",
        "",
    ]
    for name, radius in zip(names[1:], figures.best_from, strict=True):
        best = "never" if radius is None else f"from about {radius:.4g}"
        lines.append(f"{name} is better than all before it {best}")
    return "\n".join(lines)

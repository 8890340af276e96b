"""``pixeldp compare``: models, baselines and certification logs side by side."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from models.certification.names import Norm
from service.cli import measure_options
from service.cli.device_option import DeviceOption
from service.cli.sizes import shown

if TYPE_CHECKING:
    from models.bundle import Bundle
    from models.evaluation.comparison import Compared, ComparedFigures, Comparison
    from models.evaluation.figures import AttackFigures, Interval
    from models.evaluation.logs import Difference


def compare(
    subjects: Annotated[
        list[str],
        typer.Argument(
            help="Bundles, families, and logs as evaluate --tsv and Cohen et al.'s code write "
            "them: folders, files, names of the zoo, or NAME=one of these."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="For bundles: mnist, svhn, cifar10, cifar100, imagenet, digits, an .npz, or a "
            "folder."
        ),
    ] = None,
    root: measure_options.Root = None,
    split: measure_options.SplitOption = "test",
    download: measure_options.Download = False,
    every: measure_options.Every = 1,
    draws: measure_options.Draws = 1000,
    confidence: measure_options.Confidence = None,
    radii: Annotated[
        str | None,
        typer.Option(
            help="Sizes to report, and of attacks, separated by commas; by default chosen by norm, "
            "and for logs alone multiples of 0.25."
        ),
    ] = None,
    norm: Annotated[
        Norm | None,
        typer.Option(help="The norm of sizes; by default that of the first model that certifies."),
    ] = None,
    attack: measure_options.AttackOption = None,
    attack_pictures: measure_options.AttackPictures = 100,
    attack_steps: measure_options.AttackSteps = 20,
    attack_draws: measure_options.AttackDraws = 16,
    thresholds: measure_options.Thresholds = None,
    resume: measure_options.Resume = None,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for plots as PNG and SVG (needs matplotlib).")
    ] = None,
    tsv: Annotated[
        Path | None, typer.Option(help="Write all figures into this file, one a line.")
    ] = None,
    device: DeviceOption = None,
    precision: measure_options.Precision = None,
    provider: measure_options.ProviderOption = None,
    pass_size: measure_options.PassSize = 256,
    threads: measure_options.Threads = None,
    seed: measure_options.Seed = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare models, baselines and logs, picture by picture with the first.

    All bundles get the same pictures and are attacked in the same way. One that was trained without
    noise (train --undefended, mnist-madry) certifies nothing, and has its accuracy. A provider and
    a number format are for those models that can be run so: intervals run in one way only.

    Shares and differences have 95 % intervals over pictures, each for itself. Radii of different
    norms cannot be compared: a log does not say its norm, which is L2 unless evaluate --norm or the
    model says otherwise.
    """
    sizes, limits = measure_options.read_sizes(radii), measure_options.read_sizes(thresholds)
    names = measure_options.read_attacks(attack)
    if not all(0 <= size < float("inf") for size in sizes):
        raise ValueError(f"radii must be at least 0, not {list(sizes)}")

    from models.bundle import read_bundle
    from models.evaluation.asked import RADII, Attacks, check_matplotlib

    if plots is not None:
        check_matplotlib()
    given = _distinct([one for text in subjects for one in _given(text)])
    bundles = {one.path: read_bundle(one.path) for one in given if one.bundle}
    if bundles:
        if data is None:
            raise typer.BadParameter("Missing option '--data': bundles are measured on pictures")
        measure_options.check_sizes(sizes if names else (), limits, names)
        measure_options.check_provider(device, provider, precision, None)
    else:
        _for_bundles({"data": data, "attack": attack, "thresholds": thresholds, "norm": norm})

    from models.evaluation.comparison import norm_of, put_side_by_side, write_table

    comparison = None
    if data is not None:
        norm = norm or norm_of(list(bundles.values()))
        sizes = sizes or RADII[norm]
        measure_options.use_threads(threads)

        from models.device import find_device
        from models.evaluation.comparison import Comparison
        from models.evaluation.evaluate import Running
        from models.evaluation.kept import Kept

        comparison = Comparison(
            measure_options.read_pictures(data, root, split, download).every(every),
            every,
            norm,
            sizes,
            draws,
            confidence,
            Attacks(names, attack_pictures, attack_steps, attack_draws, limits),
            Running(find_device(device), precision, pass_size, seed, provider),
            Kept(resume),
        )
    with measure_options.refused():
        measured = [_measured(one, bundles.get(one.path), comparison) for one in given]
    figures = put_side_by_side(measured, sizes, limits)
    _print(figures, json)
    if tsv is not None:
        write_table(tsv, figures)
    if plots is not None:
        _draw(measured, figures, plots, norm)


class _Given(NamedTuple):
    """What was given: its name, the text that named it, and where it is."""

    name: str
    text: str
    path: Path
    bundle: bool


def _given(text: str) -> Iterator[_Given]:
    """Find what a text names: a log, a bundle, or the members of a family."""
    from models.bundle import describe, locate
    from models.evaluation.logs import name_of
    from models.family import is_family, read_family

    name, equals, file = text.rpartition("=")
    if not equals or Path(text).exists():
        name, file = "", text
    path = locate(Path(file))
    if is_family(path):
        for folder in read_family(path).folders:
            own = describe(folder).manifest.name
            yield _Given(f"{name}: {own}" if name else own, f"{text}: {own}", folder, True)
    elif path.is_dir():
        yield _Given(name or describe(path).manifest.name, text, path, True)
    else:
        yield _Given(name or name_of(path), text, path, False)


def _distinct(given: Sequence[_Given]) -> list[_Given]:
    """Name those as they were given that have the same name: often only their folders differ."""
    counts = Counter(one.name for one in given)
    return [one._replace(name=one.text) if counts[one.name] > 1 else one for one in given]


def _for_bundles(options: dict[str, str | None]) -> None:
    """Refuse options that logs alone have no use for."""
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"--{name} is for bundles, and all of these are logs")


def _measured(
    given: _Given, bundle: "Bundle | None", comparison: "Comparison | None"
) -> "Compared":
    from models.evaluation.comparison import Compared
    from models.evaluation.logs import read_log

    if bundle is None or comparison is None:
        return Compared(read_log(given.path, given.name))
    return comparison.measure(bundle, given.name)


def _draw(
    measured: "Sequence[Compared]",
    figures: "Sequence[ComparedFigures]",
    folder: Path,
    norm: Norm | None,
) -> None:
    from models.evaluation.plots import plot_compared

    logs = [one.log for one in measured if one.certifies]
    attacked = {one.name: one.attacks for one in figures if one.attacks}
    for file in plot_compared(logs, attacked, folder, norm):
        typer.echo(f"drawn: {file}", err=True)


def _print(figures: "Sequence[ComparedFigures]", json: bool) -> None:
    from pydantic_core import to_json

    if json:
        typer.echo(to_json(figures, indent=2).decode())
        return
    lines = [*_certified(figures), *_differences(figures)]
    for place, attack in enumerate(next((one.attacks for one in figures if one.attacks), ())):
        lines += _under_attack([one for one in figures if one.attacks], place, attack)
    typer.echo("\n".join(lines))


def _certified(figures: "Sequence[ComparedFigures]") -> list[str]:
    widths = _widths(figures)
    lines = [
        _row("", (one.name for one in figures), widths),
        _row("pictures", (f"{one.pictures:,}" for one in figures), widths),
    ]
    if any(one.accuracy_interval for one in figures):
        shares = (_share(one.accuracy, one.accuracy_interval) for one in figures)
        lines.append(_row("accuracy", shares, widths))
    radii = (f"{one.mean_radius:.3f}" if one.certifies else "-" for one in figures)
    lines.append(_row("mean radius", radii, widths))
    for place, at in enumerate(figures[0].certified):
        found = [one.certified[place] for one in figures]
        shares = (_share(one.accuracy, one.accuracy_interval) for one in found)
        lines.append(_row(shown(at.radius), shares, widths))
    return lines


def _differences(figures: "Sequence[ComparedFigures]") -> list[str]:
    first, *others = figures
    lines = []
    if paired := [one for one in others if one.paired]:
        widths = _widths(paired)
        lines += [
            "",
            f"points above {first.name}, on common pictures",
            _row("", (one.name for one in paired), widths),
            _row("pictures", (f"{one.paired:,}" for one in paired), widths),
        ]
        for place, at in enumerate(first.certified):
            points = (_points(one.differences[place]) for one in paired)
            lines.append(_row(shown(at.radius), points, widths))
    return lines + [
        f"{one.name}: has no pictures of {first.name}, or labels one of them differently"
        for one in others
        if not one.paired
    ]


def _under_attack(
    figures: "Sequence[ComparedFigures]", place: int, attack: "AttackFigures"
) -> list[str]:
    """Show one attack on all that were attacked: accuracy, differences, precision and recall."""
    first, *others = figures
    widths = _widths(figures)
    draws = ", ".join(f"{one.attacks[place].draws}" for one in figures)
    lines = [
        "",
        f"{attack.attack}, {attack.norm}, {attack.steps} steps, gradients over {draws} draws, "
        f"{attack.pictures:,} pictures: accuracy, any prediction",
        _row("", (one.name for one in figures), widths),
    ]
    for size, at in enumerate(attack.accuracies):
        found = [one.attacks[place].accuracies[size] for one in figures]
        shares = (_share(one.accuracy, one.accuracy_interval) for one in found)
        lines.append(_row(shown(at.radius), shares, widths))
    if others:
        lines.append(f"points above {first.name}, on the same pictures")
        for size, at in enumerate(attack.accuracies):
            points = [_points(one.attack_differences[place].differences[size]) for one in others]
            lines.append(_row(shown(at.radius), ("", *points), widths))
    certifying = [one for one in figures if one.attacks[place].accuracies[0].robust]
    if not certifying:
        return lines
    widths = _widths(certifying)
    for number, threshold in enumerate(certifying[0].attacks[place].accuracies[0].robust):
        for name in ("precision", "recall"):
            lines += [
                f"{name} of what is certified to {shown(threshold.radius)}",
                _row("", (one.name for one in certifying), widths),
            ]
            for size, at in enumerate(attack.accuracies):
                robust = [one.attacks[place].accuracies[size].robust[number] for one in certifying]
                shares = (
                    _share(getattr(one, name), getattr(one, f"{name}_interval")) for one in robust
                )
                lines.append(_row(shown(at.radius), shares, widths))
    return lines


def _share(share: float | None, interval: "Interval | None") -> str:
    if share is None or interval is None:
        return "-"
    return f"{share:.1%} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"


def _points(found: "Difference") -> str:
    low, high = (100 * end for end in found.difference_interval)
    return f"{100 * found.difference:+.1f} ({low:+.1f} to {high:+.1f})"


def _widths(figures: "Sequence[ComparedFigures]") -> list[int]:
    return [max(24, len(one.name) + 2) for one in figures]


def _row(head: str, cells: Iterable[str], widths: Sequence[int]) -> str:
    parts = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{head:<12}{''.join(parts)}"

"""Plots of an evaluation and of certification logs, as PNG and SVG.

Colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart.
Lines also differ in dashes and markers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.certification.names import Norm
from models.evaluation.asked import AttackName, check_matplotlib
from models.evaluation.families import FamilyFigures
from models.evaluation.figures import AccuracyAt, AttackFigures, Evaluation, certified_curve
from models.evaluation.logs import Log
from models.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#595959"
OTHERS = ("#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("-", "--", "-.", ":")
Attacks = Sequence[AttackFigures]
NORM_NAMES = {"l1": "L1", "l2": "L2", "linf": "L∞"}
MARKERS: dict[AttackName, str] = {"pgd": "o", "carlini-wagner": "s", "autoattack": "^"}
SETTINGS: Any = {  # matplotlib's own type lists every key there is
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "svg.fonttype": "none",
    # The same figures make the same file.
    "svg.hashsalt": "pixeldp",
}


def plot(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw the plots into ``folder``, which is created if it does not exist.

    Returns:
        The files: ``certified-accuracy`` and ``precision-recall``, and ``under-attack`` if there
        are thresholds, each as .png and .svg.

    Raises:
        ValueError: matplotlib is not installed.
    """
    title = _title(evaluation)
    drawn = {"certified-accuracy": _certified_accuracy, "precision-recall": _precision_recall}
    files = [
        file
        for name, draw in drawn.items()
        for file in _draw(folder / name, title, partial(draw, evaluation))
    ]
    if any(attack.accuracies[0].robust for attack in evaluation.attacks):
        attacked = {evaluation.model: evaluation.attacks}
        if beside := evaluation.baseline:
            attacked[beside.model] = beside.attacks
        files += _draw(folder / "under-attack", title, partial(_under_attack, attacked))
    return files


def plot_compared(
    logs: Sequence[Log], attacked: Mapping[str, Attacks], folder: Path, norm: Norm | None = None
) -> list[Path]:
    """Draw logs and attacked models side by side into ``folder``, each plot as .png and .svg.

    Args:
        logs: those of everything that certifies.
        attacked: the figures under attack of each attacked model, by its name.
        folder: where to; it is created if it does not exist.
        norm: of sizes, if it is known.

    Returns:
        The files: ``compared``, the certified accuracy, and ``under-attack`` if there are figures.

    Raises:
        ValueError: matplotlib is not installed.
    """
    title = "Certified accuracy; bands: 95 % over the pictures of each"
    # One colour for each, in both plots.
    names = list(dict.fromkeys([*attacked, *(log.name for log in logs)]))
    files = _draw(folder / "compared", title, partial(_compared, logs, names, norm)) if logs else []
    if attacked:
        first = next(iter(attacked.values()))[0]
        title = (
            f"Under attack in {first.steps} steps, {first.pictures:,} pictures; "
            "bands: 95 % over pictures"
        )
        files += _draw(folder / "under-attack", title, partial(_under_attack, attacked))
    return files


def plot_family(figures: FamilyFigures, folder: Path) -> list[Path]:
    """Draw the certified accuracy of each member into ``folder``, as ``family`` .png and .svg.

    Raises:
        ValueError: matplotlib is not installed.
    """
    first = figures.members[0]
    title = _title(first).replace(f"{first.model} on", f"{figures.name} on", 1)
    return _draw(folder / "family", title, partial(_members, figures))


def _draw(path: Path, title: str, draw: Callable[["Figure"], None]) -> list[Path]:
    check_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    files = []
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        draw(figure)
        figure.legend(loc="outside lower left", fontsize=10)
        for suffix in ("png", "svg"):
            file = path.with_name(f"{path.name}.{suffix}")
            metadata = {"Date": None} if suffix == "svg" else {}
            drawn = BytesIO()
            figure.savefig(drawn, format=suffix, dpi=150, metadata=metadata)
            write_whole(file, drawn.getvalue())
            files.append(file)
    return files


def _members(figures: FamilyFigures, figure: "Figure") -> None:
    first = figures.members[0]
    largest = max(at.radius for one in figures.members for at in (*one.curve, *one.certified))
    what = f"{NORM_NAMES[first.norm]} size of the change, pixel values in [0, 1]"
    axes = _axes(figure, what, largest)
    axes.set_ylabel("share of pictures")
    for index, member in enumerate(figures.members):
        _band(axes, member.curve, "accuracy", *_look(index), f"{member.model}: certified accuracy")
    axes.plot(
        [at.radius for at in figures.envelope],
        [at.accuracy for at in figures.envelope],
        color=GREY,
        linestyle="none",
        marker="o",
        label=f"{figures.name}: the member that answers this target",
    )


def _look(index: int) -> tuple[str, str]:
    """Return the colour and the dashes of a line."""
    colours = (BLUE, ORANGE, GREEN, *OTHERS)
    return colours[index % len(colours)], DASHES[index % len(DASHES)]


def _compared(
    logs: Sequence[Log], names: Sequence[str], norm: Norm | None, figure: "Figure"
) -> None:
    largest = max(float(log.radii.max()) for log in logs)
    what = "certified radius" if norm is None else f"{NORM_NAMES[norm]} size of the change"
    axes = _axes(figure, f"{what}, pixel values in [0, 1]", largest or 1.0)
    axes.set_ylabel("share of pictures")
    for log in logs:
        curve = certified_curve(log.right, log.radii)
        label = f"{log.name}: certified accuracy, {len(log.indices):,} pictures"
        _band(axes, curve, "accuracy", *_look(names.index(log.name)), label)


def _certified_accuracy(evaluation: Evaluation, figure: "Figure") -> None:
    axes = _size_axes(evaluation, figure, "of the change")
    axes.set_ylabel("share of pictures")
    curve = evaluation.curve
    name = f"{evaluation.model}: certified accuracy (accuracy {evaluation.accuracy:.1%})"
    _band(axes, curve, "accuracy", BLUE, "-", name)
    # The certified accuracy is never above the accuracy under any attack.
    lines = [(attack, evaluation.model, GREEN, "-") for attack in evaluation.attacks]
    if evaluation.baseline:
        beside = evaluation.baseline
        lines += [(attack, beside.model, ORANGE, "--") for attack in beside.attacks]
    for index, (attack, name, colour, dashes) in enumerate(lines):
        # Shifted a little, so that bars do not hide each other.
        aside = 0.006 * axes.get_xlim()[1] * (index - (len(lines) - 1) / 2)
        shares = [at.accuracy for at in attack.accuracies]
        below = [at.accuracy - at.accuracy_interval[0] for at in attack.accuracies]
        above = [at.accuracy_interval[1] - at.accuracy for at in attack.accuracies]
        axes.errorbar(
            [at.radius + aside for at in attack.accuracies],
            shares,
            yerr=[below, above],
            color=colour,
            linestyle=dashes,
            marker=MARKERS[attack.attack],
            markersize=5,
            linewidth=1.5,
            elinewidth=1,
            capsize=2,
            label=f"{name}: accuracy under {attack.attack}, {attack.pictures:,} pictures",
        )


def _precision_recall(evaluation: Evaluation, figure: "Figure") -> None:
    axes = _size_axes(evaluation, figure, "required (threshold)")
    axes.set_ylabel("share")
    curve = evaluation.curve
    _band(axes, curve, "precision", BLUE, "-", "precision: right among the robust")
    _band(axes, curve, "recall", ORANGE, "--", "recall: robust among the right")
    axes.plot(
        [at.radius for at in curve],
        [at.fraction for at in curve],
        color=GREY,
        linestyle=":",
        linewidth=2,
        label="fraction: robust among all",
    )


def _under_attack(attacked: Mapping[str, Attacks], figure: "Figure") -> None:
    """Draw a column for each attack: above precision, below recall at each threshold.

    Of what has no thresholds, the accuracy is above: it stands by all of its predictions. Markers
    are at the sizes that were attacked.
    """
    first = next(iter(attacked.values()))
    largest = max(at.radius for at in first[0].accuracies)
    what = f"{NORM_NAMES[first[0].norm]} size of the attack"
    for column, name in enumerate(attack.attack for attack in first):
        above = _axes(figure, "", largest, (2, len(first), column + 1))
        below = _axes(figure, what, largest, (2, len(first), len(first) + column + 1))
        above.set_title(name, fontsize=11)
        above.set_ylabel("" if column else "precision")
        below.set_ylabel("" if column else "recall")
        for index, (subject, attacks) in enumerate(attacked.items()):
            colour, accuracies = _look(index)[0], attacks[column].accuracies
            marker = MARKERS[attacks[column].attack]
            for place, at in enumerate(accuracies[0].robust):
                label = "" if column else f"{subject}, certified to {at.radius:g}"
                dashes = DASHES[place % len(DASHES)]
                curve = [
                    one.robust[place].model_copy(update={"radius": one.radius})
                    for one in accuracies
                ]
                _band(above, curve, "precision", colour, dashes, label, marker)
                _band(below, curve, "recall", colour, dashes, "", marker)
            if not accuracies[0].robust:
                label = "" if column else f"{subject}: accuracy, any prediction"
                _band(above, accuracies, "accuracy", colour, ":", label, marker)


def _band(
    axes: "Axes",
    curve: Sequence[AccuracyAt],
    member: str,
    colour: str,
    dashes: str,
    label: str,
    marker: str = "",
) -> None:
    known = [at for at in curve if getattr(at, member) is not None]
    radii = [at.radius for at in known]
    lower = [getattr(at, f"{member}_interval")[0] for at in known]
    upper = [getattr(at, f"{member}_interval")[1] for at in known]
    shares = [getattr(at, member) for at in known]
    axes.fill_between(radii, lower, upper, color=colour, alpha=0.2, linewidth=0)
    axes.plot(
        radii,
        shares,
        color=colour,
        linestyle=dashes,
        linewidth=2,
        marker=marker,
        markersize=5,
        label=label,
    )


def _size_axes(evaluation: Evaluation, figure: "Figure", what: str) -> "Axes":
    largest = max(evaluation.curve[-1].radius, max(at.radius for at in evaluation.certified))
    what = f"{NORM_NAMES[evaluation.norm]} size {what}, pixel values in [0, 1]"
    return _axes(figure, what, largest)


def _axes(
    figure: "Figure", what: str, largest: float, place: tuple[int, int, int] = (1, 1, 1)
) -> "Axes":
    axes = figure.add_subplot(*place)
    axes.set_xlabel(what)
    axes.set_ylim(0, 1.01)
    axes.set_xlim(-0.02 * largest, largest * 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    return axes


def _title(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.model} on {evaluation.dataset or 'its pictures'}: "
        f"{evaluation.pictures:,} pictures, {evaluation.max_draws:,} draws each,\n"
        f"confidence {evaluation.confidence:g}; bands and bars: 95 % over pictures"
    )

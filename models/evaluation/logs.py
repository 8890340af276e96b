"""Certification logs in the format of Cohen et al. 2019, and how they are compared.

A log has a header and, for each picture, a line of values that are separated by tabs:

=======  =========================================================================================
idx      the picture's index in its data set
label    its right label, an index
predict  the certified label, or -1 if nothing is certified (an abstention)
radius   the certified size; logs written here round it down, to 6 digits
correct  1 if ``predict`` is ``label``, else 0
time     hours:minutes:seconds
=======  =========================================================================================

As in that paper's ``analyze.py``, a picture counts at a radius if it is correct and its own radius
reaches that. Logs are compared with the first one picture by picture where their indices agree.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import repeat
from math import isfinite
from pathlib import Path

import numpy as np

from models.bundle import Part
from models.certification.arrays import Floats, Integers
from models.certification.rounding import round_down
from models.evaluation.figures import LEVEL, AccuracyAt, Flags, interval
from models.files import write_whole

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
ABSTAINED = -1


@dataclass(frozen=True, eq=False)
class Log:
    """A log: arrays [N], in the order of ``indices``, which differ from each other."""

    name: str
    indices: Integers
    labels: Integers
    radii: Floats
    right: Flags

    def reached(self, radius: float) -> Flags:
        """Return which pictures count at ``radius``, [N]."""
        return self.right & (self.radii >= radius)


class Difference(Part):
    """At ``radius``, by how much a log's share is above that of the first, on common pictures."""

    radius: float
    difference: float
    difference_interval: tuple[float, float]


class LogFigures(Part):
    """The figures of one log.

    Attributes:
        name: the log's name.
        pictures: its number of pictures.
        mean_radius: the mean over all pictures of the radius, or 0 if the label is wrong ("ACR").
        certified: certified accuracy at each radius.
        paired: the number of pictures that the first log has, too; 0 for the first log itself, or
            if the logs label one of them differently.
        differences: the differences on those pictures.
    """

    name: str
    pictures: int
    mean_radius: float
    certified: tuple[AccuracyAt, ...]
    paired: int = 0
    differences: tuple[Difference, ...] = ()


def write_log(
    file: Path,
    indices: Integers,
    labels: Integers,
    leaders: Integers,
    sizes: Floats,
    seconds: Floats,
) -> None:
    """Write a log; each argument has a value for each picture, [N].

    Args:
        file: the log, which is replaced.
        indices: of the pictures.
        labels: their right labels.
        leaders: the labels that lead.
        sizes: the certified sizes; 0 is an abstention, whatever leads.
        seconds: the time that each picture took.
    """
    lines = ["\t".join(COLUMNS)]
    for index, label, leader, size, took in zip(
        indices, labels, leaders, sizes, seconds, strict=True
    ):
        predicted = int(leader) if size > 0 else ABSTAINED
        radius, right = round_down(float(size)), int(predicted == label)
        time = timedelta(seconds=float(took))
        lines.append(f"{index}\t{label}\t{predicted}\t{radius}\t{right}\t{time}")
    write_whole(file, "".join(f"{line}\n" for line in lines).encode())


def read_log(file: Path, name: str = "") -> Log:
    """Read a log, its own or another program's; further columns are passed over.

    Args:
        file: the log.
        name: its name; by default that of the file, without its suffix.

    Raises:
        ValueError: it is not such a log, or contradicts itself; says in which line.
    """
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is not a certification log (not UTF-8 text)") from None
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    needed = COLUMNS[:5]
    if missing := [column for column in needed if column not in (rows.fieldnames or ())]:
        raise ValueError(
            f"{file}: is not a certification log: its first line lacks {', '.join(missing)}; "
            f"expected {', '.join(COLUMNS)}, separated by tabs"
        )
    found: dict[int, tuple[int, float, bool]] = {}
    for row in rows:
        place = f"{file}, line {rows.line_num}"
        try:
            index, label, predicted = (int(row[column]) for column in needed[:3])
            radius, right = float(row["radius"]), bool(("0", "1").index(row["correct"].strip()))
        except (TypeError, ValueError, AttributeError):
            values = {column: row[column] for column in needed}
            raise ValueError(f"{place}: expected a number in each column, found {values}") from None
        if index in found:
            raise ValueError(f"{place}: the picture {index} is there twice")
        if not isfinite(radius) or radius < 0:
            raise ValueError(f"{place}: the radius is {radius}; expected a number of at least 0")
        if right != (predicted == label):
            raise ValueError(
                f"{place}: correct is {int(right)}, but predict is {predicted} and label {label}"
            )
        found[index] = label, radius, right
    if not found:
        raise ValueError(f"{file}: has no pictures")
    indices = np.array(sorted(found))
    labels, radii, rights = zip(*(found[index] for index in indices.tolist()), strict=True)
    return Log(name or name_of(file), indices, np.array(labels), np.array(radii), np.array(rights))


def name_of(file: Path) -> str:
    """Return a log's name: that of its file, without a suffix that says nothing."""
    return file.stem if file.suffix in (".csv", ".log", ".tsv", ".txt") else file.name


def compare(logs: Sequence[Log], radii: Sequence[float] = ()) -> tuple[LogFigures, ...]:
    """Return the figures of each log, at ``radii`` or at steps up to the largest radius."""
    radii = tuple(radii) or _steps(max(float(log.radii.max()) for log in logs))
    first, *others = logs
    return (_figures(first, radii), *map(_figures, others, repeat(radii), repeat(first)))


def _figures(log: Log, radii: Sequence[float], first: Log | None = None) -> LogFigures:
    count = len(log.indices)
    certified = []
    for radius in radii:
        reached = int(log.reached(radius).sum())
        certified.append(
            AccuracyAt(
                radius=radius,
                accuracy=reached / count,
                accuracy_interval=interval(reached, count),
            )
        )
    figures = LogFigures(
        name=log.name,
        pictures=count,
        mean_radius=float(np.where(log.right, log.radii, 0).mean()),
        certified=tuple(certified),
    )
    if first is None:
        return figures
    _, ours, theirs = np.intersect1d(
        log.indices, first.indices, assume_unique=True, return_indices=True
    )
    if not len(ours) or (log.labels[ours] != first.labels[theirs]).any():
        return figures
    differences = (
        difference_at(radius, log.reached(radius)[ours], first.reached(radius)[theirs])
        for radius in radii
    )
    return figures.model_copy(update={"paired": len(ours), "differences": tuple(differences)})


def difference_at(radius: float, ours: Flags, theirs: Flags) -> Difference:
    """Bound the difference of two shares of the same pictures.

    It is the share of pictures that only we reach, less the share that only they reach. Each has an
    interval at 97.5 %, so that both hold at 95 % (Bonferroni's inequality), and so does the
    difference.
    """
    gained, lost, count = int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours)
    level = (1 + LEVEL) / 2
    more, less = interval(gained, count, level), interval(lost, count, level)
    return Difference(
        radius=radius,
        difference=(gained - lost) / count,
        difference_interval=(more[0] - less[1], more[1] - less[0]),
    )


def _steps(largest: float) -> tuple[float, ...]:
    """Return multiples of 0.25 from 0 to ``largest``, or of a multiple of it for long tables."""
    step = 0.25
    while largest / step > 12:
        step *= 2
    return tuple(step * number for number in range(int(largest / step) + 1))

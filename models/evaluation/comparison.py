"""Models, baselines and certification logs side by side, on the same pictures.

A model is measured as :mod:`models.evaluation.evaluate` measures it, and then counts as its log
would: at a size of 0 only if its label is right and certified. A baseline, a bundle that was
trained without noise, certifies nothing; at a size of 0 it counts if its label is right.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.asking import ask
from models.bundle import Bundle, Manifest, Part
from models.certification.names import Norm
from models.data.labelled import DataSet
from models.evaluation.asked import USUAL, AttackName, Attacks, check_data
from models.evaluation.baseline import Baseline
from models.evaluation.evaluate import Running
from models.evaluation.figures import AttackFigures, Interval, Share, interval
from models.evaluation.kept import Kept
from models.evaluation.logs import Difference, Log, LogFigures, compare, difference_at
from models.evaluation.measuring import Attacked, Certifier, Measuring, Subject, attack_figures
from models.files import write_whole
from models.loaded import load_model
from models.training.recipe import NO_NOISE

COLUMNS = ("model", "figure", "attack", "size", "threshold", "share", "lower", "upper", "pictures")


class AttackDifferences(Part):
    """By how much the accuracy under an attack is above that of the first model that was attacked.

    Both were attacked by the same steps on the same pictures.
    """

    attack: AttackName
    differences: tuple[Difference, ...]


class ComparedFigures(LogFigures):
    """The figures of a log, or those of a bundle, which has some more.

    Attributes:
        accuracy: the share of pictures with the right label, certified or not; None of a log, which
            does not say it.
        accuracy_interval: at 95 %, like all intervals here.
        certifies: whether it certifies anything.
        attacks: accuracy under attack, with precision and recall of what is certified.
        attack_differences: to the first model that was attacked; empty for itself.
    """

    accuracy: Share | None = None
    accuracy_interval: Interval | None = None
    certifies: bool = True
    attacks: tuple[AttackFigures, ...] = ()
    attack_differences: tuple[AttackDifferences, ...] = ()


@dataclass(frozen=True, eq=False)
class Compared:
    """A log, or a bundle that was measured as one.

    Attributes:
        log: its log.
        right: of a bundle, how many pictures have the right label; None of a log.
        certifies: whether it certifies anything.
        attacked: its attacked pictures.
    """

    log: Log
    right: int | None = None
    certifies: bool = True
    attacked: tuple[Attacked, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What all bundles are asked.

    Attributes:
        data: the pictures.
        every: which of the data set they are: every N-th, from the first.
        norm: of all sizes.
        radii: of certified accuracy and of attacks.
        max_draws: for each picture.
        confidence: η of each certificate; None for the usual one of each model.
        attacks: how to attack, if at all.
        running: where and how to run.
        kept: where answers are kept.
    """

    data: DataSet
    every: int
    norm: Norm
    radii: tuple[float, ...]
    max_draws: int
    confidence: float | None
    attacks: Attacks
    running: Running
    kept: Kept

    def measure(self, bundle: Bundle, name: str) -> Compared:
        """Measure a bundle.

        Args:
            bundle: its bundle.
            name: its name in tables and plots.

        Raises:
            ProviderError: it cannot be run in this way here.
            BundleError: it cannot be trusted.
            ValueError: its labels are not those of the pictures, it cannot certify them, or options
                are out of range.
        """
        subject = self._subject(bundle)
        seed = self.running.seed
        measuring = Measuring(self.data, self.norm, self.radii, self.attacks, seed, self.kept)
        answers = measuring.answers(subject, f"{name} on unaltered pictures")
        right = answers.leaders == self.data.labels
        certifies = isinstance(subject, Certifier)
        log = Log(
            name,
            np.arange(len(self.data)) * self.every,
            self.data.labels,
            answers.sizes,
            right & (answers.sizes > 0) if certifies else right,
        )
        attacked = tuple(measuring.attacked(subject, answers))
        return Compared(log, int(right.sum()), certifies, attacked)

    def _subject(self, bundle: Bundle) -> Subject:
        check_data(bundle.manifest, self.data, self.attacks, None)
        if is_undefended(bundle.manifest):
            return Baseline(bundle, bundle.manifest, self.running.device)
        question = ask(
            bundle.manifest, self.confidence, self.max_draws, norm=self.norm, usual=USUAL
        )
        model, running = load_model(bundle), self.running
        if bundle.manifest.noise.mechanism == "interval":
            # There is one way only to run intervals.
            running = replace(running, provider=None, precision=None)
        return Certifier(model, running.load(model, self.kept), question)


def is_undefended(manifest: Manifest) -> bool:
    """Whether a bundle was trained without noise, so that it certifies nothing."""
    noise = manifest.noise
    return noise.draws is None and noise.scale <= NO_NOISE


def norm_of(bundles: Sequence[Bundle]) -> Norm:
    """Return the norm in which bundles are compared by default: that of the first that certifies.

    Raises:
        ValueError: none does.
    """
    for bundle in bundles:
        if not is_undefended(bundle.manifest):
            return bundle.manifest.sensitivity.input_norm
    raise ValueError("none of these bundles certifies anything; state the --norm of attacks")


def put_side_by_side(
    compared: Sequence[Compared], radii: Sequence[float], thresholds: Sequence[float]
) -> tuple[ComparedFigures, ...]:
    """Return the figures of each.

    Args:
        compared: logs and bundles.
        radii: at which certified accuracy is reported; by default steps up to the largest.
        thresholds: on certified sizes of attacked pictures.
    """
    logs = compare([one.log for one in compared], radii)
    first = next((one for one in compared if one.attacked), None)
    found = []
    for one, figures in zip(compared, logs, strict=True):
        more = ComparedFigures(
            **figures.model_dump(),
            certifies=one.certifies,
            attacks=attack_figures(one.attacked, thresholds if one.certifies else ()),
            attack_differences=_differences(one, first) if first and one is not first else (),
        )
        if one.right is not None:
            count = len(one.log.indices)
            accuracy = {
                "accuracy": one.right / count,
                "accuracy_interval": interval(one.right, count),
            }
            more = more.model_copy(update=accuracy)
        found.append(more)
    return tuple(found)


def _differences(one: Compared, first: Compared) -> tuple[AttackDifferences, ...]:
    """Compare accuracies under the same attacks, on the same pictures."""
    pairs = list(zip(one.attacked, first.attacked, strict=bool(one.attacked)))
    return tuple(
        AttackDifferences(
            attack=name,
            differences=tuple(
                difference_at(ours.radius, ours.right, theirs.right)
                for ours, theirs in pairs
                if ours.attack.name == name
            ),
        )
        for name in dict.fromkeys(ours.attack.name for ours, _ in pairs)
    )


def write_table(file: Path, figures: Sequence[ComparedFigures]) -> None:
    """Write all figures as lines of values that are separated by tabs, with ``COLUMNS`` first.

    ``figure`` is ``accuracy``, ``certified``, ``attacked`` (accuracy under attack), ``precision``
    or ``recall`` (under attack, at a threshold), or one of them with ``difference`` behind it, to
    the first model. A share that is not defined is empty.
    """
    rows = [COLUMNS, *(row for one in figures for row in _rows(one))]
    text = "".join("\t".join(_cell(value) for value in row) + "\n" for row in rows)
    write_whole(file, text.encode())


Row = tuple[object, ...]


def _rows(one: ComparedFigures) -> list[Row]:
    rows: list[Row] = []
    if one.accuracy_interval is not None:
        limits = one.accuracy_interval
        rows.append((one.name, "accuracy", "", 0.0, "", one.accuracy, *limits, one.pictures))
    rows += [
        (one.name, "certified", "", at.radius, "", at.accuracy, *at.accuracy_interval, one.pictures)
        for at in one.certified
    ]
    rows += [
        (one.name, "certified difference", "", *_difference(at), one.paired)
        for at in one.differences
    ]
    for attack in one.attacks:
        under, count = attack.attack, attack.pictures
        for at in attack.accuracies:
            share = (at.radius, "", at.accuracy, *at.accuracy_interval, count)
            rows.append((one.name, "attacked", under, *share))
            for robust in at.robust:
                for name in ("precision", "recall"):
                    ends = getattr(robust, f"{name}_interval") or (None, None)
                    figure = (at.radius, robust.radius, getattr(robust, name), *ends, count)
                    rows.append((one.name, name, under, *figure))
    for differences in one.attack_differences:
        count = one.attacks[0].pictures
        rows += [
            (one.name, "attacked difference", differences.attack, *_difference(at), count)
            for at in differences.differences
        ]
    return rows


def _difference(at: Difference) -> Row:
    return at.radius, "", at.difference, *at.difference_interval


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)

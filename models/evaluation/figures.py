"""The figures of an evaluation, and how they follow from labels and certified sizes.

At a threshold T on the certified size, a prediction is *robust* if its size reaches T. Over n
labelled pictures (Lécuyer et al. 2019, section IV, whose "certified fraction" is ``fraction``)

    accuracy            right / n, robust or not
    certified accuracy  right and robust / n
    fraction            robust / n
    precision           right and robust / robust
    recall              right and robust / right

A picture with nothing certified is never robust: an abstention counts as a failure at every T.

Each share has its interval of Clopper and Pearson (1934) at 95 %: what the pictures, regarded as a
random sample, say about all pictures of their kind. An interval holds for one share at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor, log10
from typing import Annotated, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import binomtest

from models.bundle import Int8Record, Part
from models.certification.arrays import Floats, Integers
from models.certification.names import Norm
from models.evaluation.asked import AttackName
from models.execution import Format, Provider

LEVEL = 0.95
# A curve has between half as many points and about this many.
CURVE_POINTS = 100

Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[Share, Share]
Flags = NDArray[np.bool_]


class AccuracyAt(Part):
    """A share of pictures at a size of ``radius``."""

    radius: float
    accuracy: Share
    accuracy_interval: Interval


class CertifiedAccuracy(AccuracyAt):
    """The figures at the threshold ``radius``; see the module.

    ``precision`` is None if no prediction is robust, ``recall`` if none is right.
    """

    fraction: Share
    precision: Share | None
    precision_interval: Interval | None
    recall: Share | None
    recall_interval: Interval | None


class AttackedAccuracy(AccuracyAt):
    """The share of pictures that keep the right label when attacked at a size of ``radius``.

    ``robust`` are the figures of the attacked pictures at each threshold on their certified sizes:
    how precise the predictions are that a client acts on while it is attacked, and how many of the
    right ones it acts on.
    """

    robust: tuple[CertifiedAccuracy, ...] = ()


class AttackFigures(Part):
    """Accuracy under one attack; the first radius is 0, the unaltered pictures.

    Each gradient is averaged over ``draws`` draws; 1 without noise.
    """

    attack: AttackName
    norm: Norm
    steps: int
    draws: int
    pictures: int
    accuracies: tuple[AttackedAccuracy, ...]


class BaselineFigures(Part):
    """A network without noise, on the same pictures and under the same attacks."""

    model: str
    version: str
    accuracy: Share
    accuracy_interval: Interval
    attacks: tuple[AttackFigures, ...]


class RobustDisagreement(Part):
    """The share of pictures that are robust at ``radius`` for one of two h's and not the other."""

    radius: float
    share: Share
    share_interval: Interval


class Disagreement(Part):
    """How often two h's of a model answer the same pictures differently.

    Attributes:
        one: an h as a pin names it, without the digest: provider/precision/pass size/compiled.
        other: another h, or the same one.
        same_noise: whether both drew the same noise, so that they differ only because of h.
        labels: the share of pictures with another leading label.
        labels_interval: at 95 %.
        robust: the same for robust decisions, at each radius.
    """

    one: str
    other: str
    same_noise: bool
    labels: Share
    labels_interval: Interval
    robust: tuple[RobustDisagreement, ...]


class Evaluation(Part):
    """The results of an evaluation, and how they were measured.

    Attributes:
        model: the bundle's name.
        version: the bundle's version.
        dataset: the data set's name, if it has one.
        pictures: the number of evaluated pictures, every ``every``-th of the data set.
        every: see ``pictures``.
        max_draws: draws for each picture.
        confidence: η of each certificate.
        norm: the norm of all sizes.
        certificate: by which the sizes were computed, in place of the one that answers use.
        accuracy: share of pictures whose largest expected score is that of the right label.
        accuracy_interval: at 95 %, like all intervals here.
        certified: certified accuracy, precision and recall per radius.
        curve: the same over a fine grid of radii, from 0, where any size above 0 counts.
        mean_size: mean certified size, right labels or not.
        largest_size: the certified size of a picture whose draws all agree: no larger radius can be
            reached with this many draws at this confidence. None in older records, which lack it.
        uncertified: pictures with certified size 0.
        int8: certified accuracy in int8 beside float32, if it was measured.
        disagreements: how often h's disagree that were compared, in pairs. The first is how often
            the evaluated h disagrees with itself, with other noise.
        attacks: accuracy under attack.
        baseline: a network without noise, for comparison.
        draws: all draws made for the certificates.
        seconds: wall time for them, encoding included.
        draws_per_second: ``draws`` / ``seconds``.
        seed: of the noise and of the attacks. With the same device, provider, precision, pass size
            and threads on the same machine it leads to the same figures; None for fresh noise.
        device: where h ran.
        provider: what ran h.
        precision: the number format of h.
        pass_size: draws in a pass.
        threads: of the CPU.
    """

    model: str
    version: str
    dataset: str = ""
    pictures: int
    every: int
    max_draws: int
    confidence: float
    norm: Norm
    certificate: str | None = None
    accuracy: Share
    accuracy_interval: Interval
    certified: tuple[CertifiedAccuracy, ...]
    curve: tuple[CertifiedAccuracy, ...] = ()
    mean_size: float
    largest_size: float | None = None
    uncertified: int
    int8: Int8Record | None = None
    disagreements: tuple[Disagreement, ...] = ()
    attacks: tuple[AttackFigures, ...] = ()
    baseline: BaselineFigures | None = None
    draws: int
    seconds: float
    draws_per_second: float
    seed: int | None
    device: str
    provider: Provider = "pytorch"
    precision: Format
    pass_size: int
    threads: int


@lru_cache(4096)
def interval(count: int, of: int, level: float = LEVEL) -> Interval:
    """Bound a share at ``level``, from a sample with ``count`` of ``of`` pictures."""
    found = binomtest(count, of).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def certified_at(radius: float, right: Flags, sizes: Floats) -> CertifiedAccuracy:
    """Count pictures at one threshold; any size above 0 reaches the threshold 0.

    Args:
        radius: the threshold on sizes.
        right: [N], whether a picture's label is right.
        sizes: [N], certified sizes.
    """
    reached = (sizes >= radius) & (sizes > 0)
    count, rights, robust = len(right), int(right.sum()), int(reached.sum())
    both = int((right & reached).sum())
    return CertifiedAccuracy(
        radius=radius,
        accuracy=both / count,
        accuracy_interval=interval(both, count),
        fraction=robust / count,
        precision=both / robust if robust else None,
        precision_interval=interval(both, robust) if robust else None,
        recall=both / rights if rights else None,
        recall_interval=interval(both, rights) if rights else None,
    )


class Shares(TypedDict):
    """The figures of an evaluation that follow from labels and sizes alone."""

    pictures: int
    accuracy: Share
    accuracy_interval: Interval
    certified: tuple[CertifiedAccuracy, ...]
    curve: tuple[CertifiedAccuracy, ...]
    mean_size: float
    uncertified: int


def shares(right: Flags, sizes: Floats, radii: Sequence[float]) -> Shares:
    """Count pictures.

    Args:
        right: [N], whether a picture's label is right.
        sizes: [N], certified sizes.
        radii: the thresholds to report.
    """
    return {
        "pictures": len(right),
        "accuracy": float(right.mean()),
        "accuracy_interval": interval(int(right.sum()), len(right)),
        "certified": tuple(certified_at(radius, right, sizes) for radius in radii),
        "curve": certified_curve(right, sizes),
        "mean_size": float(sizes.mean()),
        "uncertified": int((sizes == 0).sum()),
    }


@dataclass(frozen=True)
class Answers:
    """What an h answered to N pictures.

    Attributes:
        leaders: [N], the leading labels.
        sizes: [N], the certified sizes.
        seconds: [N], what each took. Pictures share passes: from the end of the one before.
        draws: all draws made for them.
    """

    leaders: Integers
    sizes: Floats
    seconds: Floats
    draws: int


def disagreement(
    one: Answers, other: Answers, radii: Sequence[float]
) -> tuple[tuple[Share, Interval], tuple[RobustDisagreement, ...]]:
    """Count the pictures whose label differs, and those robust only once, at each radius."""

    def share(differ: Flags) -> tuple[Share, Interval]:
        count = int(differ.sum())
        return count / len(differ), interval(count, len(differ))

    robust = []
    for radius in radii:
        reached = [(by.sizes >= radius) & (by.sizes > 0) for by in (one, other)]
        part, limits = share(reached[0] != reached[1])
        robust.append(RobustDisagreement(radius=radius, share=part, share_interval=limits))
    return share(one.leaders != other.leaders), tuple(robust)


def certified_curve(right: Flags, sizes: Floats) -> tuple[CertifiedAccuracy, ...]:
    """Count pictures over a grid of thresholds, from 0 to just beyond the largest size."""
    return tuple(certified_at(radius, right, sizes) for radius in _grid(float(sizes.max())))


def _grid(largest: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten, up to just beyond ``largest``."""
    if largest <= 0:
        return [0.0]
    finest = largest / CURVE_POINTS
    power = 10.0 ** floor(log10(finest))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= finest)
    return [float(f"{index * step:.6g}") for index in range(floor(largest / step) + 2)]


def attacked_accuracy(
    radius: float, right: Flags, sizes: Floats, thresholds: Sequence[float]
) -> AttackedAccuracy:
    """Count attacked pictures.

    Args:
        radius: the size of the attack.
        right: [N], whether a picture's label is right.
        sizes: [N], certified sizes.
        thresholds: on these sizes.
    """
    return AttackedAccuracy(
        radius=radius,
        accuracy=float(right.mean()),
        accuracy_interval=interval(int(right.sum()), len(right)),
        robust=tuple(certified_at(threshold, right, sizes) for threshold in thresholds),
    )

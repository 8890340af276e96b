"""The options of an evaluation, and their checks; PyTorch is not imported for them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

from models.bundle import Bundle, Manifest
from models.certification.names import Norm
from models.data.labelled import DataSet

AttackName = Literal["pgd", "carlini-wagner", "autoattack"]
# The confidence of each certificate, unless the noise allows certainty.
USUAL = 0.999

ATTACK_NAMES: tuple[AttackName, ...] = get_args(AttackName)

# The sizes at which certified accuracy is reported, and attacks are made.
RADII: dict[Norm, tuple[float, ...]] = {
    "l1": (0.5, 1.0, 1.5, 2.0),
    "l2": (0.25, 0.5, 0.75, 1.0),
    "linf": (1 / 255, 2 / 255, 4 / 255, 8 / 255),
}


@dataclass(frozen=True)
class Attacks:
    """How to attack.

    Attributes:
        names: which attacks to run, one after another.
        pictures: the number of pictures to attack, evenly spaced.
        steps: gradient steps of each attack.
        draws: the number of noise draws over which each gradient is averaged.
        thresholds: on the certified sizes of attacked pictures, for precision and recall.
    """

    names: tuple[AttackName, ...] = ()
    pictures: int = 100
    steps: int = 20
    draws: int = 16
    thresholds: tuple[float, ...] = ()


def check_matplotlib() -> None:
    """Raise a ValueError that says what to do if there is no matplotlib."""
    if find_spec("matplotlib") is None:
        raise ValueError(
            "plots are drawn by matplotlib, which is not installed: "
            f"{sys.executable} -m pip install 'pixeldp[plots]'"
        )


def check_art() -> None:
    """Raise a ValueError that says what to do if there is no ART."""
    if find_spec("art") is None:
        raise ValueError(
            "autoattack is run by ART, which is not installed: "
            f"{sys.executable} -m pip install 'pixeldp[attacks]'"
        )


def check_radii(radii: Sequence[float]) -> None:
    """Refuse radii that are not above 0.

    Raises:
        ValueError: one is not above 0.
    """
    if not all(radius > 0 for radius in radii):
        raise ValueError(f"radii must be above 0, not {list(radii)}")


def check_data(
    manifest: Manifest, data: DataSet, attacks: Attacks, baseline: Bundle | None
) -> None:
    """Check that the pictures fit the model, and the baseline if there is one.

    Raises:
        ValueError: they have other labels, or for an attack or a baseline another shape.
    """
    if data.names != manifest.labels:
        raise ValueError(
            f"the data set's labels ({_few(data.names)}) are not "
            f"those of {manifest.name} ({_few(manifest.labels)})"
        )
    if attacks.names:
        _check_shape(manifest, data, "an attack")
    if baseline:
        check_baseline(baseline, manifest)
        _check_shape(manifest, data, "a baseline")


def check_baseline(baseline: Bundle, model: Manifest) -> None:
    """Check that a baseline can be compared with a model.

    Raises:
        ValueError: it has other labels or takes other pictures than ``model``.
    """
    other = baseline.manifest
    if other.labels != model.labels or other.input != model.input:
        raise ValueError(
            f"{baseline.path}: a baseline must have the labels and the input of {model.name}, "
            f"{len(model.labels)} labels of {list(model.input.shape)} pictures; this one has "
            f"{len(other.labels)} of {list(other.input.shape)}"
        )


def _check_shape(manifest: Manifest, data: DataSet, what: str) -> None:
    if data.shape != manifest.input.shape:
        raise ValueError(
            f"{what} needs pictures of the model's own channels, height and width, "
            f"{list(manifest.input.shape)}; these have {list(data.shape)}"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], "…"] if len(names) > 5 else names) + f"; {len(names)} in all"

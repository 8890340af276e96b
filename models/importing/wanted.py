"""The options of a new bundle, and their checks before any network is built.

PyTorch is not imported here, so that a mistyped option is reported without waiting for it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from models.bundle import DENOISED, MANIFEST, Bundle, ConstructionBound, Name, Positive, Version
from models.certification.certificates import construction_scale
from models.certification.names import Mechanism, Norm, Scoring
from models.denoiser import LEAST_SIDE, Denoiser
from models.source_names import ImportFailedError

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Noise:
    """Noise in the image: its law, and its scale or a construction bound that determines it."""

    mechanism: Mechanism = "gaussian"
    scale: float | None = None
    construction_bound: ConstructionBound | None = None
    norm: Norm | None = None

    def scale_at(self, sensitivity: float) -> float:
        """Return the scale if g's Δ is ``sensitivity``.

        Raises:
            ImportFailedError: neither a scale nor a construction bound, or both.
            ValueError: the proof does not cover this construction bound.
        """
        bound = self.construction_bound
        if (self.scale is None) == (bound is None):
            raise ImportFailedError(
                "give either the noise's scale or a construction bound, for example --scale 0.25"
            )
        if bound is None:
            assert self.scale is not None
            return self.scale
        return construction_scale(
            self.mechanism, bound.size, bound.epsilon, bound.delta, sensitivity
        )


@dataclass(frozen=True)
class Wanted:
    """The options of the bundle; None where the source decides, or there is a default."""

    name: str | None = None
    version: str = "1"
    shape: Shape | None = None
    labels: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    scoring: Scoring = "votes"


def check_wanted(
    wanted: Wanted,
    noise: Noise | Bundle | Denoiser,
    out: Path,
    channels: int | None,
    *,
    force: bool,
) -> None:
    """Refuse options that are wrong for any network.

    Args:
        wanted: the options of the bundle.
        noise: the noise, or the denoiser that has it, or a bundle with one.
        out: the bundle's folder.
        channels: of the pictures; None if only the source knows.
        force: whether to replace a bundle in ``out``.

    Raises:
        ImportFailedError: ``out`` holds a bundle, or an option is out of range.
        ValueError: a name, scale or construction bound out of range.
    """
    if (out / MANIFEST).exists() and not force:
        raise ImportFailedError(f"{out} holds a bundle; --force replaces it")
    if isinstance(noise, Bundle):
        if noise.manifest.architecture.name != DENOISED:
            raise ImportFailedError(
                f"{noise.path} holds no denoiser; train one with pixeldp train --denoiser"
            )
    elif isinstance(noise, Noise):
        _check("noise.scale", Positive, noise.scale_at(1.0))
    if wanted.name is not None:
        _check("name", Name, wanted.name)
    _check("version", Version, wanted.version)
    if wanted.shape and min(wanted.shape) < 1:
        given = "x".join(map(str, wanted.shape))
        raise ImportFailedError(f"--input {given}: no picture has a side of 0")
    if wanted.shape and isinstance(noise, Denoiser):
        check_size(noise, wanted.shape)
    for name, values in (("mean", wanted.mean), ("std", wanted.std)):
        if values is not None:
            _check_channels(name, values, channels)
            check_range(name, values)
    _check_labels(wanted.labels)


def noise_of(denoiser: Denoiser) -> Noise:
    """Return the noise that a denoiser was trained to remove."""
    return Noise(denoiser.manifest.noise.mechanism, denoiser.manifest.noise.scale)


def check_size(denoiser: Denoiser, shape: Shape) -> None:
    """Refuse pictures of ``shape`` that a denoiser does not take.

    Raises:
        ImportFailedError: they have other channels, or are too small.
    """
    channels = denoiser.manifest.channels
    if shape[0] != channels or min(shape[1:]) < LEAST_SIDE:
        raise ImportFailedError(
            f"{denoiser.path}: is for pictures of {channels} channels and at least {LEAST_SIDE} "
            f"pixels a side, but the classifier takes {list(shape)} (channels, height, width)"
        )


def needs_input(text: str) -> ImportFailedError:
    """Return the error for a source ``text`` that does not define its input."""
    return ImportFailedError(
        f"{text} does not define its input: give --input as channels x height x width, "
        "for example --input 3x224x224"
    )


def check_range(name: str, values: Sequence[float]) -> None:
    """Refuse values that normalise 0 to 255: here pictures have values from 0 to 1."""
    if any(abs(value) > 1 for value in values):
        given, divided = (", ".join(f"{value / by:.4g}" for value in values) for by in (1, 255))
        raise ImportFailedError(
            f"{name} {given} seems to be for pictures of 0 to 255; here they are of 0 to 1: divide "
            f"mean and std by 255 ({name} {divided})"
        )


def _check_channels(name: str, values: Sequence[float], channels: int | None) -> None:
    fits = channels is None or len(values) == channels
    if not fits or not all(isfinite(value) for value in values):
        each = "channel" if channels is None else f"of {channels} channels"
        raise ImportFailedError(f"{name} {list(values)}: expected one number for each {each}")
    if name == "std" and min(values) <= 0:
        raise ImportFailedError(f"std {list(values)}: must be above 0")


def _check_labels(labels: Sequence[str] | None) -> None:
    if labels is None:
        return
    if len(labels) < 2:
        raise ImportFailedError(f"labels: expected at least two names, found {len(labels)}")
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise ImportFailedError(f"labels must differ from each other; {twice[0]!r} is given twice")


def _check(name: str, kind: Any, value: object) -> None:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name}: {error.errors()[0]['msg']}, not {value!r}") from None

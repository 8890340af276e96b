"""Samples for a bundle: pictures for trying the model by hand."""

from collections.abc import Mapping
from pathlib import Path

from models.bundle import MOST_SAMPLES, SAMPLES, ZOO, BundleError, read_sample, sample_files
from models.files import write_whole
from models.images.decoding import decode
from models.images.errors import PictureError
from models.preprocessing import CannotCertify, plan

# Data sets whose labels the zoo's samples show. The samples are drawn, not from a data set.
_SHIPPED = {"mnist": "mnist-cnn", "cifar10": "cifar10-resnet"}


def shipped_samples(dataset: str) -> Path | None:
    """Return the folder of the zoo's samples for models of a named data set, if there are any."""
    name = _SHIPPED.get(dataset)
    return ZOO / name / SAMPLES if name else None


def collect_samples(folder: Path) -> dict[str, bytes]:
    """Read the samples in a folder that a user names.

    Returns:
        The files' contents by their names.

    Raises:
        ValueError: there is none, or one that a bundle may not have.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: is not a folder of pictures")
    try:
        samples = {file.name: read_sample(file) for file in sample_files(folder)}
    except BundleError as error:
        raise ValueError(str(error)) from None
    if not samples:
        raise ValueError(f"{folder}: holds no pictures; expected 1 to {MOST_SAMPLES}")
    return samples


def check_samples(samples: Mapping[str, bytes], shape: tuple[int, int, int]) -> None:
    """Check that each sample is a picture that a model of input ``shape`` can answer.

    Raises:
        ValueError: one is not; says which.
    """
    for name, content in samples.items():
        try:
            picture = decode(content)
            plan(picture.width, picture.height, picture.mode, picture.bits, shape)
        except (PictureError, CannotCertify) as error:
            raise ValueError(f"{name}: cannot be a sample of this model: {error}") from None


def write_samples(path: Path, samples: Mapping[str, bytes]) -> None:
    """Write samples into the bundle in the folder ``path``."""
    for name, content in samples.items():
        write_whole(path / SAMPLES / name, content)

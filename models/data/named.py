"""The data sets that are known by name: torchvision's, and scikit-learn's digits.

torchvision, and PyTorch with it, is imported only if there are files for it to read.
"""

import gzip
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.data.labelled import DataSet, DataSetError, FilePictures, as_array

Split = Literal["train", "test"]
Loader = Callable[[Path, Split, bool], DataSet]

# How many of scikit-learn's 1,797 digits are for training; the rest, by other writers, for testing.
DIGITS_TRAIN = 1500
DIGITS_LARGEST = 16
# The input of well-known ImageNet classifiers is at most this large: Inception's 299 pixels.
IMAGENET_SIDE = 299


def digits(split: Split) -> DataSet:
    """Load scikit-learn's digits of eight by eight pixels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataSetError(
            "digits come with scikit-learn, which is not installed: "
            f"{sys.executable} -m pip install scikit-learn"
        ) from None
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / DIGITS_LARGEST)).astype(np.uint8)[..., None]
    part = slice(None, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
    names = tuple(str(name) for name in bunch.target_names)
    return DataSet(images[part], bunch.target[part].astype(np.int64), names)


def mnist(root: Path, split: Split, download: bool) -> DataSet:
    """Load MNIST, compressed as published or not."""
    raw = root / _PLACES["mnist"]
    MNIST = _torchvision("MNIST", raw, download)
    packed = {name: raw / f"{name}.gz" for name in _MNIST_FILES}
    if all(file.is_file() for file in packed.values()) and not all(
        (raw / name).is_file() for name in packed
    ):
        # torchvision decompresses only while it downloads; here the official files are enough.
        with tempfile.TemporaryDirectory() as temporary:
            unpacked = Path(temporary) / "MNIST" / "raw"
            unpacked.mkdir(parents=True)
            for name, file in packed.items():
                _unpack(file, unpacked / name)
            data = MNIST(temporary, train=split == "train")
    else:
        data = _from_torchvision(MNIST, root, raw, download, train=split == "train")
    names = tuple(str(label) for label in range(10))
    return DataSet(data.data.numpy()[..., None], data.targets.numpy().astype(np.int64), names)


def svhn(root: Path, split: Split, download: bool) -> DataSet:
    """Load the house numbers of Street View, cropped to one digit each."""
    expected = root / f"{split}_32x32.mat"
    kind = _torchvision("SVHN", expected, download)
    data = _from_torchvision(kind, root, expected, download, split=split)
    images = np.ascontiguousarray(data.data.transpose(0, 2, 3, 1))
    return DataSet(images, data.labels, tuple(str(label) for label in range(10)))


def cifar(name: str, root: Path, split: Split, download: bool) -> DataSet:
    """Load CIFAR-10, or CIFAR-100 with its fine labels.

    Args:
        name: CIFAR10 or CIFAR100.
        root: the folder that holds it.
        split: the part to load.
        download: whether torchvision may fetch it.
    """
    expected = root / _PLACES[name.lower()]
    kind = _torchvision(name, expected, download)
    data = _from_torchvision(kind, root, expected, download, train=split == "train")
    return DataSet(data.data, np.array(data.targets, dtype=np.int64), tuple(data.classes))


def imagenet(root: Path, split: Split, download: bool) -> DataSet:
    """Load ImageNet 2012, whose validation pictures are the test; pixels are read as needed."""
    part = "train" if split == "train" else "val"
    expected = root / f"ILSVRC2012_img_{part}.tar"
    unpacked = root / part
    kind = _torchvision("ImageNet", unpacked if unpacked.is_dir() else expected, None)
    data = _from_torchvision(kind, root, expected, None, split=part)
    samples = [(Path(file), label) for file, label in data.samples]
    kept = [(file, label) for file, label in samples if file.name not in _IMAGENET_CMYK]
    passed_over = tuple(file for file, _ in samples if file.name in _IMAGENET_CMYK)
    # Two pairs of labels share their first word (crane, maillot).
    first = [names[0] for names in data.classes]
    names = tuple(
        name if first.count(name) == 1 else f"{name} ({wnid})"
        for name, wnid in zip(first, data.wnids, strict=True)
    )
    labels = np.array([label for _, label in kept], dtype=np.int64)
    pictures = FilePictures([file for file, _ in kept], IMAGENET_SIDE)
    return DataSet(as_array(pictures), labels, names, passed_over)


# ImageNet's training pictures that are coded as CMYK, which is not read: the list of
# https://github.com/cytsai/ilsvrc-cmyk-image-list
_CMYK = """
n01739381_1309 n02077923_14822 n02447366_23489 n02492035_15739 n02747177_10752 n03018349_4028
n03062245_4620 n03347037_9675 n03467068_12171 n03529860_11437 n03544143_17228 n03633091_5218
n03710637_5125 n03961711_5286 n04033995_2932 n04258138_17003 n04264628_27969 n04336792_7448
n04371774_5854 n04596742_4225 n07583066_647 n13037406_4650
"""
_IMAGENET_CMYK = frozenset(f"{name}.JPEG" for name in _CMYK.split())

# Each is in a folder of the user's choice, in torchvision's layout.
LOADERS: dict[str, Loader] = {
    "cifar10": partial(cifar, "CIFAR10"),
    "cifar100": partial(cifar, "CIFAR100"),
    "imagenet": imagenet,
    "mnist": mnist,
    "svhn": svhn,
}

# The content of each root, by which a data set is recognised.
_PLACES = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "imagenet": "ILSVRC2012_*.tar*",
    "mnist": "MNIST/raw",
    "svhn": "*_32x32.mat",
}

_MNIST_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


def _unpack(source: Path, target: Path) -> None:
    try:
        with gzip.open(source) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    except (OSError, EOFError) as error:
        raise DataSetError(f"{source}: cannot be unpacked ({error}); download it again") from None


def find_named(folder: Path) -> list[str]:
    """Return the names of torchvision's data sets whose root ``folder`` seems to be."""
    return [name for name, place in _PLACES.items() if any(folder.glob(place))]


def _torchvision(name: str, expected: Path, download: bool | None) -> Any:
    """Return torchvision's data set ``name``, whose files are at ``expected``.

    Raises:
        DataSetError: there is nothing, and it is not to be downloaded.
    """
    if not (download or expected.exists()):
        raise _missing(name, expected, download)
    from models.networks.foreign.torchvision_operators import declare_missing_operators

    declare_missing_operators()
    from torchvision import datasets

    return getattr(datasets, name)


def _from_torchvision(
    kind: Callable[..., Any], root: Path, expected: Path, download: bool | None, **part: Any
) -> Any:
    """Make a data set from torchvision's; ``download`` is None if it cannot download that one."""
    options = part if download is None else {**part, "download": download}
    try:
        return kind(root, **options)
    except (RuntimeError, OSError) as error:
        raise _missing(kind.__name__, expected, download, str(error)) from None


def _missing(name: str, expected: Path, download: bool | None, reason: str = "") -> DataSetError:
    advice = "put them there or let --download fetch them"
    if download is None:
        advice = "put them there; they need an account at image-net.org"
    elif download:
        advice = f"the download failed ({reason.splitlines()[0]})"
    return DataSetError(
        f"{expected}: torchvision's {name} files are missing here or damaged; {advice}"
    )

"""Labelled pictures to train and evaluate on.

By name: ``mnist``, ``svhn``, ``cifar10``, ``cifar100`` and ``imagenet`` from torchvision's files,
and ``digits`` from scikit-learn. By path, for a user's own: an ``.npz`` file, a folder with
``train.npz`` and ``test.npz`` (or shards: ``train-0.npz``, ``train-1.npz``, …), or a folder with
one subfolder of picture files per label.
"""

from difflib import get_close_matches
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from models.data.labelled import DataSet, DataSetError, read_one
from models.data.named import LOADERS, Split, digits, find_named
from models.images.decoding import Picture
from models.images.folders import SUFFIXES, find_pictures, is_hidden

__all__ = ["DataSet", "DataSetError", "Split", "load"]

LAYOUT = (
    "expected a known name, an .npz file with 'images' and 'labels', "
    "a folder with train.npz and test.npz, or a folder with one subfolder of pictures per label"
)


def load(name_or_path: str, root: Path | None, split: Split, *, download: bool = False) -> DataSet:
    """Load a data set.

    Args:
        name_or_path: a known name, or the path of a user's own. A file and a folder of labels are
            used whole, whatever ``split`` says.
        root: the folder of a named data set: torchvision's files, or ``root/name`` with shards;
            ``digits`` need none.
        split: ``train`` or ``test``.
        download: let torchvision fetch missing files into ``root``.

    Raises:
        DataSetError: files are missing or malformed.
    """
    if name_or_path == "digits":
        return digits(split)
    if name_or_path in LOADERS:
        check_root(name_or_path, root)
        assert root is not None
        if shards := _shards(root / name_or_path, split):
            return _joined(shards)
        return _checked(LOADERS[name_or_path](root, split, download), name_or_path)
    path = Path(name_or_path)
    if names := _roots(path, split):
        choices = " or ".join(f"--data {name} --root {path}" for name in names)
        raise DataSetError(f"{path}: holds {' and '.join(names)}; use {choices}")
    if shards := _shards(path, split):
        return _joined(shards)
    if path.is_dir():
        return _checked(_folders(path), name_or_path)
    if path.suffix == ".npz":
        return _checked(_npz(path), name_or_path)
    known = sorted([*LOADERS, "digits"])
    near = get_close_matches(name_or_path, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise DataSetError(
        f"no data set {name_or_path!r}: {LAYOUT}; known names: {', '.join(known)}{hint}"
    )


def load_test(name_or_path: str, root: Path | None, names: tuple[str, ...]) -> DataSet | None:
    """Load the test part of a data set, if it has one apart from its training part.

    Args:
        name_or_path: as for :func:`load`; nothing is downloaded.
        root: the folder of a named data set.
        names: the labels' names, which the test part must have.
    """
    named = name_or_path == "digits" or name_or_path in LOADERS
    if not named and not _shards(Path(name_or_path), "test"):
        return None
    try:
        data = load(name_or_path, root, "test")
    except DataSetError:
        return None
    return data if data.names == names else None


def _roots(folder: Path, split: Split) -> list[str]:
    """Return the names of the data sets that ``load`` finds in ``folder``."""
    if not folder.is_dir() or _shards(folder, split):
        return []
    sharded = [name for name in LOADERS if _shards(folder / name, split)]
    return sorted({*find_named(folder), *sharded})


def check_root(name_or_path: str, root: Path | None) -> None:
    """Check that a named data set has a root.

    Raises:
        DataSetError: it has none.
    """
    if name_or_path in LOADERS and root is None:
        raise DataSetError(
            f"{name_or_path} needs the folder that holds it, torchvision's root: --root FOLDER"
        )


def _checked(data: DataSet, source: str) -> DataSet:
    images, labels, names = data.images, data.labels, data.names
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataSetError(
            f"{source}: images must be uint8 [N, height, width, 1 or 3], "
            f"not {images.dtype} {list(images.shape)}"
        )
    if labels.shape != (len(images),) or not len(images):
        raise DataSetError(
            f"{source}: expected one label for each of {len(images)} pictures (at least one), "
            f"found labels {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise DataSetError(
            f"{source}: labels must lie in 0 to {len(names) - 1} ({len(names)} names), "
            f"found {labels.min()} to {labels.max()}"
        )
    if len(names) < 2 or len(set(names)) != len(names):
        raise DataSetError(f"{source}: expected at least two names that differ, found {names}")
    return data


_ARRAYS = ("images", "labels", "names")


def _shards(folder: Path, split: Split) -> list[Path]:
    """The .npz files of a split: ``train.npz``, or ``train-0.npz``, ``train-1.npz``, …"""
    return sorted(folder.glob(f"{split}.npz")) or sorted(folder.glob(f"{split}-*.npz"))


def _joined(shards: list[Path]) -> DataSet:
    parts = [_checked(_npz(shard), str(shard)) for shard in shards]
    first = parts[0]
    for shard, part in zip(shards, parts, strict=True):
        if (part.shape, part.names) != (first.shape, first.names):
            raise DataSetError(
                f"{shard}: its pictures or names differ from those of {shards[0]}; "
                "the shards of a split must have one size and the same names"
            )
    return DataSet(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        first.names,
    )


def _npz(path: Path) -> DataSet:
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, NpzFile):
                raise ValueError("it holds a single array")
            arrays = {name: file[name] for name in file.files if name in _ARRAYS}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataSetError(f"{path}: cannot be read as .npz ({error})") from None
    missing = {"images", "labels"} - arrays.keys()
    if missing:
        raise DataSetError(
            f"{path}: lacks {', '.join(sorted(missing))}; an .npz data set has 'images' "
            "(uint8 [N, height, width, channels]), 'labels' [N] and optionally 'names'"
        )
    images, labels, names = arrays["images"], arrays["labels"], arrays.get("names")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataSetError(f"{path}: labels must be integers, not {labels.dtype}")
    if images.ndim == 3:
        images = images[..., None]
    if names is None:
        if labels.max(initial=1) > max(len(labels), 1):
            raise DataSetError(
                f"{path}: labels go up to {labels.max()} for {len(labels)} pictures; number the "
                "labels from 0, or add 'names'"
            )
        names = np.arange(labels.max(initial=1) + 1)
    return DataSet(images, labels.astype(np.int64), tuple(str(name) for name in names))


def _folders(path: Path) -> DataSet:
    """Read a folder of labels with the service's own decoder, so that both see the same pixels."""
    entries = sorted(entry for entry in path.iterdir() if not is_hidden(entry))
    folders = [entry for entry in entries if entry.is_dir()]
    passed_over = [entry for entry in entries if not entry.is_dir()]
    pictures: list[Picture] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = find_pictures(folder)
        if not found.pictures:
            kinds = " ".join(sorted(SUFFIXES))
            raise DataSetError(f"{folder}: no picture files here (of {kinds})")
        for file in found.pictures:
            pictures.append(read_one(file))
            size, first = ((one.width, one.height) for one in (pictures[-1], pictures[0]))
            if size != first:
                raise DataSetError(
                    f"{file}: is {size[0]}x{size[1]}, the first picture is {first[0]}x{first[1]}; "
                    "all must have one size"
                )
        labels += [label] * len(found.pictures)
        passed_over += found.others
    if not pictures:
        raise DataSetError(f"{path}: {LAYOUT}")
    channels = max(picture.channels for picture in pictures)
    shape = (pictures[0].height, pictures[0].width, channels)
    images = np.stack([np.broadcast_to(picture.array(), shape) for picture in pictures])
    names = tuple(folder.name for folder in folders)
    return DataSet(images, np.array(labels, dtype=np.int64), names, tuple(passed_over))

"""Where the pictures of a bulk certification come from.

Every source numbers its pictures from 0 in a fixed order, so that a certification that was cut off
knows which are done. Nothing is unpickled and nothing is unpacked to disk.

==========  ======================================================================================
named       as for ``pixeldp evaluate``: MNIST, CIFAR-10, …, with labels
.npz        as for ``pixeldp evaluate``: pictures of one size, with labels
folder      picture files of any size, with subfolders; a first subfolder that is named like a
            label of the model is the right label
WebDataset  .tar files, or a folder of them: ``KEY.png`` with ``KEY.cls``, which is optional
Parquet     .parquet files, or a folder of them: a column ``image``, of files or of structs with
            ``bytes`` as Hugging Face has them, and optionally ``label``, an index
==========  ======================================================================================
"""

import hashlib
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.bulk.parquet import open_parquet
from models.data.datasets import load
from models.data.labelled import DataSet, DataSetError
from models.data.named import LOADERS, Split
from models.images.files import BEGINNING, seems_picture
from models.images.folders import find_pictures

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

# Rows of a Parquet file that are read at once.
ROWS_AT_ONCE = 64


class Item(NamedTuple):
    """One picture of a source.

    Attributes:
        number: its place in the source, from 0.
        key: its name there.
        right: the index of its right label; None if that is not known.
        content: a picture file, or pixels [height, width, channels].
    """

    number: int
    key: str
    right: int | None
    content: bytes | NDArray[np.uint8]


class Source(Protocol):
    """Pictures in a fixed order.

    Attributes:
        identity: a digest of what the source has, by names and sizes or by pixels.
    """

    identity: str

    def __len__(self) -> int:
        """How many pictures there are."""

    def read(self, numbers: Iterable[int]) -> Iterator[Item]:
        """Yield pictures by their numbers, which ascend.

        Raises:
            OSError, DataSetError: one cannot be read.
        """


class ArraySource:
    """A data set that :func:`models.data.datasets.load` reads.

    Raises:
        DataSetError: its labels are not those of the model.
    """

    def __init__(self, data: DataSet, labels: Sequence[str]) -> None:
        if data.names != tuple(labels):
            raise DataSetError(
                f"the data set's {len(data.names)} labels are not the model's {len(labels)}; "
                "expected the same names in the same order"
            )
        self._data, self.identity = data, data.digest()

    def __len__(self) -> int:
        return len(self._data)

    def read(self, numbers: Iterable[int]) -> Iterator[Item]:
        """Yield pictures."""
        for number in numbers:
            pixels = np.ascontiguousarray(self._data.images[number])
            yield Item(number, str(number), int(self._data.labels[number]), pixels)


class FolderSource:
    """Picture files in a folder and its subfolders, in the order of their paths.

    Raises:
        DataSetError: there are none.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._folder, self._files = folder, find_pictures(folder).pictures
        if not self._files:
            raise DataSetError(f"{folder}: no picture files, .tar or .parquet files here")
        self._labels = {name: index for index, name in enumerate(labels)}
        self._keys = [str(file.relative_to(folder)) for file in self._files]
        self.identity = _digest(zip(self._keys, map(_size, self._files), strict=True))

    def __len__(self) -> int:
        return len(self._files)

    def read(self, numbers: Iterable[int]) -> Iterator[Item]:
        """Yield pictures."""
        for number in numbers:
            first = Path(self._keys[number]).parts[0]
            content = self._files[number].read_bytes()
            yield Item(number, self._keys[number], self._labels.get(first), content)


class _Member(NamedTuple):
    """A picture in a .tar file: where it begins there, how long it is, and its right label."""

    archive: int
    key: str
    start: int
    size: int
    right: int | None


class TarSource:
    """WebDataset: .tar files in the order of their names, and their pictures in order.

    Only the headers are read at first. A sample has one picture file.

    Raises:
        DataSetError: one is not a plain .tar file, or none has pictures.
    """

    def __init__(self, archives: Sequence[Path], labels: Sequence[str]) -> None:
        self._archives = archives
        self._members: list[_Member] = []
        for number, archive in enumerate(archives):
            try:
                self._members += _members(number, archive, len(labels))
            except tarfile.TarError as error:
                raise DataSetError(
                    f"{archive}: is not a plain .tar file ({error}); unpack compressed ones first"
                ) from None
        if not self._members:
            raise DataSetError(f"{archives[0]}: no pictures in {len(archives)} .tar files")
        self.identity = _digest((one.name, _size(one)) for one in archives)

    def __len__(self) -> int:
        return len(self._members)

    def read(self, numbers: Iterable[int]) -> Iterator[Item]:
        """Yield pictures."""
        opened, stream = -1, None
        try:
            for number in numbers:
                member = self._members[number]
                if stream is None or member.archive != opened:
                    if stream is not None:
                        stream.close()
                    opened, stream = member.archive, self._archives[member.archive].open("rb")
                stream.seek(member.start)
                yield Item(number, member.key, member.right, stream.read(member.size))
        finally:
            if stream is not None:
                stream.close()


class ParquetSource:
    """Parquet files in the order of their names, and their rows in order.

    Raises:
        DataSetError: pyarrow is not installed, a file cannot be read, or it has no pictures.
    """

    def __init__(self, files: Sequence[Path], labels: Sequence[str]) -> None:
        self._files, self._labels = files, len(labels)
        counts = []
        for file in files:
            with open_parquet(file) as opened:
                if "image" not in opened.schema_arrow.names:
                    raise DataSetError(f"{file}: has no column 'image', which holds the pictures")
                counts.append(int(opened.metadata.num_rows))
        self._starts = [0, *accumulate(counts)]
        if not len(self):
            raise DataSetError(f"{files[0]}: no rows in {len(files)} Parquet files")
        self.identity = _digest((one.name, _size(one)) for one in files)

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, numbers: Iterable[int]) -> Iterator[Item]:
        """Yield pictures."""
        wanted = np.fromiter(numbers, dtype=np.int64)
        for file, start, end in zip(self._files, self._starts, self._starts[1:], strict=False):
            own = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, end)]
            if len(own):
                with open_parquet(file) as opened:
                    yield from self._read(opened, file, start, {int(one) for one in own})

    def _read(self, opened: "ParquetFile", file: Path, start: int, own: set[int]) -> Iterator[Item]:
        columns = [name for name in ("image", "label") if name in opened.schema_arrow.names]
        groups = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
        firsts = [start, *(start + rows for rows in accumulate(groups))]
        needed = sorted({bisect_right(firsts, number) - 1 for number in own})
        for group in needed:
            number = firsts[group]
            for batch in opened.iter_batches(ROWS_AT_ONCE, [group], columns):
                for row in batch.to_pylist():
                    if number in own:
                        yield self._item(row, number, f"{file.name}:{number - start}")
                    number += 1

    def _item(self, row: dict[str, object], number: int, key: str) -> Item:
        image, right = row["image"], row.get("label")
        content = image.get("bytes") if isinstance(image, dict) else image
        if right is not None and not (isinstance(right, int) and 0 <= right < self._labels):
            raise DataSetError(f"{key}: label is {right!r}; the model has {self._labels} labels")
        # What is no file is refused when it is decoded, as any file that is no picture.
        return Item(number, key, right, content if isinstance(content, bytes) else b"")


def open_source(
    dataset: str,
    labels: Sequence[str],
    root: Path | None = None,
    split: Split = "test",
) -> Source:
    """Open a source by the name of a data set or by a path.

    Args:
        dataset: see the module.
        labels: the model's labels' names.
        root: the folder of a named data set.
        split: the part of a named data set.

    Raises:
        DataSetError: it is none, or cannot be read.
        OSError: a file cannot be read.
    """
    path = Path(dataset)
    if dataset == "digits" or dataset in LOADERS or path.suffix == ".npz":
        return ArraySource(load(dataset, root, split), labels)
    for suffix, kind in ((".tar", TarSource), (".parquet", ParquetSource)):
        found = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path]
        if found and found[0].suffix == suffix:
            return kind(found, labels)
    if path.is_dir():
        return FolderSource(path, labels)
    raise DataSetError(
        f"no data set {dataset!r}: expected a folder of pictures, an .npz file, .tar or .parquet "
        f"files or a folder of them, or one of {', '.join(sorted([*LOADERS, 'digits']))}"
    )


def _members(number: int, archive: Path, labels: int) -> Iterator[_Member]:
    """Yield the pictures of an archive; a sample's files stand beside each other."""
    with archive.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as opened:
        sample, key, right = list[tarfile.TarInfo](), "", None
        for member in opened:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, kind = name.partition(".")
            if f"{folder}/{stem}" != key:
                yield from _pictures(number, archive, sample, right)
                sample, key, right = [], f"{folder}/{stem}", None
            if kind == "cls":
                right = _right(archive, member, _content(archive, member), labels)
            else:
                sample.append(member)
        yield from _pictures(number, archive, sample, right)


def _pictures(
    number: int, archive: Path, sample: Sequence[tarfile.TarInfo], right: int | None
) -> Iterator[_Member]:
    found = [one for one in sample if seems_picture(_content(archive, one, BEGINNING))]
    if len(found) > 1:
        names = " and ".join(one.name for one in found[:2])
        raise DataSetError(f"{archive}: {names} are of one sample, which may have one picture")
    for one in found:
        yield _Member(number, f"{archive.name}:{one.name}", one.offset_data, one.size, right)


def _content(archive: Path, member: tarfile.TarInfo, size: int | None = None) -> bytes:
    with archive.open("rb") as stream:
        stream.seek(member.offset_data)
        return stream.read(member.size if size is None else min(size, member.size))


def _right(archive: Path, member: tarfile.TarInfo, text: bytes, labels: int) -> int:
    said = text.strip()
    if not said.isdigit() or int(said) >= labels:
        raise DataSetError(
            f"{archive}: {member.name} is {said[:20]!r}; expected the index of one of {labels} "
            "labels"
        )
    return int(said)


def _size(file: Path) -> int:
    return file.stat().st_size


def _digest(files: Iterable[tuple[str, int]]) -> str:
    """Return the SHA-256 of names and sizes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, size in files:
        digest.update(f"{size} {name}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()

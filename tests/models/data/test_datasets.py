import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.datasets import DataSetError, load


def write_mnist(root: Path, packed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Write four files in MNIST's format, with 5 training and 3 test pictures."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("t10k", 3), ("train", 5)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim])
            header += b"".join(size.to_bytes(4, "big") for size in array.shape)
            content = header + array.tobytes()
            name = f"{part}-{kind}-ubyte"
            if packed:
                (raw / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (raw / name).write_bytes(content)
    return images, labels


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_from_torchvisions_layout_compressed_or_not(
    tmp_path: Path, packed: bool
) -> None:
    images, labels = write_mnist(tmp_path, packed)
    data = load("mnist", tmp_path, "train")
    assert data.images.dtype == np.uint8
    assert data.labels.dtype == np.int64
    assert data.shape == (1, 28, 28)
    np.testing.assert_array_equal(data.images[..., 0], images)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.names == tuple("0123456789")
    assert len(load("mnist", tmp_path, "test")) == 3
    plain = [file.name for file in (tmp_path / "MNIST" / "raw").iterdir() if not file.suffix]
    assert bool(plain) != packed, "the user's folder must stay as it was"


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=True)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataSetError, match=r"train-images-idx3-ubyte\.gz: cannot be unpacked"):
        load("mnist", tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "MNIST/raw"),
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_missing_files_are_named_with_a_remedy(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(DataSetError) as caught:
        load(name, tmp_path, "train")
    assert str(tmp_path / folder) in str(caught.value)
    assert "--download" in str(caught.value)
    with pytest.raises(DataSetError, match="needs the folder"):
        load(name, None, "train")


def test_digits_are_split_and_scaled() -> None:
    train, test = load("digits", None, "train"), load("digits", None, "test")
    assert (len(train), len(test)) == (1500, 297)
    assert train.shape == (1, 8, 8)
    assert train.images.min() == 0
    assert train.images.max() == 255
    assert train.names == tuple("0123456789")
    assert train.digest() != test.digest()
    assert train.digest() == load("digits", None, "train").digest()


def test_every_nth_picture_starts_with_the_first() -> None:
    data = load("digits", None, "test")
    some = data.every(100)
    assert len(some) == 3
    np.testing.assert_array_equal(some.images[1], data.images[100])
    assert some.labels[2] == data.labels[200]


def test_npz_with_names_and_without(tmp_path: Path) -> None:
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    labels = np.array([1, 0], dtype=np.uint8)
    file = tmp_path / "own.npz"
    np.savez(file, images=images, labels=labels, names=np.array(["cat", "dog"]))
    data = load(str(file), None, "train")
    np.testing.assert_array_equal(data.images, images)
    assert data.shape == (3, 4, 5)
    assert data.labels.tolist() == [1, 0]
    assert data.names == ("cat", "dog")
    np.savez(file, images=images[..., 0], labels=np.array([2, 0]))
    data = load(str(file), None, "test")
    assert data.shape == (1, 4, 5)
    assert data.names == ("0", "1", "2")


def pictures(shape: tuple[int, ...] = (3, 4, 4, 1), dtype: type = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"images": pictures()}, "lacks labels"),
        ({"images": pictures(), "labels": np.zeros(2, int)}, "one label for each of 3"),
        ({"images": pictures((0, 4, 4, 1)), "labels": np.zeros(0, int)}, "at least one"),
        ({"images": pictures(dtype=float), "labels": np.zeros(3, int)}, "must be uint8"),
        ({"images": pictures((3, 4, 4, 2)), "labels": np.zeros(3, int)}, "1 or 3"),
        ({"images": pictures(), "labels": np.zeros(3)}, "must be integers"),
        ({"images": pictures(), "labels": np.array([0, -1, 1])}, "found -1 to 1"),
        ({"images": pictures(), "labels": np.array([0, 10**9, 1])}, "labels go up to 1000000000"),
        (
            {"images": pictures(), "labels": np.zeros(3, int), "names": np.array(["a", "a"])},
            "at least two names that differ",
        ),
        (
            {"images": pictures(), "labels": np.array([0, 1, 2]), "names": np.array(["a", "b"])},
            r"0 to 1 \(2 names\), found 0 to 2",
        ),
        ({"images": np.array([{}], dtype=object), "labels": np.zeros(1, int)}, "cannot be read"),
    ],
)
def test_npz_without_a_data_set(
    tmp_path: Path, arrays: dict[str, np.ndarray], complaint: str
) -> None:
    file = tmp_path / "own.npz"
    np.savez(file, allow_pickle=True, **arrays)
    with pytest.raises(DataSetError, match=complaint) as caught:
        load(str(file), None, "train")
    assert str(file) in str(caught.value)


def single_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, pictures())
    return stream.getvalue()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn", single_array()])
def test_npz_that_is_not_an_archive(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "own.npz"
    file.write_bytes(content)
    with pytest.raises(DataSetError, match=r"cannot be read as \.npz"):
        load(str(file), None, "train")


def write_folders(root: Path, mode: str = "L") -> None:
    for label, name in enumerate(("two", "one")):
        (root / name).mkdir()
        for index in range(2):
            colour = 100 * label + 10 * index
            picture = Image.new("L", (6, 5), colour).convert(mode)
            picture.save(root / name / f"{index}.png")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("P", 3)])
def test_a_folder_per_label(tmp_path: Path, mode: str, channels: int) -> None:
    write_folders(tmp_path, mode)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "one" / "notes.txt").write_text("not a picture")
    data = load(str(tmp_path), None, "train")
    assert data.names == ("one", "two")
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.shape == (channels, 5, 6)
    assert data.images[:, 0, 0, 0].tolist() == [100, 110, 0, 10]


def test_one_picture_in_colour_makes_the_whole_set_so(tmp_path: Path) -> None:
    write_folders(tmp_path)
    Image.new("RGB", (6, 5), (1, 2, 3)).save(tmp_path / "two" / "2.png")
    data = load(str(tmp_path), None, "train")
    assert data.shape == (3, 5, 6)
    assert data.images[-1, 0, 0].tolist() == [1, 2, 3]


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    write_folders(tmp_path)
    for name in ("one", "two"):
        for file in (tmp_path / name).iterdir():
            picture = Image.open(file)
            picture.putpixel((0, 0), 255)
            exif = picture.getexif()
            exif[0x0112] = 3
            picture.save(file, exif=exif)
    data = load(str(tmp_path), None, "train")
    assert (data.images[:, -1, -1, 0] == 255).all()


def test_folders_that_are_not_data_sets(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="one subfolder of pictures per label"):
        load(str(tmp_path), None, "train")
    write_folders(tmp_path)
    odd = tmp_path / "two" / "9.png"
    Image.new("L", (7, 5)).save(odd)
    with pytest.raises(DataSetError, match=r"9\.png: is 7x5, the first picture is 6x5"):
        load(str(tmp_path), None, "train")
    odd.write_bytes(b"torn")
    with pytest.raises(DataSetError, match=r"9\.png: Not a picture that can be read"):
        load(str(tmp_path), None, "train")
    odd.unlink()
    (tmp_path / "zero").mkdir()
    with pytest.raises(DataSetError, match="zero: no picture files here"):
        load(str(tmp_path), None, "train")


def test_an_unknown_name_lists_the_known_ones() -> None:
    known = "known names: cifar10, cifar100, digits, imagenet, mnist, svhn"
    with pytest.raises(DataSetError, match=known):
        load("imagenette", None, "train")

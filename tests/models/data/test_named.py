"""torchvision's data sets, from generated files in their formats."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from models.data.datasets import load
from models.data.labelled import DataSetError, FilePictures
from models.networks.foreign.torchvision_operators import declare_missing_operators

declare_missing_operators()


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN

    images, file = pictures(4), tmp_path / "train_32x32.mat"
    savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": np.array([[1], [10], [3], [9]])})
    with pytest.raises(DataSetError, match="missing here or damaged"):
        load("svhn", tmp_path, "train")
    entry = ["", file.name, md5(file)]
    monkeypatch.setattr(SVHN, "split_list", {**SVHN.split_list, "train": entry})
    data = load("svhn", tmp_path, "train")
    np.testing.assert_array_equal(data.images, images)
    assert data.labels.tolist() == [1, 0, 3, 9]
    assert data.names == tuple("0123456789")


def test_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    images = pictures(3)
    rows = images.transpose(0, 3, 1, 2).reshape(3, -1)
    names = [f"name {index}" for index in range(100)]
    content: dict[str, Any] = {"data": rows, "fine_labels": [99, 0, 5], "coarse_labels": [0, 0, 0]}
    for name, document in (("test", content), ("meta", {"fine_label_names": names})):
        (folder / name).write_bytes(pickle.dumps(document))
    monkeypatch.setattr(CIFAR100, "train_list", [])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(folder / "test")]])
    meta = {**CIFAR100.meta, "md5": md5(folder / "meta")}
    monkeypatch.setattr(CIFAR100, "meta", meta)
    data = load("cifar100", tmp_path, "test")
    np.testing.assert_array_equal(data.images, images)
    assert data.labels.tolist() == [99, 0, 5]
    assert data.names == tuple(names)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Three labels, two with the same first name, and pictures of several sizes and modes."""
    classes = {"n1": ("crane",), "n2": ("goose", "gander"), "n3": ("crane",)}
    torch.save((classes, ["n1"]), tmp_path / "meta.bin")
    for part in ("train", "val"):
        for index, wnid in enumerate(classes):
            folder = tmp_path / part / wnid
            folder.mkdir(parents=True)
            for number, (size, mode) in enumerate([((640, 320), "RGB"), ((200, 310), "L")]):
                colour = Image.new("L", size, 80 * index + number).convert(mode)
                colour.save(folder / f"{number}.JPEG", quality=95)
    return tmp_path


def test_imagenet_stays_in_its_files(imagenet: Path) -> None:
    data = load("imagenet", imagenet, "train")
    assert data.names == ("crane (n1)", "goose", "crane (n3)")
    assert data.shape == (3, 299, 299)
    assert isinstance(data.images, FilePictures)
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    batch = data.images[np.array([5, 0, 2])]
    assert batch.shape == (3, 299, 299, 3)
    assert np.abs(batch.mean(axis=(1, 2, 3)) - [161, 0, 80]).max() < 1
    assert data.images[:2].shape == (2, 299, 299, 3)
    assert data.images[0].shape == (299, 299, 3)
    assert data.images[:0].shape == (0, 299, 299, 3)
    rest, held = data.apart(2)
    assert (len(rest), held.labels.tolist()) == (4, [0, 1])
    assert isinstance(held.images, FilePictures)
    assert data.every(2).labels.tolist() == [0, 1, 2]
    assert data.digest() != rest.digest()
    assert len(load("imagenet", imagenet, "test")) == 6


def test_imagenets_cmyk_pictures_are_left_out_and_named(imagenet: Path) -> None:
    folder = imagenet / "train" / "n2"
    cmyk = folder / "n01739381_1309.JPEG"
    Image.new("CMYK", (300, 300)).save(cmyk)
    data = load("imagenet", imagenet, "train")
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.passed_over == (cmyk,)
    cmyk.rename(folder / "other.JPEG")
    data = load("imagenet", imagenet, "train")
    with pytest.raises(DataSetError, match=r"other\.JPEG: .*coded as CMYK"):
        data.images[4]


def test_imagenet_that_is_missing(tmp_path: Path, imagenet: Path) -> None:
    (imagenet / "train" / "n1" / "0.JPEG").write_bytes(b"torn")
    data = load("imagenet", imagenet, "train")
    with pytest.raises(DataSetError, match=r"0\.JPEG: Not a picture that can be read"):
        data.images[0]
    with pytest.raises(DataSetError, match=r"ILSVRC2012_img_train\.tar: .*an account at"):
        load("imagenet", tmp_path / "nowhere", "train")


def test_a_named_data_set_may_be_in_shards(tmp_path: Path) -> None:
    folder = tmp_path / "cifar100"
    folder.mkdir()
    names = np.array([f"name {index}" for index in range(100)])
    for index in range(2):
        labels = np.arange(3) + index
        file = folder / f"train-{index}.npz"
        np.savez(file, images=pictures(3), labels=labels, names=names)
    data = load("cifar100", tmp_path, "train")
    assert data.labels.tolist() == [0, 1, 2, 1, 2, 3]


def test_pictures_are_held_back_evenly() -> None:
    data = load("digits", None, "train")
    rest, held = data.apart(100)
    assert (len(rest), len(held)) == (1400, 100)
    np.testing.assert_array_equal(held.images[1], data.images[15])
    together = [picture.tobytes() for part in (rest, held) for picture in part.images]
    assert sorted(together) == sorted(picture.tobytes() for picture in data.images)
    for count in (0, 1500):
        with pytest.raises(DataSetError, match=f"cannot hold {count} of 1500"):
            data.apart(count)

"""Picture files in a folder: every format, no hidden files, and no file is dropped in silence."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.datasets import DataSetError, load
from models.data.labelled import FilePictures
from models.images.decoding import decode
from models.images.folders import (
    SUFFIXES,
    PictureFileError,
    find_pictures,
    read_picture,
    report_others,
)
from tests.models.images import pictures as made
from tests.models.images.pictures import noise, save

GREY, RGB = noise(28, 28), noise(28, 56, 3)
APPLE_DOUBLE = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(60)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation='
    b'"6"/></rdf:RDF></x:xmpmeta>'
)
FORMS = {
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    ".gif": "GIF",
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    ".png": "PNG",
    **dict.fromkeys((".pgm", ".pnm", ".ppm", ".pbm"), "PPM"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".webp": "WEBP",
}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def test_every_suffix_is_a_picture() -> None:
    assert set(FORMS) == SUFFIXES


def test_which_files_are_pictures(tmp_path: Path) -> None:
    png = save(GREY, "PNG")
    pictures = {f"{number}{suffix}": b"" for number, suffix in enumerate(sorted(FORMS))}
    pictures |= {"B.TIF": b"", "heic.HEIC": b"", "none": png, "other.data": save(RGB, "WEBP")}
    pictures |= {"below/deep/one.png": png, "torn.png": b""}
    hidden = [
        "._7.png",
        ".hidden.png",
        ".cache/7.png",
        "Thumbs.db",
        "__MACOSX/._7.png",
        "a/.DS_Store",
    ]
    others = {"notes.txt": b"BMW, a car", "below/labels.csv": b"7,1", "P5 list": b"P5 is a name"}
    write(tmp_path, pictures | dict.fromkeys(hidden, png) | others)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = find_pictures(tmp_path)
    names = [str(file.relative_to(tmp_path)) for file in found.pictures]
    assert sorted(names) == sorted([*pictures, "gone.png"])
    assert {str(file.relative_to(tmp_path)) for file in found.others} == {*others, "pipe.png"}


def test_a_report_counts_all_and_names_some() -> None:
    report = report_others([Path(f"{number}.txt") for number in range(7)])
    assert "7 files are left out" in report
    assert "0.txt, 1.txt" in report
    assert report.endswith("and 2 more")
    assert report_others([Path("a.txt")]).startswith("1 file is left out")


@pytest.mark.parametrize("suffix", sorted(FORMS))
def test_training_reads_every_format_as_the_service_does(tmp_path: Path, suffix: str) -> None:
    data = save(GREY > 127 if suffix == ".pbm" else GREY, FORMS[suffix])
    write(tmp_path, {f"one/a{suffix}": data, f"two/b{suffix.upper()}": data})
    loaded = load(str(tmp_path), None, "train")
    assert len(loaded) == 2
    assert not loaded.passed_over
    np.testing.assert_array_equal(loaded.images[0], decode(data).array())


@pytest.mark.parametrize(
    ("form", "metadata"),
    [
        *((form, {"exif": b"Exif\0\0" + made.exif(6)}) for form in ("PNG", "JPEG", "WEBP")),
        ("TIFF", {"tiffinfo": {274: 6}}),
        *((form, {"xmp": XMP}) for form in ("JPEG", "WEBP")),
        ("TIFF", {"tiffinfo": {700: XMP}}),
    ],
)
def test_training_turns_pictures_as_the_service_does(
    tmp_path: Path, form: str, metadata: dict[str, object]
) -> None:
    data = save(RGB, form, **metadata)
    seen = decode(data).array()
    turned = "xmp" not in metadata and metadata != {"tiffinfo": {700: XMP}}
    assert seen.shape == ((56, 28, 3) if turned else (28, 56, 3))
    write(tmp_path, {"one/a": data, "two/b": data})
    np.testing.assert_array_equal(load(str(tmp_path), None, "train").images[0], seen)
    side = 299
    fitted = FilePictures([tmp_path / "one/a"], side)[0]
    upright = Image.fromarray(seen)
    box = ((upright.width - 28) // 2, (upright.height - 28) // 2)
    middle = upright.crop((*box, box[0] + 28, box[1] + 28))
    expected = np.asarray(middle.resize((side, side), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(fitted.astype(int) - expected).mean() < 2


def test_training_skips_large_texts_and_reads_alpha(tmp_path: Path) -> None:
    text = made.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 22)))
    plain = save(GREY, "PNG")
    commented = plain[:33] + text + plain[33:]
    clear = made.png(np.dstack([GREY, 255 - GREY]), 8, 4)
    write(tmp_path, {"one/a.png": commented, "two/b.png": clear})
    loaded = load(str(tmp_path), None, "train")
    np.testing.assert_array_equal(loaded.images[0, ..., 0], GREY)
    np.testing.assert_array_equal(loaded.images[1], decode(clear).array())


def test_training_names_what_it_leaves_out(tmp_path: Path) -> None:
    png = save(GREY, "PNG")
    write(tmp_path, {"one/a.png": png, "two/b.png": png, "two/n.txt": b"", "readme.md": b""})
    write(tmp_path, {"one/._a.png": APPLE_DOUBLE, "._one": APPLE_DOUBLE})
    loaded = load(str(tmp_path), None, "train")
    assert len(loaded) == 2
    assert set(loaded.passed_over) == {tmp_path / "two/n.txt", tmp_path / "readme.md"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"torn", r"b\.png: Not a picture that can be read"),
        (b"", r"b\.png: Not a picture that can be read: an empty"),
        (APPLE_DOUBLE, r"b\.png: Not a picture .*AppleDouble"),
        (made.png(noise(28, 28, 1), 16, 0), r"b\.png: has 16 bits a pixel; save it with 8"),
        (save(noise(28, 28, 4), "TIFF")[:200], r"b\.png: Not a picture"),
    ],
)
def test_training_names_the_file_that_it_cannot_read(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    write(tmp_path, {"one/a.png": save(GREY, "PNG"), "two/b.png": content})
    with pytest.raises(DataSetError, match=complaint):
        load(str(tmp_path), None, "train")


def test_errors_name_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": b"torn"})
    with pytest.raises(PictureFileError, match=r"a\.png: Not a picture") as caught:
        read_picture(tmp_path / "a.png")
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        read_picture(tmp_path / "b.png")


def test_the_decoder_needs_no_torch() -> None:
    code = (
        "import sys, models.images.folders; "
        "print(*{'torch', 'service', 'fastapi', 'scipy'} & sys.modules.keys())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not out.stdout.split()

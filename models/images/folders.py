"""Picture files on disk: which files of a folder are pictures, and the pixels of one."""

import mimetypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from models.images.decoding import USUAL_PIXELS, Picture, decode
from models.images.errors import PictureError
from models.images.files import BEGINNING, seems_picture

SUFFIXES = frozenset(
    {".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm"}
    | {".ppm", ".tif", ".tiff", ".webp"}
)
# Suffixes of pictures that the standard library's media types may lack, and that are not read here.
_OTHER_SUFFIXES = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".svg", ".tga"})
# Files that Windows, macOS and network drives leave beside pictures, without a leading dot.
_LEFT_BEHIND = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
)
_SHOWN = 5


class PictureFileError(ValueError):
    """A picture file cannot be read: names the file, and says why and what to do."""


class Found(NamedTuple):
    """The files in a folder: pictures, whether or not they can be read, and all others."""

    pictures: list[Path]
    others: list[Path]


def find_pictures(folder: Path) -> Found:
    """Find the files in a folder and its subfolders, sorted by path.

    Hidden files and folders are skipped, and so are files that operating systems leave behind. A
    file is a picture by its suffix, or by its first bytes.

    Raises:
        OSError: a folder or a file cannot be read.
    """
    found = Found([], [])
    for file in _files(folder, frozenset({folder.resolve()})):
        (found.pictures if _is_picture(file) else found.others).append(file)
    return found


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is not meant for people, by its name."""
    return path.name.startswith(".") or path.name.lower() in _LEFT_BEHIND


def report_others(others: Sequence[Path]) -> str:
    """Say in one line which files were skipped; there must be at least one."""
    names = ", ".join(map(str, others[:_SHOWN]))
    more = f" and {len(others) - _SHOWN:,} more" if len(others) > _SHOWN else ""
    count = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
    return f"{count} left out, because their kind is not read: {names}{more}"


def read_picture(file: Path, max_pixels: int = USUAL_PIXELS) -> Picture:
    """Decode a picture file, as the service would decode its bytes.

    Raises:
        PictureFileError: it is not a picture that can be answered.
        OSError: the file cannot be read.
    """
    try:
        return decode(file.read_bytes(), max_pixels)
    except PictureError as error:
        raise PictureFileError(f"{file}: {error}") from error


def _files(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yield the files below ``folder``; ``above`` has its real path and those of its parents."""
    for path in sorted(folder.iterdir()):
        if is_hidden(path):
            continue
        if not path.is_dir():
            yield path
        elif (real := path.resolve()) not in above:  # a link may lead back up
            yield from _files(path, above | {real})


def _is_picture(file: Path) -> bool:
    suffix = file.suffix.lower()
    if file.exists() and not file.is_file():  # a pipe or a device: reading could wait for ever
        return False
    kind = mimetypes.guess_type(file.name)[0] or ""
    if suffix in SUFFIXES | _OTHER_SUFFIXES or kind.startswith("image/"):
        return True
    with file.open("rb") as stream:
        return seems_picture(stream.read(BEGINNING))

"""A folder of bundles from which models may be loaded while the service runs.

A model is ``root/name`` if that is a bundle, or else every bundle ``root/name/<number>``: its
versions.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from models.bundle import MANIFEST, BundleError, read_document
from service.system.confinement import NotConfinedError, confined

_NUMBER = re.compile(r"[0-9]{1,9}")


class RepositoryError(ValueError):
    """The bundle does not match its place in the repository."""


@dataclass(frozen=True)
class Stored:
    """A bundle in the repository, by its ``model.json``; nothing else is checked yet."""

    path: Path
    name: str
    version: str


def find(root: Path, name: str) -> list[Stored]:
    """Return the bundles of the model ``name``, the lowest version first.

    Raises:
        NotConfinedError: there is none, or it is outside.
        RepositoryError: one of them has another name or version in its description.
    """
    folder = confined(root, name)
    if (folder / MANIFEST).is_file():
        found = [_read(folder)]
    else:
        numbers = [one.name for one in _children(folder) if _NUMBER.fullmatch(one.name)]
        found = []
        for number in sorted(numbers, key=int):
            found.append(_read(confined(folder, number)))
            if found[-1].version != number:
                said = found[-1].version[:80]
                raise RepositoryError(f"The bundle in {name}/{number} is of version {said}.")
    if not found:
        raise NotConfinedError(f"There is no {name}.")
    for stored in found:
        if stored.name != name:
            raise RepositoryError(f"The bundle in {name} calls itself {stored.name[:80]}.")
    return found


def list_all(root: Path) -> tuple[list[Stored], dict[str, str]]:
    """Return all bundles, and for each that could not be read, by name, the reason."""
    found: list[Stored] = []
    broken: dict[str, str] = {}
    for folder in sorted(_children(root)):
        try:
            found += find(root, folder.name)
        except NotConfinedError:
            continue  # another file
        except RepositoryError as error:
            broken[folder.name] = str(error)
    return found, broken


def _children(folder: Path) -> list[Path]:
    try:
        return [child for child in folder.iterdir() if child.is_dir()]
    except OSError:
        return []


def _read(path: Path) -> Stored:
    try:
        document, _ = read_document(path)
        return Stored(path, str(document["name"]), str(document.get("version", "1")))
    except (BundleError, LookupError):
        raise RepositoryError(f"The file {MANIFEST} of {path.name} cannot be read.") from None

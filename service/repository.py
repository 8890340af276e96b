"""A folder of bundles from which models may be loaded while the service runs.

A model is ``root/name`` if that is a bundle, or else every bundle ``root/name/<number>``: its
versions. A family is the file ``root/name.family.json``, with its members' folders in ``root``.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from models.bundle import FAMILY, MANIFEST, BundleError, read_document
from models.family import read_family
from service.system.confinement import NotConfinedError, confined

_NUMBER = re.compile(r"[0-9]{1,9}")


class RepositoryError(ValueError):
    """The bundle does not match its place in the repository."""


@dataclass(frozen=True)
class Stored:
    """A bundle in the repository, by its ``model.json``, or a family, which has the version "".

    Nothing else is checked yet.
    """

    path: Path
    name: str
    version: str


def find(root: Path, name: str) -> list[Stored]:
    """Return the bundles of the model ``name``, the lowest version first, or the family.

    Raises:
        NotConfinedError: there is none, or it is outside.
        RepositoryError: one of them has another name or version in its description.
    """
    if family := _find_family(root, name):
        return [family]
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
    names = {folder.name for folder in _children(root)}
    names |= {file.name.removesuffix(FAMILY) for file in root.glob(f"*{FAMILY}")}
    for name in sorted(names):
        try:
            found += find(root, name)
        except NotConfinedError:
            continue  # another file
        except RepositoryError as error:
            broken[name] = str(error)
    return found, broken


def _find_family(root: Path, name: str) -> Stored | None:
    """Return the family ``name``, of which each member is a folder in ``root``."""
    try:
        path = confined(root, f"{name}{FAMILY}")
    except NotConfinedError:
        return None
    try:
        family = read_family(path)
    except BundleError as error:
        raise RepositoryError(f"The file {name}{FAMILY}: {error.field} {error.reason}.") from None
    if family.file.name != name or (root / name).exists():
        raise RepositoryError(f"The file {name}{FAMILY} is of a family {family.file.name[:80]}.")
    for folder in family.folders:
        if confined(root, folder.name) != folder:
            raise RepositoryError(f"The member {folder.name} of {name} is a link.")
    return Stored(path, name, "")


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

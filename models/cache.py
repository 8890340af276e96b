"""What is kept on disk from one start to the next, because finding it takes much of a start.

Whatever is read from there is tried like anything new, so that it can cost speed and nothing else.
"""

import hashlib
import json
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# The folder; ``off`` keeps nothing.
VARIABLE = "PIXELDP_CACHE"
OFF = "off"


def cache_path(kind: str, *about: object) -> Path | None:
    """Return the path of what is kept for ``about`` and for these versions.

    Args:
        kind: of the things kept; each has a folder of its own.
        about: what it depends on, as JSON can express it.

    Returns:
        None if nothing is kept.
    """
    folder = _folder()
    if folder is None:
        return None
    versions = [_version(name) for name in ("pixeldp", "torch", "openvino")]
    name = hashlib.sha256(json.dumps([*about, *versions]).encode()).hexdigest()[:32]
    return folder / kind / name


def make_room(folder: Path, most: int) -> None:
    """Delete the files that were longest not in use, until those in ``folder`` have ``most`` bytes.

    Raises:
        OSError: one cannot be deleted.
    """
    states = {file: file.stat() for file in folder.iterdir()}
    total = sum(state.st_size for state in states.values())
    for file in sorted(states, key=lambda one: states[one].st_mtime):
        if total > most:
            file.unlink(missing_ok=True)
            total -= states[file].st_size


def _folder() -> Path | None:
    if given := os.environ.get(VARIABLE, "").strip():
        return None if given == OFF else Path(given)
    with suppress(RuntimeError):  # there is no home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pixeldp"
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

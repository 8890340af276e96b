"""Names that come from requests, as paths that stay within a folder."""

import re
from pathlib import Path

# No separator, no leading dot (so neither "." nor ".."), no drive, no control character.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class NotConfinedError(ValueError):
    """The name is not valid, or leads out of the folder."""


def confined(root: Path, name: str) -> Path:
    """Return the existing file or folder ``name`` within ``root``, with all links resolved.

    Use the returned path, and do not build it again: the links of this one have been checked.

    Args:
        root: the folder.
        name: of an entry of it; from a stranger.

    Raises:
        NotConfinedError: it is not a plain name, does not exist, or links lead out of the folder.
    """
    if not _NAME.fullmatch(name):
        allowed = "letters, digits, dots, dashes and underscores, not beginning with a dot"
        raise NotConfinedError(f"A name has {allowed}; {name[:40]!r} does not.")
    try:
        home = root.resolve(strict=True)
        path = (home / name).resolve(strict=True)
    except (OSError, RuntimeError):  # missing, not readable, or links in a circle
        raise NotConfinedError(f"There is no {name}.") from None
    # The same answer as for a missing one: it must not reveal what exists elsewhere.
    if not path.is_relative_to(home) or path == home:
        raise NotConfinedError(f"There is no {name}.")
    return path

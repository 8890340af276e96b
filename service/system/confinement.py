"""Names that come from requests, as paths that stay within a folder."""

import re
from pathlib import Path

# No separator, no leading dot (so neither "." nor ".."), no drive, no control character.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class NotConfinedError(ValueError):
    """The name is none, or leads out of the folder."""


def confined(root: Path, name: str) -> Path:
    """Return the existing file or folder ``name`` within ``root``, with all links resolved.

    What follows must use the path returned, not put it together again: the links of this one have
    been checked.

    Args:
        root: the folder.
        name: one step below it; a stranger's word.

    Raises:
        NotConfinedError: it is not a plain name, is not there, or links lead out of the folder.
    """
    if not _NAME.fullmatch(name):
        allowed = "letters, digits, dots, dashes and underscores, not beginning with a dot"
        raise NotConfinedError(f"A name has {allowed}; {name[:40]!r} does not.")
    try:
        home = root.resolve(strict=True)
        path = (home / name).resolve(strict=True)
    except (OSError, RuntimeError):  # not there, not to be read, or links in a circle
        raise NotConfinedError(f"There is no {name}.") from None
    # Told like one that is not there: what lies elsewhere is nobody's business.
    if not path.is_relative_to(home) or path == home:
        raise NotConfinedError(f"There is no {name}.")
    return path

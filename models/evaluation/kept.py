"""What evaluations have found so far, in a file, so that one that begins again goes on.

The file has a line of JSON for some pictures each, unaltered or under one attack. A line has
everything on which its answers depend, among it the digests of the model and of the pictures. So a
file serves several models and evaluations, and lines of others are passed over.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.data.labelled import DataSet
from models.evaluation.figures import Answers
from models.execution import Execution, parse_execution

About = Mapping[str, Any]
# How each line begins.
_BEGIN = b'{"about": '


class Kept:
    """Answers that are kept in a file.

    Args:
        file: which need not exist; None if nothing is kept.

    Raises:
        ValueError: there is such a file, but of something else.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._found: dict[str, Answers] = {}
        self._ways: dict[str, str] = {}
        if file is not None and file.exists():
            content = file.read_bytes()
            lines = whole_lines(content)
            for number, line in enumerate(lines, 1):
                self._read(line, f"{file}, line {number}")
            # A line without an end was being written when the run ended.
            end = sum(map(len, lines))
            if content[end : end + len(_BEGIN)] != _BEGIN[: len(content) - end]:
                raise _refused(f"{file}, line {len(lines) + 1}")
            os.truncate(file, end)

    def _read(self, line: bytes, place: str) -> None:
        try:
            row = json.loads(line)
            leaders, sizes, seconds = (
                np.array(row[name]) for name in ("leaders", "sizes", "seconds")
            )
            found = Answers(leaders, sizes, seconds, int(row["draws"]))
            self._found[_name(row["about"])] = found
            self._ways[row["about"]["model"]] = row["about"].get("way", "")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _refused(place) from None

    def find(self, about: About) -> Answers | None:
        """Return the answers that depend on this and nothing else, if they are kept."""
        return self._found.get(_name(about))

    def add(self, about: About, answers: Answers) -> None:
        """Keep answers, and everything on which they depend: among it a ``model``."""
        if self.file is None:
            return
        row = {
            "about": dict(about),
            "leaders": answers.leaders.tolist(),
            "sizes": answers.sizes.tolist(),
            "seconds": [round(float(took), 6) for took in answers.seconds],
            "draws": answers.draws,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self._found[_name(about)] = answers

    def way(self, digest: str) -> Execution | None:
        """Return how the model of this digest was run last, if anything of it is kept."""
        text = self._ways.get(digest)
        return parse_execution(text) if text else None


def whole_lines(content: bytes) -> list[bytes]:
    """Return the lines that have an end, with their ends."""
    return [line + b"\n" for line in content.split(b"\n")[:-1]]


def digest_of(pictures: DataSet) -> str:
    """Return a digest of pictures and their labels."""
    found = hashlib.sha256(json.dumps([pictures.images.shape, *pictures.names]).encode())
    found.update(np.ascontiguousarray(pictures.images).data)
    found.update(pictures.labels.astype("<i8").tobytes())
    return f"sha256:{found.hexdigest()}"


def seed_of(seed: int, about: About) -> int:
    """Return the seed of a part, which depends on no other part: those may be kept."""
    found = hashlib.sha256(f"{seed} {_name(about)}".encode())
    return int.from_bytes(found.digest()[:8], "big") >> 1


def _refused(place: str) -> ValueError:
    reason = "is not what an evaluation keeps; name another file with --resume"
    return ValueError(f"{place}: {reason}")


def _name(about: About) -> str:
    return json.dumps(dict(about), sort_keys=True)

"""Families: bundles of one task at several noise scales, served by one name.

A certificate reaches further with more noise, and more pictures have the right label with less. So
the target of a question decides which member answers it. That is decided before anything is drawn,
and does not depend on the pixels: each member's certificates hold as they do by themselves.

A family is a file ``NAME.family.json`` beside its members' folders:

.. code-block:: json

    {
      "format_version": 1,
      "name": "digits",
      "default": "digits-025",
      "members": [
        {"bundle": "digits-025", "least_target": 0},
        {"bundle": "digits-050", "least_target": 0.4}
      ]
    }

A member answers targets of at least its ``least_target``, up to that of the next. Here targets are
in the norm of the members, as sizes of a change of a model's own input. ``default`` answers
questions without a target.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from models.bundle import FAMILY, ZOO, Bundle, BundleError, Name, Part, opened
from models.certification.names import ADDITIVE

LARGEST = 2**16


class Member(Part):
    """A bundle, by its folder's name, and the least target that it answers."""

    bundle: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    least_target: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FamilyFile(Part):
    """Everything in a family's file."""

    format_version: Literal[1] = 1
    name: Name
    default: str
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        names = [member.bundle for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError("the members' bundles must differ from each other")
        if self.default not in names:
            raise ValueError(f"default is {self.default!a:.80}, which is not a member's bundle")
        targets = [member.least_target for member in self.members]
        if targets[0] != 0 or any(one >= other for one, other in pairwise(targets)):
            raise ValueError("least_target must be 0 for the first member, and grow")
        return self


@dataclass(frozen=True)
class Family:
    """A family, as its file describes it."""

    path: Path
    file: FamilyFile

    @property
    def folders(self) -> list[Path]:
        """The members' folders."""
        return [self.path.parent / member.bundle for member in self.file.members]

    @property
    def default(self) -> int:
        """The position of the member that answers without a target."""
        return [member.bundle for member in self.file.members].index(self.file.default)

    def position(self, target: float) -> int:
        """Return the position of the member that answers ``target``, a size at its own input."""
        return sum(member.least_target <= target for member in self.file.members) - 1


def is_family(path: Path) -> bool:
    """Whether ``path`` names a family's file."""
    return path.name.endswith(FAMILY)


def read_family(path: Path) -> Family:
    """Read a family's file; its bundles are read separately.

    Raises:
        BundleError: it cannot be read, or is malformed.
    """
    shipped = ", ".join(sorted(one.name.removesuffix(FAMILY) for one in ZOO.glob(f"*{FAMILY}")))
    hint = f"; expected a file NAME{FAMILY}, or one of the shipped families ({shipped})"
    with opened(path, hint, LARGEST) as stream:
        content = stream.read(LARGEST + 1)
    try:
        return Family(path, FamilyFile.model_validate(json.loads(content)))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise BundleError(path, field, first["msg"].removeprefix("Value error, ")) from None
    except (ValueError, RecursionError) as error:
        raise BundleError(path, "file", f"is not JSON ({error})") from None


def check_members(path: Path, bundles: Sequence[Bundle]) -> None:
    """Check that bundles can answer in each other's place.

    Args:
        path: the family's file, for errors.
        bundles: its members.

    Raises:
        BundleError: their labels, inputs, norms or noise laws differ; or they add no noise, as with
            split noise and intervals the draws of an answer depend on the member.
    """
    first = bundles[0].manifest
    if first.noise.mechanism not in ADDITIVE:
        reason = f"have the mechanism {first.noise.mechanism}, for which there are no families"
        raise BundleError(path, "members", reason)
    for bundle in bundles[1:]:
        other = bundle.manifest
        for what, one, two in (
            ("labels", first.labels, other.labels),
            ("input", first.input, other.input),
            ("norm", first.sensitivity.input_norm, other.sensitivity.input_norm),
            ("noise law", first.noise.mechanism, other.noise.mechanism),
        ):
            if one != two:
                reason = f"{first.name} and {other.name} differ in {what}; members must not"
                raise BundleError(path, "members", reason)

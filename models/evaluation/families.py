"""The figures of a family: those of its members, and of the member that each target chooses.

A radius stands for a question's target: the family's certified accuracy at a radius is that of the
member which answers targets of that size. No member is chosen by these figures.

Papers print the best over σ: at each radius the highest share that any member has. It is chosen by
the same pictures that it is measured on, so an interval of one share alone does not hold for it.
Here each member's share has an interval at 1 − 0.05/M, for M members, so that at a radius all of
them hold together at 95 % (Bonferroni's inequality). The largest of the members' true shares then
lies between the largest lower end and the largest upper end, whichever member it is of.
"""

from collections.abc import Sequence

from models.bundle import Part
from models.evaluation.figures import (
    LEVEL,
    AccuracyAt,
    CertifiedAccuracy,
    Evaluation,
    Interval,
    Share,
    interval,
)
from models.family import Family


class FamilyAt(AccuracyAt):
    """Certified accuracy at ``radius`` of the member that answers this target.

    ``best`` has the highest certified accuracy of all members at this radius, ``best_accuracy``;
    ``best_interval`` is about the highest of their true shares (see the module).
    """

    member: str
    best: str
    best_accuracy: Share
    best_interval: Interval


class FamilyFigures(Part):
    """A family's figures.

    Attributes:
        name: the family's name.
        members: the figures of its members, in the order of its file.
        envelope: the figures of the family, at each radius.
        best_from: for each member but the first, about the least radius from which its certified
            accuracy is above that of all earlier ones; None if it never is.
    """

    name: str
    members: tuple[Evaluation, ...]
    envelope: tuple[FamilyAt, ...]
    best_from: tuple[float | None, ...]


def put_together(family: Family, members: Sequence[Evaluation]) -> FamilyFigures:
    """Return the family's figures; ``members`` are of the same pictures, at the same radii."""
    envelope = []
    for place, at in enumerate(members[0].certified):
        chosen = family.position(at.radius)
        found = members[chosen].certified[place]
        best = max(members, key=lambda member: member.certified[place].accuracy)
        counts = [round(one.certified[place].accuracy * one.pictures) for one in members]
        envelope.append(
            FamilyAt(
                radius=at.radius,
                accuracy=found.accuracy,
                accuracy_interval=found.accuracy_interval,
                member=members[chosen].model,
                best=best.model,
                best_accuracy=best.certified[place].accuracy,
                best_interval=interval_of_best(counts, best.pictures),
            )
        )
    return FamilyFigures(
        name=family.file.name,
        members=tuple(members),
        envelope=tuple(envelope),
        best_from=tuple(
            _best_from(members[:later], members[later]) for later in range(1, len(members))
        ),
    )


def interval_of_best(counts: Sequence[int], of: int) -> Interval:
    """Bound the largest of several shares of the same ``of`` pictures (see the module)."""
    level = 1 - (1 - LEVEL) / len(counts)
    lows, highs = zip(*(interval(count, of, level) for count in counts), strict=True)
    return max(lows), max(highs)


def _best_from(earlier: Sequence[Evaluation], later: Evaluation) -> float | None:
    radii = sorted({at.radius for one in (*earlier, later) for at in one.curve})
    for radius in radii:
        if _share(later.curve, radius) > max(_share(one.curve, radius) for one in earlier):
            return radius
    return None


def _share(curve: Sequence[CertifiedAccuracy], radius: float) -> float:
    """Return the share at the next point of a curve, which falls; 0 beyond its end."""
    return next((at.accuracy for at in curve if at.radius >= radius), 0.0)

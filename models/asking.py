"""A question to a model: what is asked, and what its noise decides."""

import re
from collections.abc import Sequence

from models.bundle import Manifest
from models.certification.norms import check_norm
from models.certification.question import Question
from models.certification.stickers import FEWEST, MOST, count_views


def ask(
    manifest: Manifest,
    confidence: float | None,
    max_draws: int,
    target: float | None = None,
    norm: str | None = None,
    allow: tuple[int, ...] | None = None,
    *,
    usual: float,
) -> Question:
    """Return a question.

    Args:
        manifest: of the model.
        confidence: η; None for the usual one, which is 1 if the noise has finitely many draws.
        max_draws: the draw budget; noise with finitely many draws needs them all.
        target: the size needed, or None.
        norm: of sizes; the model's own by default.
        allow: the labels allowed, from :func:`find_labels`; None if the question is about one.
        usual: the confidence if none is asked for and the draws are random.

    Raises:
        ValueError: a value is not allowed, or not for this model.
    """
    draws = manifest.noise.draws
    if confidence is None:
        confidence = usual if draws is None else 1.0
    if confidence == 1 and draws is None:
        raise ValueError(
            f"confidence is 1, but {manifest.name} estimates expected scores from random draws, "
            "which is never certain; expected a number below 1, such as 0.999999"
        )
    sizes_in = check_norm(norm or manifest.sensitivity.input_norm)
    return Question(confidence, draws or max_draws, target, sizes_in, allow=allow)


def find_labels(text: str, labels: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of labels, in order.

    Args:
        text: their names, or indices that are no label's name, divided by commas; a comma in a name
            comes after a backslash.
        labels: the names of all labels.

    Raises:
        ValueError: one of them is neither.
    """
    indices = {str(index): index for index in range(len(labels))}
    known = indices | {name: index for index, name in enumerate(labels)}
    found = set()
    for part in re.split(r"(?<!\\),", text):
        name = part.strip().replace("\\,", ",")
        if name not in known:
            raise ValueError(
                f"allow names the label {name[:40]!r}, which there is not; expected names of "
                f"labels, or numbers from 0 to {len(labels) - 1}"
            )
        found.add(known[name])
    return tuple(sorted(found))


def ask_about_stickers(manifest: Manifest, side: float | None, masks: int) -> Question:
    """Return a question about stickers, which is answered with certainty.

    Args:
        manifest: of the model.
        side: of the sticker, in pixels of the picture as sent.
        masks: how many there are along each side of the model's input.

    Raises:
        ValueError: a value is not allowed, or not for this model.
    """
    if manifest.noise.draws is not None:
        raise ValueError(
            f"{manifest.name} has the mechanism {manifest.noise.mechanism}, which sees no masked "
            "picture, so it has no certificate against stickers; use a model with added noise"
        )
    if side is None or side < 1 or side != int(side):
        given = "missing" if side is None else f"{side:g}"
        raise ValueError(
            f"target is {given}; against stickers it must be their side in pixels of the picture, "
            "a whole number such as 32"
        )
    if not FEWEST <= masks <= MOST:
        raise ValueError(f"masks must lie between {FEWEST} and {MOST}, not {masks}")
    norm = manifest.sensitivity.input_norm
    return Question(1.0, count_views(masks), float(side), norm, masks=masks)

"""The figures of answers, whoever drew them: an evaluation, or a bulk certification."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.certification.arrays import Integers
from models.evaluation.figures import Answers, Evaluation, shares
from models.evaluation.logs import write_log


def summarise(
    answers: Answers,
    numbers: Integers,
    labels: Integers,
    radii: Sequence[float],
    seconds: float,
    log: Path | None,
    **others: Any,
) -> Evaluation:
    """Return the figures of answers.

    Args:
        answers: of N pictures.
        numbers: [N], the pictures' numbers in their data set.
        labels: [N], their right labels.
        radii: the sizes at which certified accuracy is reported.
        seconds: that the answers took.
        log: a file for a certification log (:mod:`models.evaluation.logs`).
        others: members of :class:`Evaluation` that do not follow from these.
    """
    if log is not None:
        write_log(log, numbers, labels, answers.leaders, answers.sizes, answers.seconds)
    return Evaluation(
        **others,
        **shares(answers.leaders == labels, answers.sizes, radii),
        draws=answers.draws,
        seconds=round(seconds, 2),
        draws_per_second=round(answers.draws / seconds, 1),
    )

"""What h has to be, whatever it is: tried before a bundle is made of it.

The certificate takes h to be any function of one row. These trials find the usual ways in which a
network is not: layers in training mode that look at the whole batch or drop values at random. They
are trials and no proof; nothing can tell of arbitrary code that it has no further inputs.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.certification.procedure import Inquiry, Question
from models.importing.files import ImportFailedError
from models.loaded import LoadedModel
from models.precision import PRECISIONS, Precision
from models.predictor import Predictor

# Told what is being done.
Report = Callable[[str], None]
# Rows of a trial's pass; large networks make it slow.
ROWS = 8
# How much of the largest logit may come from summing in another order.
_ROUNDING: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 5e-2}


def examine(model: LoadedModel, report: Report = lambda doing: None) -> tuple[Precision, ...]:
    """Try h of ``model`` in each number format.

    Returns:
        The formats that it runs in, float32 always.

    Raises:
        ImportFailedError: it cannot be certified; says why, and what to do.
    """
    formats: list[Precision] = []
    for precision in PRECISIONS:
        report(f"trying it in {precision}")
        predictor = Predictor(model, ROWS, precision=precision)
        rng = np.random.default_rng(0)
        channels, *sides = model.manifest.input.shape
        pictures = [
            predictor.encode(rng.integers(0, 256, (*sides, channels)).astype(np.uint8)).features
            for _ in range(2)
        ]
        noisy = predictor.noisy(pictures, np.arange(ROWS) % 2)
        try:
            logits = predictor.logits(noisy)
        except (RuntimeError, TypeError) as error:
            if precision == "float32":
                reason = " ".join(str(error).split())
                raise ImportFailedError(f"the network does not run: {reason}") from error
            continue
        except ValueError as error:
            raise ImportFailedError(str(error)) from None
        _try(predictor, noisy, logits)
        formats.append(precision)
    return tuple(formats)


def _try(predictor: Predictor, noisy: Tensor, logits: Tensor) -> None:
    where = predictor.precision
    if not logits.isfinite().all():
        raise ImportFailedError(
            f"the network returns NaN or infinity for ordinary pictures in {where}; such draws "
            "count for no label: check its weights and its normalisation"
        )
    if not torch.equal(predictor.logits(noisy), logits):
        raise ImportFailedError(
            f"the network returns different logits for the same noisy picture in {where}: it draws "
            "random numbers of its own (dropout in training mode?), so that its draws would not be "
            "those that the certificate speaks of; put it into evaluation mode"
        )
    # Every other row stays; NaN shows any sum that runs over rows.
    for other in (0.0, 1e4, torch.nan):
        changed = noisy.clone()
        changed[1::2] = other
        if not torch.equal(predictor.logits(changed)[::2], logits[::2]):
            raise ImportFailedError(
                f"the network's rows look at each other in {where}: what it returns for a picture "
                "changes with the pictures beside it, which makes many draws one (batch norm in "
                "training mode, or without running statistics?); put it into evaluation mode"
            )
    # Sums may be rounded otherwise elsewhere in a pass; anything more is another function.
    moved = predictor.logits(noisy.flip(0)).flip(0)
    if (moved - logits).abs().max() > _ROUNDING[where] * logits.abs().max():
        raise ImportFailedError(
            f"what the network returns for a picture depends on its place in the batch in {where}; "
            "it has to be a function of the picture alone"
        )


def answer(
    model: LoadedModel,
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    question: Question,
    report: Report = lambda doing: None,
) -> Inquiry:
    """Answer ``question``, which has no target, for ``pixels`` [height, width, channels]."""
    predictor = Predictor(model, ROWS)
    encoded = predictor.encode(pixels)
    manifest = model.manifest
    inquiry = Inquiry(question, encoded.terms, len(manifest.labels), manifest.scoring)
    while not inquiry.stopped:
        report(f"answering a picture, {inquiry.total.draws} of {question.max_draws} draws made")
        inquiry.add(predictor.run([encoded.features], np.zeros(ROWS, dtype=np.intp)))
    return inquiry

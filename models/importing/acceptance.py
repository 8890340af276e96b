"""What every h must satisfy: tried before a bundle is made of it.

The certificate holds for any h that is a function of one row. An exported program has been proven
to be one (:mod:`models.networks.foreign.rows`). Then follows the long form of :mod:`models.trial`,
which keeps each row by itself: at a small pass size in every number format, and at the pass size
that would serve here.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.answering import answer_all
from models.bundle import BundleError
from models.calibration import calibrate
from models.certification.kinds import SizeInquiry
from models.certification.question import Question
from models.execution import PRECISIONS, Precision
from models.loaded import LoadedModel
from models.predictor import Predictor
from models.source_names import ImportFailedError
from models.trial import RowsError

# Called with a description of each step.
Report = Callable[[str], None]
# The rows of a trial's pass; with large networks passes are slow.
ROWS = 8
# Rows of large passes are kept by themselves, all or evenly spaced, for about this many seconds.
SECONDS_ALONE = 10.0


def examine(
    model: LoadedModel, device: str, report: Report = lambda doing: None
) -> tuple[Precision, ...]:
    """Try h of ``model`` in each number format, on a torch device.

    Returns:
        The formats in which it runs, always including float32.

    Raises:
        ImportFailedError: it cannot be certified; says why, and what to do.
    """
    formats: list[Precision] = []
    for precision in PRECISIONS:
        report(f"trying it in {precision}")
        predictor = Predictor(model, ROWS, device, precision)
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
        _try(predictor, logits)
        formats.append(precision)
    _try_as_served(model, device)
    return tuple(formats)


def _try_as_served(model: LoadedModel, device: str) -> None:
    """Try h as the service would run it on this machine."""
    try:
        predictor, found = calibrate(model, device, None, None)
        affordable = int(SECONDS_ALONE * found.draws_per_second / predictor.pass_size / 2)
        predictor.try_rows(min(predictor.pass_size, max(affordable, 1)))
    except BundleError as error:
        raise ImportFailedError(error.reason) from None
    except RowsError as error:
        raise ImportFailedError(f"h is not a function of one row: {error}") from None


def _try(predictor: Predictor, logits: Tensor) -> None:
    where = predictor.precision
    if not logits.isfinite().all():
        raise ImportFailedError(
            f"the network returns NaN or infinity for ordinary pictures in {where}; such draws "
            "count for no label: check its weights and its normalisation"
        )
    try:
        predictor.try_rows(ROWS)
    except RowsError as error:
        raise ImportFailedError(f"the network cannot be certified: in {where} {error}") from None


def answer(
    model: LoadedModel,
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    question: Question,
    device: str,
    report: Report = lambda doing: None,
) -> SizeInquiry:
    """Answer ``question``, which has no target, for ``pixels`` [height, width, channels]."""
    drawing = "answering a picture, {} of {} draws made".format
    _, inquiry = next(
        answer_all(
            Predictor(model, ROWS, device),
            [pixels],
            question,
            lambda drawn: report(drawing(drawn, question.max_draws)),
        )
    )
    return inquiry

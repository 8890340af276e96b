"""The time of a first answer, and a warning at start if it exceeds the default time-out."""

import asyncio
import math

import structlog

from models.asking import ask
from models.certification.kinds import first_look
from service.catalogue import Catalogue, Served
from service.engine.engine import Engine
from service.engine.pace import MARGIN
from service.settings import Settings

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.2


def first_answer_ms(draws_per_second: float, draws: int) -> int:
    """Return the milliseconds in which a first look, at ``draws``, is likely to be reached."""
    return math.ceil(MARGIN * 1000 * draws / draws_per_second)


async def warn_of_slow_models(engine: Engine, catalogue: Catalogue, settings: Settings) -> None:
    """Once workers are ready, warn of models whose answers take too long by default."""
    while not engine.ready:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(_LOOK_SECONDS)
    for served in catalogue.models:
        if speed := engine.speed(served.index):
            _warn(served, speed, settings)


def _warn(served: Served, speed: float, settings: Settings) -> None:
    """Warn if requests without options may have no answer in time, or an answer of less worth."""
    manifest = served.bundle.manifest
    question = ask(manifest, None, settings.max_draws, usual=settings.confidence)
    look = first_answer_ms(speed, first_look(question, manifest.noise.mechanism))
    # Draws that are counted certify nothing with certainty before more than half of them are made,
    # and boxes that are not tried are not certified.
    needed = max(look, first_answer_ms(speed, manifest.noise.draws or 0))
    if needed <= settings.timeout_ms:
        return
    log.warning(
        "model is too slow for the default time-out: requests that name none may end in 504"
        if look > settings.timeout_ms
        else "model is too slow for all its draws within the default time-out: requests that name "
        "none may be answered with a smaller size, or 0",
        model=":".join(served.key),
        draws_per_second=round(speed, 1),
        timeout_ms=settings.timeout_ms,
        timeout_ms_needed=needed,
    )

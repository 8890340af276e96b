"""The time of a first answer, and a warning at start if it exceeds the default time-out."""

import asyncio
import math

import structlog

from models.certification.division import LEAST_DRAWS
from service.catalogue import Catalogue
from service.engine.engine import Engine
from service.engine.pace import MARGIN
from service.settings import Settings

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.2


def first_answer_ms(draws_per_second: float, draws: int = LEAST_DRAWS) -> int:
    """Return the milliseconds in which a first look, at ``draws``, is likely to be reached."""
    return math.ceil(MARGIN * 1000 * draws / draws_per_second)


async def warn_of_slow_models(engine: Engine, catalogue: Catalogue, settings: Settings) -> None:
    """Once workers are ready, warn of models whose first answer takes too long by default."""
    while not engine.ready:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(_LOOK_SECONDS)
    for served in catalogue.models:
        speed = engine.speed(served.index)
        if speed and first_answer_ms(speed) > settings.timeout_ms:
            log.warning(
                "model is too slow for the default time-out: requests that name none may end "
                "in 504",
                model=":".join(served.key),
                draws_per_second=round(speed, 1),
                timeout_ms=settings.timeout_ms,
                timeout_ms_needed=first_answer_ms(speed),
            )

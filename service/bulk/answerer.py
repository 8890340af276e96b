"""Who answers the pictures of a bulk certification: an engine with workers on this machine."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from models.certification.question import Question
from service.catalogue import Served
from service.decoding.reduction import Reduced
from service.engine.engine import Engine
from service.engine.queue import Job, Result
from service.http.checks import read_catalogue
from service.http.local import make_engine
from service.http.metrics import Metrics
from service.settings import Settings

# Pictures for each device at once: enough to fill two passes, and to have the next ones there.
PICTURES_EACH = 32
# No picture is answered before its question is: a deadline that never comes.
NEVER_SECONDS = 1e9
LOOK_SECONDS = 0.05


class CannotStartError(ValueError):
    """No worker can start: says why."""


class Answerer(Protocol):
    """What answers pictures.

    Attributes:
        places: how many pictures it should have at once.
    """

    places: int

    async def answer(self, picture: Reduced, question: Question) -> Result:
        """Answer a question about a picture, whatever becomes of the workers.

        Raises:
            EngineError: it has no answer.
        """


class LocalAnswerer:
    """An engine in this process.

    Args:
        engine: started.
        served: its model.
        devices: how many workers it has.
    """

    def __init__(self, engine: Engine, served: Served, devices: int) -> None:
        self._engine, self._served = engine, served
        self.places = PICTURES_EACH * devices

    async def answer(self, picture: Reduced, question: Question) -> Result:
        """Answer a question about a picture; see :class:`Answerer`."""
        manifest = self._served.bundle.manifest
        return await self._engine.predict(
            Job(
                model=self._served.index,
                picture=picture,
                question=question,
                scores=len(manifest.labels),
                deadline=time.monotonic() + NEVER_SECONDS,
            )
        )


@asynccontextmanager
async def local_answerer(settings: Settings) -> AsyncIterator[LocalAnswerer]:
    """Start an engine as the service would with these settings, and stop it at the end.

    Raises:
        CannotStartError: no worker can start.
        BundleError: the bundle cannot be trusted.
    """
    devices = len(settings.worker_devices())
    own = settings.model_copy(update={"queue": 4 * PICTURES_EACH * devices, "shrink": False})
    catalogue = read_catalogue(own)
    broken: list[str] = []
    engine = make_engine(own, catalogue, Metrics(), broken.append)
    engine.start()
    try:
        while not engine.ready:
            if broken:
                raise CannotStartError(broken[0])
            await asyncio.sleep(LOOK_SECONDS)
        yield LocalAnswerer(engine, catalogue.models[0], devices)
    finally:
        await engine.close()

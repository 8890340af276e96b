"""The way of a picture through the front process: bytes to pixels to engine to answer."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from models.certification.procedure import Question, Terms
from models.certification.reach import draws_needed, reachable_size
from models.preprocessing import CannotCertify, Preprocessing, plan
from service import images
from service.api.answers import Answer, Compute, Look, Timing, answer, look
from service.api.options import Asked, Options, resolve
from service.api.problems import Problem
from service.catalogue import Catalogue, Served, UnknownModelError
from service.engine.engine import (
    CannotEncodeError,
    DeadlineError,
    Engine,
    Job,
    NotReadyError,
    OverloadedError,
    WorkersLostError,
)
from service.metrics import Metrics
from service.settings import Settings

RETRY_SECONDS = 1


@dataclass(frozen=True)
class Predictions:
    """What answers pictures, and everything it takes."""

    settings: Settings
    catalogue: Catalogue
    engine: Engine
    metrics: Metrics
    pool: ThreadPoolExecutor

    async def predict(
        self,
        data: bytes,
        options: Options,
        arrived: float,
        on_look: Callable[[Look], None] | None = None,
    ) -> Answer:
        """Answer for one picture.

        Args:
            data: the picture file.
            options: what the client chose.
            arrived: when the request came, by ``time.monotonic``.
            on_look: told at every look before the last what the answer is so far.

        Raises:
            Problem: anything that keeps the picture from being answered.
        """
        served = self.find(options.model)
        asked = resolve(options, served, self.settings)
        begun = time.monotonic()
        loop = asyncio.get_running_loop()
        limits = images.Limits(self.settings.max_pixels)
        try:
            picture = await loop.run_in_executor(self.pool, images.decode, data, limits)
            preparation = plan(
                picture.width,
                picture.height,
                picture.mode,
                picture.bits,
                served.bundle.manifest.input.shape,
            )
        except images.NotAPicture as error:
            raise Problem("not-a-picture", str(error)) from None
        except images.TooManyPixels as error:
            raise Problem("too-many-pixels", str(error), limit_pixels=error.limit) from None
        except (images.CannotCertifyPicture, CannotCertify) as error:
            raise Problem("cannot-certify-preprocessing", str(error)) from None
        self._check_reach(served, asked, preparation, picture.values)
        decoded = time.monotonic()
        job = Job(
            model=served.index,
            picture=picture,
            question=asked.question,
            scores=asked.scores,
            deadline=arrived + asked.timeout_ms / 1000,
            high=options.priority == "high",
        )
        try:
            result = await self.engine.predict(
                job, on_look and (lambda so_far: on_look(look(so_far, served.bundle)))
            )
        except NotReadyError as error:
            raise Problem("not-ready", f"{error}.", retry_after_s=RETRY_SECONDS) from None
        except (OverloadedError, WorkersLostError) as error:
            raise Problem("overloaded", f"{error}.", retry_after_s=RETRY_SECONDS) from None
        except DeadlineError:
            detail = f"No look was reached within timeout_ms={asked.timeout_ms}."
            raise Problem("deadline-before-first-look", detail) from None
        except CannotEncodeError as error:
            raise Problem("cannot-certify-preprocessing", str(error)) from None
        stages = {
            "decode": decoded - begun,
            "queue": result.queue_seconds,
            "compute": result.compute_seconds,
        }
        answered = answer(
            result.conclusion,
            result.granted,
            served.bundle,
            asked,
            picture,
            preparation,
            Compute(device=result.device, precision=result.precision, compiled=result.compiled),
            Timing(
                **{stage: _milliseconds(seconds) for stage, seconds in stages.items()},
                total=_milliseconds(time.monotonic() - arrived),
            ),
            options.evidence,
        )
        self._count(answered, stages)
        return answered

    def find(self, name: str | None) -> Served:
        """Return the model called ``name``, or raise the problem that there is none."""
        try:
            return self.catalogue.find(name)
        except UnknownModelError as error:
            raise Problem("unknown-model", str(error.args[0])) from None

    def _check_reach(
        self, served: Served, asked: Asked, preparation: Preprocessing, values: int
    ) -> None:
        """Refuse a confidence at which not even agreeing draws certify anything."""
        manifest = served.bundle.manifest
        norm = manifest.sensitivity.input_norm
        terms = Terms(
            mechanism=manifest.noise.mechanism,
            scale=manifest.noise.scale,
            sensitivity=manifest.sensitivity.value * preparation.sensitivity(norm, norm),
            norm=norm,
            values=values,
        )
        question = asked.question
        if reachable_size(question, terms, manifest.scoring) > 0:
            return
        anything = Question(question.confidence, question.max_draws, None, question.norm)
        needed = draws_needed(anything, terms, manifest.scoring)
        takes = "no budget suffices" if needed is None else f"it takes at least {needed:,}"
        raise Problem(
            "confidence-out-of-reach",
            f"At confidence {asked.confidence} nothing can be certified with {asked.max_draws:,} "
            f"draws, even if all agree: {takes}.",
            option="confidence",
            draws_needed=needed,
        )

    def _count(self, answered: Answer, stages: dict[str, float]) -> None:
        name = answered.model.name
        robust = {True: "true", False: "false", None: "unknown"}[answered.robust]
        self.metrics.predictions.labels(name, robust, answered.stopped).inc()
        self.metrics.draws.labels(name).observe(answered.draws)
        self.metrics.size.labels(name, answered.norm).observe(answered.certified_size)
        for stage, seconds in stages.items():
            self.metrics.stage.labels(stage).observe(seconds)


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)

"""The way of a picture through the front process: bytes to pixels to engine to answer."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from models.certification.kinds import first_look
from models.certification.reach import draws_needed, reachable_size
from models.images.decoding import Size
from models.masking import masks_for
from models.picture_terms import assemble_terms, target_at_input
from models.preprocessing import Preprocessing
from service.catalogue import Catalogue, UnknownModelError
from service.decoding.decoders import NoMemoryError
from service.decoding.reduction import Reduced, Task
from service.engine.errors import DeadlineError, OverloadedError
from service.engine.queue import Job
from service.http.api.answers import Answer, AnyAnswer, AnyLook, Timing, answer, look
from service.http.api.options import Asked, Options, resolve
from service.http.backend import Answering, Decoding
from service.http.exceptions import KNOWN, problem_for
from service.http.guards.auth import LEAST_COST, Bill, charge, check_priority, owner
from service.http.guards.bodies import Bodies
from service.http.guards.budget import File, NoRoomError
from service.http.metrics import Metrics
from service.http.problems import Problem
from service.http.slowness import first_answer_ms
from service.http.tracing import Tracing
from service.http.usage import current
from service.settings import Settings


@dataclass(frozen=True)
class Predictions:
    """Answers pictures, and owns everything that this needs."""

    settings: Settings
    catalogue: Catalogue
    engine: Answering
    metrics: Metrics
    tracing: Tracing | None
    bodies: Bodies
    decoders: Decoding

    @property
    def ready(self) -> bool:
        """Whether pictures are answered now, including large ones."""
        return self.engine.ready and self.decoders.ready

    async def predict(
        self,
        file: File,
        options: Options,
        arrived: float,
        on_look: Callable[[AnyLook | None], None] | None = None,
    ) -> AnyAnswer:
        """Answer for one picture.

        Args:
            file: the picture file; it is released when it is decoded.
            options: the client's options.
            arrived: when the request arrived, by ``time.monotonic``.
            on_look: called with the answer so far at every look before the last; with None when the
                picture begins again, which voids the earlier calls.

        Raises:
            Problem: the picture cannot be answered.
        """
        try:
            served = self.catalogue.find(options.model)
        except UnknownModelError as error:
            raise problem_for(error, self.engine) from None
        asked = resolve(options, served, self.settings, self.catalogue.family(options.model))
        usage = current()
        usage.model = ":".join(served.key)
        try:
            if asked.high:
                check_priority()
            with charge(asked.question.max_draws, self.engine.speed(served.index)) as bill:
                try:
                    answered = await self._predict(file, asked, arrived, bill, on_look)
                except DeadlineError as error:
                    raise self._late(error, asked) from None
                except KNOWN as error:
                    raise problem_for(error, self.engine) from None
                bill.draws = answered.draws
            usage.answers += 1
            usage.draws += answered.draws
        except Problem as problem:
            self.metrics.pictures.refused.labels(problem.name).inc()
            raise
        return answered

    async def _predict(
        self,
        file: File,
        asked: Asked,
        arrived: float,
        bill: Bill,
        on_look: Callable[[AnyLook | None], None] | None,
    ) -> AnyAnswer:
        begun = time.monotonic()
        deadline = arrived + asked.timeout_ms / 1000
        asked, picture, preparation = await self._prepare(file, asked, deadline - begun, bill)
        served = asked.served
        decoded = time.monotonic()
        job = Job(
            model=served.index,
            picture=picture,
            question=asked.question,
            scores=asked.scores,
            attacks=asked.attacks,
            deadline=deadline,
            high=asked.high,
            owner=owner(),
            whole=bool(served.bundle.manifest.noise.draws or asked.question.masks),
        )
        result = await self.engine.predict(
            job, on_look and (lambda so_far: on_look(so_far and look(so_far, served.bundle)))
        )
        stages = {
            "decode": decoded - begun,
            "queue": result.queue_seconds,
            "compute": result.compute_seconds,
            "total": time.monotonic() - arrived,
        }
        timing = Timing(**{stage: round(1000 * seconds, 3) for stage, seconds in stages.items()})
        answered = answer(result, asked, picture, preparation, timing)
        self.metrics.pictures.count(answered, stages)
        if self.tracing:
            self.tracing.prediction(_told(answered), begun, decoded, stages["queue"], result.looks)
        return answered

    async def _prepare(
        self, file: File, asked: Asked, seconds: float, bill: Bill
    ) -> tuple[Asked, Reduced, Preprocessing]:
        """Decode a picture for a model; return it and its preprocessing.

        Of a family, only now it is known which member answers: what is returned names it.

        Raises:
            DeadlineError: it took longer than ``seconds``.
            EngineError: there is no place for it.
        """
        shape = asked.served.bundle.manifest.input.shape
        speed = self.engine.speed(asked.served.index)
        try:
            async with asyncio.timeout(seconds):
                with self.engine.preparing(owner()):
                    task = Task(self.settings.max_pixels, shape)
                    picture = await self._decode(file, task, bill, speed)
                    preparation = picture.plan(shape)
                    asked = self._choose(asked, preparation)
                    _check_reach(asked, preparation)
        except TimeoutError:
            raise DeadlineError("the deadline came while the picture was decoded") from None
        return asked, picture, preparation

    def _choose(self, asked: Asked, preparation: Preprocessing) -> Asked:
        """Let the target decide which member of a family answers."""
        question = asked.question
        if asked.family is None or question.target is None or question.masks:
            return asked
        own = asked.served.bundle.manifest.sensitivity.input_norm
        target = target_at_input(question.target, question.norm, own, preparation)
        served = self.catalogue.answering(asked.family, target)
        current().model = ":".join(served.key)
        return replace(asked, served=served)

    def _late(self, error: DeadlineError, asked: Asked) -> Problem:
        """Return the problem that says what was reached by a deadline, and what would be enough."""
        mechanism = asked.served.bundle.manifest.noise.mechanism
        draws_needed = first_look(asked.question, mechanism)
        said = (
            f"No look was reached within timeout_ms={asked.timeout_ms}: {error.draws} draws were "
            f"made, but the first look needs {draws_needed}."
        )
        members: dict[str, float] = {"draws_needed": draws_needed}
        # One worker makes all draws of a picture.
        if speed := self.engine.speed(asked.served.index):
            needed = first_answer_ms(speed, draws_needed)
            said += (
                f" A worker makes at most {speed:.0f} draws a second with this model: set "
                f"timeout_ms to {needed} or more, and to more while others wait."
            )
            members |= {"draws_per_second": round(speed, 1), "timeout_ms_needed": needed}
        return problem_for(error, self.engine, said, **members)

    async def show(self, file: File, side: int) -> bytes:
        """Return the decoded picture as a PNG file, no side much longer than ``side``.

        Raises:
            Exception: of ``KNOWN``: it cannot be decoded, or there is no place for it.
        """
        task = Task(self.settings.max_pixels, side=side)
        speed, seconds = self.engine.speed(), self.settings.timeout_ms / 1000
        try:
            with charge(LEAST_COST, speed) as bill, self.engine.preparing(owner()):
                async with asyncio.timeout(seconds):
                    return (await self._decode(file, task, bill, speed)).content
        except TimeoutError:
            raise OverloadedError(f"The picture was not decoded within {seconds:g} s") from None

    async def _decode(self, file: File, task: Task, bill: Bill, speed: float) -> Reduced:
        """Decode a picture; its pixels are charged first, as draws at ``speed`` per second."""

        def admit(size: Size) -> None:
            bill.add_work(size.work, file.size, speed)

        try:
            picture = await self.decoders.reduce(file, task, owner(), admit)
            file.holding.take(len(picture.content))
        except (NoRoomError, MemoryError):
            raise NoMemoryError from None
        return picture


def _check_reach(asked: Asked, preparation: Preprocessing) -> None:
    """Refuse a confidence at which nothing can be certified even if all draws agree.

    Or, against stickers, a side that can hide everything.
    """
    question, manifest = asked.question, asked.served.bundle.manifest
    if question.masks and question.target:
        masks_for(preparation, int(question.target), question.masks)
        return
    terms = assemble_terms(manifest, preparation)
    scoring, labels = manifest.scoring, len(manifest.labels)
    if reachable_size(question, terms, scoring, labels) > 0:
        return
    needed = draws_needed(replace(question, target=None), terms, scoring, labels)
    takes = "no budget suffices" if needed is None else f"it takes at least {needed:,}"
    raise Problem(
        "confidence-out-of-reach",
        f"At confidence {question.confidence} nothing can be certified with {question.max_draws:,} "
        f"draws, even if all agree: {takes}.",
        option="confidence",
        draws_needed=needed,
    )


def _told(answered: AnyAnswer) -> dict[str, str | int | float]:
    """Return the attributes of an answer for a trace."""
    told: dict[str, str | int | float] = {
        "model": answered.model.name,
        "device": answered.compute.device,
        "draws": answered.draws,
        "stopped": answered.stopped,
    }
    if isinstance(answered, Answer):
        told["certified_size"] = answered.certified_size
    else:
        told |= {"threat": answered.threat, "certified": answered.sticker.certified}
    return told

"""A worker's loop: admit, plan, run, record."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
import structlog

from models.batcher import AnyInquiry, Ticket
from models.calibration import find_small, make_small
from models.certification.answer import conclude
from models.certification.question import Question
from models.device import open_device
from models.execution import Calibration, SmallPass
from models.noise import Features
from models.predictor import Predictor
from models.preprocessing import Preprocessing
from service.decoding.reduction import FLOAT
from service.engine import messages
from service.engine.channel import Channel
from service.engine.flights import Counts, Flights
from service.engine.helping import Errands, Helpers
from service.engine.pass_runner import Former, PassRunner, Running
from service.engine.status import SharedStatus
from service.engine.turns import Turns

_NUMBERS_EVERY_SECONDS = 1.0
# This long plus two passes before a picture's deadline, a draft is sent to the front.
_DRAFT_SECONDS = 0.5

# How often a worker that waits for others' draws alone looks at deadlines.
_WAITING_SECONDS = 0.05

log = structlog.get_logger(__name__)

Loader = Callable[[messages.Model], tuple[Predictor, Calibration]]


@dataclass
class _Client:
    """What an answer needs in addition to the ticket."""

    admitted: float
    scores: int
    attacks: int | None
    progress: bool
    predictor: Predictor
    looks: list[tuple[int, float]] = field(default_factory=list)
    drafted: int = 0


class Loop:
    """The work of a worker once its models are loaded.

    It knows the models that this process has loaded, and how it runs them. The front decides which
    models are served: it has each loaded and removed.

    Args:
        channel: to the front process.
        status: shows the front process what this one does.
        loaded: each model by number, and how it is run.
        loader: loads a further model; called in a separate thread.
    """

    def __init__(
        self,
        channel: Channel,
        status: SharedStatus,
        loaded: dict[int, tuple[Predictor, Calibration]],
        loader: Loader,
    ) -> None:
        self._channel, self._loader = channel, loader
        self._models = {model: Running.begin(model, *one) for model, one in loaded.items()}
        # Those of the models, and former ones that only finish their pictures.
        self._runners = [running.runner for running in self._models.values()]
        self._clients: dict[int, _Client] = {}
        self._helpers, self._errands = Helpers(channel), Errands(channel)
        self._device = next((one.on for one, _ in loaded.values()), open_device("cpu"))
        self._flights = Flights(status, channel.wake)
        # What background threads leave, to be called between passes.
        self._finished: deque[Callable[[], None]] = deque()
        self._turns = Turns()
        self._reported = time.monotonic()

    def run(self) -> None:
        """Serve until the front process ends."""
        while True:
            # Whatever could be planned or recorded has been.
            waiting = not self._flights and any(runner.batcher for runner in self._runners)
            for message, payload in self._channel.receive(_WAITING_SECONDS if waiting else None):
                self._receive(message, payload)
                self._record_made()
            while self._finished:
                self._finished.popleft()()
            self._record_made()
            self._plan()
            self._help()
            if not self._flights or time.monotonic() - self._reported > _NUMBERS_EVERY_SECONDS:
                self._report()

    def _receive(self, message: messages.Message, payload: bytes) -> None:
        match message:
            case messages.Admit():
                if message.alone:
                    self._drain()
                self._flights.show([message.id])
                self._admit(message, payload)
                # While passes are in flight only their end counts as a turn: otherwise a device
                # that hangs would go unnoticed as long as pictures come.
                self._flights.show(turn=not self._flights)
            case messages.Assist():
                self._flights.show([message.id])
                self._assist(message, payload)
                self._flights.show(turn=not self._flights)
            case messages.Draw():
                self._errands.owe(message)
            case messages.Lent() | messages.Drawn():
                self._take_help(message)
            case messages.Cancel():
                self._errands.cancel(message.id)
                if self._clients.pop(message.id, None):
                    self._helpers.forget(message.id)
                for runner in self._runners:
                    runner.batcher.cancel(message.id)
            case messages.Add():
                self._start(partial(self._load, message.model))
            case messages.Remove():
                self._remove(message.model)
            case messages.Compile():
                models = [model for model in message.models if model in self._models]
                running = {
                    model: [one.predictor for one in self._models[model].runners]
                    for model in models
                }
                self._start(partial(self._compile, running, message.compare))
            case messages.Shorten():
                asked = {
                    model: (self._models[model].runner.predictor, size)
                    for model, size in message.models.items()
                    if model in self._models
                }
                self._start(partial(self._shorten, asked))

    def _plan(self) -> None:
        """Submit passes of the models in turn, until enough are in flight."""
        now = time.monotonic()
        for runner in self._runners:
            self._answer(runner.batcher.expire(now))
            self._draft(runner, now)
        while len(self._flights) < self._device.depth and self._submit_next(now):
            pass

    def _submit_next(self, now: float) -> bool:
        """Submit the next pass, if there is one; say whether more may follow."""
        for runner in self._turns.order(self._runners):
            alone = runner.batcher.next_is_alone
            if alone and self._flights:
                return False
            if planned := runner.batcher.plan(now):
                self._turns.took(runner)
                self._flights.submit(runner, planned)
                self._helpers.issue(runner)
                if alone:
                    self._drain()
                return not alone
        return False

    def _drain(self) -> None:
        """Wait until no pass is in flight: before and after that of a picture that is alone."""
        while self._flights:
            self._record()

    def _record(self) -> None:
        """Record the first pass in flight."""
        runner, planned, made = self._flights.collect()
        if made is None:
            self._halve(runner)
        else:
            self._end(runner.batcher.fail(made.failed), made.failed)
            self._answer(runner.batcher.record(planned, made.draws))
        self._flights.show(turn=True)

    def _record_made(self) -> None:
        while self._flights.first_is_made:
            self._record()

    def _help(self) -> None:
        """Make one pass for another worker."""
        if self._errands:
            self._flights.show([self._errands.next_picture])
            self._errands.run()
            self._flights.show(turn=True)
        if self._errands:
            self._channel.wake()

    def _take_help(self, message: messages.Lent | messages.Drawn) -> None:
        """Heed what the front says of a helper of a picture, or take the draws that it made."""
        for runner in self._runners:
            ticket = runner.batcher.find(message.id)
            if ticket is None or (
                isinstance(message, messages.Drawn)
                and not runner.batcher.lent(ticket, message.helper)
            ):
                continue
            if isinstance(message, messages.Lent):
                self._helpers.change(ticket, message)
            elif message.failed:
                self._end(runner.batcher.fail([ticket]), {ticket: message.failed})
            else:
                votes = np.array(message.votes, dtype=np.int32)
                self._answer(runner.batcher.deliver(ticket, message.helper, votes))
            self._helpers.issue(runner)

    def _assist(self, message: messages.Assist, pixels: bytes) -> None:
        """Be ready to make draws of a picture that another worker has, if h is the same here."""
        asked = message.admission
        for runner in self._runners:
            if (runner.model, runner.predictor.execution) == (asked.model, message.execution):
                self._errands.add(runner, _ticket(runner.predictor, asked, pixels))
                return
        self._channel.send(messages.Assists(id=message.id, able=False))

    def _admit(self, message: messages.Admit, pixels: bytes) -> None:
        running = self._models.get(message.model)
        if running is None:
            self._channel.send(
                messages.Failed(id=message.id, reason="the model is no longer served")
            )
            return
        try:
            ticket = _ticket(running.eager, message, pixels)
        except ValueError as error:
            self._channel.send(messages.Failed(id=message.id, reason=str(error)))
            return
        except ArithmeticError as error:
            # A number of this question that nobody thought of must not end all other pictures.
            reason = f"the model failed on this picture: {error}"
            self._channel.send(messages.Failed(id=message.id, reason=reason, model=True))
            return
        if message.pass_size is not None:
            runner = running.of(message.pass_size)
        else:
            mine = [one for one in self._runners if one.model == message.model]
            runner = running.choose(ticket.inquiry.least, sum(len(one.batcher) for one in mine))
        runner.batcher.admit(ticket)
        self._clients[message.id] = _Client(
            time.monotonic(), message.scores, message.attacks, message.progress, runner.predictor
        )
        if message.lendable:
            self._helpers.want(runner, ticket)

    def _answer(self, tickets: Iterable[Ticket]) -> None:
        outgoing: list[messages.Message] = []
        now = time.monotonic()
        for ticket in tickets:
            client = self._clients[ticket.id]
            started = now if ticket.started is None else ticket.started
            if ticket.inquiry.look > len(client.looks):
                client.looks.append((ticket.inquiry.draws, now - started))
            if ticket.done:
                self._drop(ticket)
            elif not client.progress:
                continue
            if not ticket.inquiry.look:
                outgoing.append(messages.Late(id=ticket.id, draws=ticket.inquiry.draws))
                continue
            answer = _word(ticket, client, now)
            if client.progress and ticket.inquiry.stopped != "deadline":
                outgoing.append(messages.Look(id=ticket.id, conclusion=answer.conclusion))
            if ticket.done:
                outgoing.append(answer)
        self._channel.send(*outgoing)

    def _drop(self, ticket: Ticket) -> None:
        """Drop what was kept for a picture that has left."""
        del self._clients[ticket.id]
        self._helpers.forget(ticket.id)

    def _draft(self, runner: PassRunner, now: float) -> None:
        """Send the front the last looks of pictures whose deadline is near.

        These are the answers if this process is stopped, or a pass takes too long.
        """
        near = now + _DRAFT_SECONDS + 2 * self._flights.counts.longest_seconds
        outgoing: list[messages.Message] = []
        for ticket in runner.batcher.tickets:
            if ticket.deadline >= near:
                continue
            client = self._clients[ticket.id]
            if ticket.inquiry.look > client.drafted:
                client.drafted = ticket.inquiry.look
                outgoing.append(_word(ticket, client, now, draft=True))
        self._channel.send(*outgoing)

    def _end(self, tickets: Iterable[Ticket], reasons: dict[Ticket, str]) -> None:
        """Answer pictures on which h failed with their last look; those without one have failed."""
        for ticket in tickets:
            if ticket.inquiry.look:
                self._answer([ticket])
                continue
            self._drop(ticket)
            reason = f"the model failed on this picture: {reasons[ticket]}"
            self._channel.send(messages.Failed(id=ticket.id, reason=reason, model=True))

    def _halve(self, runner: PassRunner) -> None:
        """Make passes of a model half as large, because one did not fit into memory."""
        self._flights.discard([runner])
        running = self._models[runner.model]
        moved = running.halve(runner)
        self._runners.remove(runner)
        if running.runner not in self._runners:
            self._runners.append(running.runner)
        self._errands.refuse([runner])
        for ticket in moved:
            self._helpers.forget(ticket.id)
            client = self._clients[ticket.id]
            client.predictor, client.looks, client.drafted = running.runner.predictor, [], 0
            self._channel.send(messages.Begun(id=ticket.id))
        change = messages.Recalibrated(model=runner.model, calibration=running.calibration)
        self._channel.send(change)

    # In the background: a thread never touches what the loop uses, but calls _finish.

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()

    def _finish(self, change: Callable[[], None]) -> None:
        """Have the loop call ``change`` between passes."""
        self._finished.append(change)
        self._channel.wake()

    def _shorten(self, asked: dict[int, tuple[Predictor, int | None]]) -> None:
        found: dict[int, tuple[Predictor, SmallPass | None]] = {}
        for model, (predictor, size) in asked.items():
            small: SmallPass | None = None
            try:
                small = make_small(predictor, size) if size else find_small(predictor)
            except Exception as error:  # whatever it was, all pictures have large passes
                log.warning("no small passes", model=model, reason=str(error))
            found[model] = predictor, small
        self._finish(partial(self._take_small, found))

    def _take_small(self, found: dict[int, tuple[Predictor, SmallPass | None]]) -> None:
        """Have small passes for new pictures."""
        calibrations: dict[int, Calibration] = {}
        for model, (predictor, small) in found.items():
            running = self._models.get(model)
            if running is None:
                continue
            if small:
                running.shorten(predictor, small)
                self._runners += [one for one in running.runners if one not in self._runners]
            calibrations[model] = running.calibration
        self._channel.send(messages.Shortened(calibrations=calibrations))

    def _compile(self, running: dict[int, list[Predictor]], compare: bool) -> None:
        done: dict[int, list[Predictor]] = {}
        kept: dict[int, str] = {}
        for model, predictors in running.items():
            try:
                done[model] = [one.compile() for one in predictors]
            except Exception as error:  # whatever it was, the eager form continues
                reason = str(error).strip().partition("\n")[0]
                kept[model] = f"it cannot be compiled: {reason or type(error).__name__}"
        # All together at the end: no compiled network may run while another is being traced.
        self._finish(partial(self._switch, done, kept, compare))

    def _switch(
        self, done: dict[int, list[Predictor]], kept: dict[int, str], compare: bool
    ) -> None:
        """Use compiled networks for new pictures; with ``compare``, only if they are faster."""
        changed: dict[int, Calibration] = {}
        for model, compiled in done.items():
            running = self._models.get(model)
            if running is None:
                continue
            if reason := running.change(compiled, compare):
                kept[model] = reason
                continue
            # The former runners keep their pictures: none of them meets another h.
            self._runners += running.runners
            changed[model] = running.calibration
        self._channel.send(messages.Compiled(calibrations=changed, kept=kept))

    def _load(self, model: messages.Model) -> None:
        try:
            predictor, calibration = self._loader(model)
        except Exception as error:  # whatever it was, the other models continue
            reason = str(error) or type(error).__name__
            refusal = messages.NotAdded(model=model.number, reason=reason)
            self._finish(partial(self._refuse, refusal))
        else:
            self._finish(partial(self._add, model, predictor, calibration))

    def _add(self, told: messages.Model, predictor: Predictor, calibration: Calibration) -> None:
        model, size = told.number, calibration.pass_size
        self._models[model] = Running.begin(model, predictor, calibration)
        self._device = predictor.on
        self._runners.append(self._models[model].runner)
        ceiling = size if size < (told.pass_size or 0) else None
        self._channel.send(messages.Added(model=model, calibration=calibration, ceiling=ceiling))
        self._regain()

    def _refuse(self, refusal: messages.NotAdded) -> None:
        self._device.free()
        self._channel.send(refusal)
        self._regain()

    def _remove(self, model: int) -> None:
        leaving = [runner for runner in self._runners if runner.model == model]
        self._flights.discard(leaving)
        for runner in leaving:
            for ticket in runner.batcher.withdraw():
                self._drop(ticket)
                reason = "the model is no longer served"
                self._channel.send(messages.Failed(id=ticket.id, reason=reason))
        self._errands.refuse(leaving)
        self._runners = [runner for runner in self._runners if runner not in leaving]
        self._models.pop(model, None)
        self._device.free()
        self._channel.send(messages.Removed(model=model))
        self._regain()

    def _regain(self) -> None:
        """Try again the passes that did not fit into memory; there may be more of it now."""
        formers = {model: one.former for model, one in self._models.items() if one.former}
        if formers:
            self._start(partial(self._try_again, formers))

    def _try_again(self, formers: dict[int, Former]) -> None:
        for model, former in formers.items():
            try:
                fits = former.fits()
            except Exception as error:  # whatever it was, the smaller passes continue
                log.warning("larger passes do not return", model=model, reason=str(error))
                continue
            if fits:
                self._finish(partial(self._restore, model, former))

    def _restore(self, model: int, former: Former) -> None:
        """Have passes of the former size for new pictures."""
        running = self._models.get(model)
        if running is None or running.former is not former:
            return
        running.restore()
        # Pictures in smaller passes stay there: none of them meets another h.
        self._runners += running.runners
        self._channel.send(messages.Restored(model=model, calibration=running.calibration))

    def _report(self) -> None:
        self._reported = time.monotonic()
        counts, self._flights.counts = self._flights.counts, Counts()
        if counts.passes:
            used, memory = self._device.memory()
            numbers = messages.Numbers(**asdict(counts), memory_used=used, memory=memory)
            self._channel.send(numbers)


def _word(ticket: Ticket, client: _Client, now: float, draft: bool = False) -> messages.Answer:
    """Return the answer so far to a picture that has reached a look."""
    started = now if ticket.started is None else ticket.started
    return messages.Answer(
        id=ticket.id,
        conclusion=conclude(ticket.inquiry, client.scores, client.attacks),
        execution=client.predictor.execution,
        queue_seconds=started - client.admitted,
        compute_seconds=now - started,
        looks=client.looks,
        draft=draft,
    )


def _ticket(predictor: Predictor, message: messages.Admit, pixels: bytes) -> Ticket:
    """Return a picture with its question, ready for its first draw.

    Raises:
        ValueError: it cannot become the model's input.
    """
    shape = (message.height, message.width, message.channels)
    preparation = predictor.plan(shape, message.bits)
    preparation.known.update({(p, q): value for p, q, value in message.sensitivities})
    question = Question(
        message.confidence,
        message.max_draws,
        message.target,
        message.norm,
        message.restarts,
        message.allow,
        message.masks,
    )
    features, inquiry = _begin(predictor, question, preparation, message, pixels)
    return Ticket(
        message.id,
        features,
        inquiry,
        message.deadline,
        high=message.high,
        owner=message.owner,
        alone=message.alone,
    )


def _begin(
    predictor: Predictor,
    question: Question,
    preparation: Preprocessing,
    message: messages.Admit,
    pixels: bytes,
) -> tuple[Features, AnyInquiry]:
    """Begin an inquiry into a picture; arguments and errors as for :func:`_ticket`."""
    if message.prepared:
        prepared = np.frombuffer(pixels, dtype=FLOAT).reshape(preparation.shape)
    else:
        kind = np.dtype("<u1" if message.bits == 8 else "<u2")
        picture = np.frombuffer(pixels, dtype=kind)
        picture = picture.reshape(message.height, message.width, message.channels)
        if not question.masks:
            encoded = predictor.encode(picture)
            return encoded.features, predictor.inquire(question, encoded)
        prepared = preparation.apply(picture)
    if question.masks:
        return predictor.against_stickers(question, prepared, preparation)
    encoded = predictor.encode_prepared(prepared, preparation)
    return encoded.features, predictor.inquire(question, encoded)

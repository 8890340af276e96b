"""How workers run each model: what is set, and what the workers of one kind have agreed on.

A certificate speaks of one h. So the workers on one kind of device run a model in one way: one of
them finds it out, and the others are told. One at a time measures what is fastest while the others
wait, as measurements side by side disturb each other, and are of different things in the end.
Likewise one compiles what it may, and compares.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from models.bundle import Bundle
from models.execution import Calibration, Execution, Format, Provider
from service.catalogue import Served
from service.engine import messages
from service.engine.check import Reference
from service.engine.errors import LoadError
from service.engine.handle import WorkerHandle

log = structlog.get_logger(__name__)

NO_MEMORY = "larger passes do not fit into its memory"


class Agreement:
    """What workers have to agree on, by kind of device and model.

    Args:
        workers: all of them.
        precision: the number format of h; None to measure which is fastest.
        provider: what runs h; None to measure which is fastest.
        int8: whether int8 may be chosen.
        pass_size: slots of every pass; None to measure how many are enough, and how many for few
            pictures.
        compilable: the models that workers may compile, and use so where that is faster. None that
            is loaded later: nothing can be traced beside a compiled network that runs.
        pins: by the digest of a model the only way in which it may be served; empty for any. If
            there are pins, models without one are not served.
    """

    def __init__(
        self,
        workers: Sequence[WorkerHandle],
        precision: Format | None,
        provider: Provider | None,
        int8: bool,
        pass_size: int | None,
        compilable: Iterable[int],
        pins: Mapping[str, Execution],
    ) -> None:
        self._workers = workers
        self._provider, self._precision, self._int8 = provider, precision, int8
        self._pass_size, self._pins = pass_size, pins
        # What is pinned runs as it is pinned from the start.
        self._compilable = frozenset(() if pins else compilable)
        # How a worker of a kind runs a model at first, and whether it then compiles it. What one
        # has found is binding for the others, and for all restarts.
        self._ways: dict[tuple[str, int], Execution] = {}
        self._compiled: dict[tuple[str, int], bool] = {}
        # The size of a kind's small passes of a model, if they pay; who looks for them; who is at
        # making them; and of which models a worker has them or need not.
        self._small: dict[tuple[str, int], int | None] = {}
        self._seeking: set[WorkerHandle] = set()
        self._shortening: set[WorkerHandle] = set()
        self._shortened: dict[WorkerHandle, set[int]] = {}
        # Who measures and who compiles to compare, by kind; and who waits to be told, with what.
        self._measuring: dict[str, WorkerHandle] = {}
        self._comparing: dict[str, WorkerHandle] = {}
        self._waiting: dict[WorkerHandle, list[Served]] = {}
        # The largest passes that fit, by worker and model, where larger ones did not.
        self._ceilings: dict[tuple[str, int], int] = {}
        # Why a worker does not run a model compiled, though the others of its kind do.
        self._kept: dict[tuple[str, int], str] = {}
        # What their probe pictures are compared with, by kind of device and model.
        self._references: dict[tuple[str, int], Reference] = {}

    def describe(self, served: Served, worker: WorkerHandle) -> messages.Model:
        """Return the description of a model that a worker must load.

        Raises:
            LoadError: the model is not pinned, but others are.
        """
        digest = served.bundle.digest
        if self._pins and digest not in self._pins:
            raise LoadError(f"PIXELDP_PIN names no h of {':'.join(served.key)}, {digest}")
        way = self._way(served, worker.kind)
        sizes = [
            way.pass_size if way else self._pass_size,
            self._ceilings.get((worker.name, served.index)),
        ]
        return messages.Model(
            number=served.index,
            path=str(served.bundle.path),
            digest=digest,
            precision=way.precision if way else self._precision,
            provider=way.provider if way else self._provider,
            int8=self._int8,
            pin=self._pins.get(digest),
            pass_size=min((size for size in sizes if size is not None), default=None),
        )

    def _way(self, served: Served, kind: str) -> Execution | None:
        return self._pins.get(served.bundle.digest) or self._ways.get((kind, served.index))

    # Who measures.

    def wait(self, worker: WorkerHandle, models: Sequence[Served]) -> None:
        """Tell a worker that has read ``models`` how to run them, as soon as that is known.

        If nobody of its kind measures, it does.
        """
        self._waiting[worker] = list(models)
        self._tell(worker.kind)

    def waits(self, worker: WorkerHandle) -> bool:
        """Whether a worker waits for what another finds."""
        return worker in self._waiting

    def accepts(
        self, worker: WorkerHandle, calibrations: dict[int, Calibration], ceilings: dict[int, int]
    ) -> bool:
        """Say whether a worker runs models as those of its kind before it do.

        Args:
            worker: the worker, which has loaded the models.
            calibrations: how it runs them.
            ceilings: the largest passes that its memory holds, of those models where that is less
                than it was told.
        """
        for model, ceiling in ceilings.items():
            self.limit(worker, model, ceiling)
        same = True
        for model, found in calibrations.items():
            execution = found.execution
            way = self._ways.setdefault((worker.kind, model), execution)
            ceiling = self._ceilings.get((worker.name, model), way.pass_size)
            same &= execution == replace(way, pass_size=min(way.pass_size, ceiling))
        self.pass_on(worker)
        return same

    def pass_on(self, worker: WorkerHandle) -> None:
        """Let another measure in a worker's place, if it does: it has, or it is in trouble."""
        if self._measuring.get(worker.kind) is worker:
            del self._measuring[worker.kind]
            self._tell(worker.kind)

    def _tell(self, kind: str) -> None:
        for worker, models in list(self._waiting.items()):
            if worker.kind != kind:
                continue
            if not all(self._way(served, kind) for served in models):
                if kind in self._measuring:
                    continue
                self._measuring[kind] = worker
                log.info("worker measures", worker=worker.name)
            del self._waiting[worker]
            worker.send(messages.Run(models=[self.describe(one, worker) for one in models]))

    # Who looks for small passes, and who compiles.

    def improve(self, worker: WorkerHandle) -> None:
        """Have a worker that is ready make small passes as its kind does, and then compile.

        Where it is not known yet whether small passes pay, and no other is at it, the worker tries.
        """
        kind = worker.kind
        if worker in self._shortening:
            return
        if not self._pins and self._pass_size is None:
            new = worker.calibrations.keys() - self._shortened.get(worker, set())
            asked = {model: self._small.get((kind, model)) for model in sorted(new)}
            if any((kind, model) not in self._small for model in asked):
                if any(other.kind == kind for other in self._seeking):
                    return
                asked = {model: None for model in asked if (kind, model) not in self._small}
                self._seeking.add(worker)
            else:
                fits = worker.calibrations
                asked = {
                    model: size
                    for model, size in asked.items()
                    if size is not None and size < fits[model].pass_size
                }
            if asked:
                self._shortening.add(worker)
                worker.send(messages.Shorten(models=asked))
                return
        self.compile(worker)

    def shortened(self, worker: WorkerHandle, message: messages.Shortened) -> None:
        """Note which small passes a worker has; the others of its kind follow."""
        self._shortening.discard(worker)
        self._shortened.setdefault(worker, set()).update(message.calibrations)
        if worker in self._seeking:
            self._seeking.discard(worker)
            for model, found in message.calibrations.items():
                small = found.small.pass_size if found.small else None
                self._small[worker.kind, model] = small
        self.improve(worker)
        self._improve_others(worker)

    def _improve_others(self, worker: WorkerHandle) -> None:
        for other in self._workers:
            if other.kind == worker.kind and other is not worker and other.ready:
                self.improve(other)

    def compile(self, worker: WorkerHandle) -> None:
        """Have a worker that is ready compile what it is to run so.

        That is what others of its kind run so. Where that is not known yet, and no other is at it,
        the worker tries whether it is faster.
        """
        kind = worker.kind
        if worker in self._shortening:
            return
        mine = sorted(self._compilable & worker.calibrations.keys())
        unknown = [model for model in mine if (kind, model) not in self._compiled]
        if unknown and kind not in self._comparing:
            self._comparing[kind] = worker
            worker.send(messages.Compile(models=unknown, compare=True))
        chosen = [model for model in mine if self._compiled.get((kind, model))]
        if chosen and not unknown:
            worker.send(messages.Compile(models=chosen, compare=False))

    def compiled(self, worker: WorkerHandle, message: messages.Compiled) -> None:
        """Note what a worker has compiled, and what not; the others of its kind follow."""
        if self._comparing.get(worker.kind) is not worker:
            self._kept |= {(worker.name, model): why for model, why in message.kept.items()}
            return
        del self._comparing[worker.kind]
        for model in (*message.calibrations, *message.kept):
            self._compiled[worker.kind, model] = model in message.calibrations
        self._compile_others(worker)

    def _compile_others(self, worker: WorkerHandle) -> None:
        for other in self._workers:
            if other.kind == worker.kind and other is not worker and other.ready:
                self.compile(other)

    # What is known of one worker.

    def departs(self, bundle: Bundle, found: Calibration) -> bool:
        """Say whether a model is run in another way than the one in which it may serve."""
        return bool(self._pins) and [self._pins.get(bundle.digest)] != found.executions

    def limit(self, worker: WorkerHandle, model: int, ceiling: int) -> None:
        """Note the largest pass of a model that fits into the memory of the worker's device."""
        self._ceilings[worker.name, model] = ceiling

    def lift(self, worker: WorkerHandle, model: int) -> None:
        """Note that passes of a model fit into the memory of the worker's device again."""
        self._ceilings.pop((worker.name, model), None)

    def deviation(self, worker: WorkerHandle, model: int) -> str | None:
        """Say why a worker does not run a model as agreed; None if it does."""
        if (worker.name, model) in self._ceilings:
            return NO_MEMORY
        return self._kept.get((worker.name, model))

    def reference(self, worker: WorkerHandle, model: int) -> Reference:
        """Return the reference of a model's probe pictures for a worker."""
        return self._references.setdefault((worker.kind, model), Reference())

    def leave(self, worker: WorkerHandle) -> None:
        """Note that a worker is gone; another takes over what it was to find."""
        self._waiting.pop(worker, None)
        self._shortened.pop(worker, None)
        self._shortening.discard(worker)
        if worker in self._seeking:
            self._seeking.discard(worker)
            self._improve_others(worker)
        self._kept = {key: why for key, why in self._kept.items() if key[0] != worker.name}
        self.pass_on(worker)
        if self._comparing.get(worker.kind) is worker:
            del self._comparing[worker.kind]
            self._compile_others(worker)

    def forget(self, model: int) -> None:
        """Drop what was found of a model that no worker has any more."""
        ways = self._ways, self._small, self._compiled
        for found in (*ways, self._ceilings, self._kept, self._references):
            for key in [key for key in found if key[1] == model]:
                del found[key]
        for models in self._shortened.values():
            models.discard(model)

"""How workers run each model: what is set, and what those before a worker have found."""

from collections.abc import Iterable, Mapping

from models.bundle import Bundle
from models.execution import Calibration, Execution, Format, Provider
from service.catalogue import Served
from service.engine import messages
from service.engine.check import Reference
from service.engine.errors import LoadError
from service.engine.handle import WorkerHandle


class Agreement:
    """What workers have to agree on, by model.

    Args:
        precision: the number format of h; None to measure which is fastest.
        provider: what runs h; None to measure which is fastest.
        int8: whether int8 may be chosen.
        pass_size: slots of every pass; None to measure how many are enough.
        compiled: whether workers may compile the models, and use that where it is faster.
        pins: by the digest of a model the one way in which it may serve; empty for any. If there
            are some, models without one do not serve.
    """

    def __init__(
        self,
        precision: Format | None,
        provider: Provider | None,
        int8: bool,
        pass_size: int | None,
        compiled: bool,
        pins: Mapping[str, Execution],
    ) -> None:
        self._provider, self._precision, self._int8 = provider, precision, int8
        self._pass_size, self._compile, self._pins = pass_size, compiled and not pins, pins
        # By kind of device and model. What the first worker chooses is binding for the others and
        # for all restarts: a certificate speaks of one network, and others differ in some votes.
        self._ways: dict[tuple[str, int], tuple[Provider, Format]] = {}
        # The largest passes that fit, by worker and model, where larger ones did not.
        self._ceilings: dict[tuple[str, int], int] = {}
        # What their probe pictures are compared with, by kind of device and model.
        self._references: dict[tuple[str, int], Reference] = {}

    def order(self, worker: WorkerHandle, models: Iterable[Served]) -> messages.Load:
        """Return what a worker that starts is told: which models to load, and how to run them."""
        return messages.Load(
            models=[self.describe(served, worker) for served in models],
            device=worker.device,
            pass_size=self._pass_size,
            compile=self._compile,
        )

    def describe(self, served: Served, worker: WorkerHandle) -> messages.Model:
        """Return what a worker is told of a model that it is to load.

        Raises:
            LoadError: it is not among those that are pinned.
        """
        digest = served.bundle.digest
        if self._pins and digest not in self._pins:
            raise LoadError(f"PIXELDP_PIN names no h of {':'.join(served.key)}, {digest}")
        way = self._ways.get((worker.kind, served.index))
        provider, precision = way or (self._provider, self._precision)
        return messages.Model(
            number=served.index,
            path=str(served.bundle.path),
            digest=digest,
            precision=precision,
            provider=provider,
            int8=self._int8,
            pin=self._pins.get(digest),
            ceiling=self._ceilings.get((worker.name, served.index)),
        )

    def accepts(self, worker: WorkerHandle, calibrations: dict[int, Calibration]) -> bool:
        """Say whether a worker runs models by what and in the formats that those before it did."""
        found = {model: (one.provider, one.precision) for model, one in calibrations.items()}
        same = [
            self._ways.setdefault((worker.kind, model), way) == way for model, way in found.items()
        ]
        return all(same)

    def departs(self, bundle: Bundle, found: Calibration) -> bool:
        """Say whether a model is run in another way than the one in which it may serve."""
        return bool(self._pins) and self._pins.get(bundle.digest) != found.execution

    def limit(self, worker: WorkerHandle, model: int, ceiling: int) -> None:
        """Note the largest pass of a model that fits into the memory of the worker's device."""
        self._ceilings[worker.name, model] = ceiling

    def reference(self, worker: WorkerHandle, model: int) -> Reference:
        """Return what probe pictures of a model are compared with at a worker."""
        return self._references.setdefault((worker.kind, model), Reference())

    def forget(self, model: int) -> None:
        """Drop what was found of a model that no worker has any more."""
        for found in (self._ways, self._ceilings, self._references):
            for key in [key for key in found if key[1] == model]:
                del found[key]

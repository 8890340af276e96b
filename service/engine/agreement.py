"""How workers run each model: by the settings, and by what earlier workers found."""

from collections.abc import Iterable, Mapping

from models.bundle import Bundle
from models.execution import Calibration, Execution, Format, Provider
from service.catalogue import Served
from service.engine import messages
from service.engine.check import Reference
from service.engine.errors import LoadError
from service.engine.handle import WorkerHandle


class Agreement:
    """What workers must agree on, by model.

    Args:
        precision: the number format of h; None to measure which is fastest.
        provider: what runs h; None to measure which is fastest.
        int8: whether int8 may be chosen.
        pass_size: slots of every pass; None to measure how many are enough.
        compiled: whether workers may compile the models, and use the compiled form if faster.
        pins: by the digest of a model the only way in which it may be served; empty for any. If
            there are pins, models without one are not served.
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
        # By kind of device and model. The first worker's choice is binding for the others and for
        # all restarts: a certificate is about one h, and others differ in some votes.
        self._ways: dict[tuple[str, int], tuple[Provider, Format]] = {}
        # The largest passes that fit, by worker and model, if larger ones did not.
        self._ceilings: dict[tuple[str, int], int] = {}
        # The references of their probe pictures, by kind of device and model.
        self._references: dict[tuple[str, int], Reference] = {}

    def order(self, worker: WorkerHandle, models: Iterable[Served]) -> messages.Load:
        """Return the first message to a worker: which models to load, and how to run them."""
        return messages.Load(
            models=[self.describe(served, worker) for served in models],
            device=worker.device,
            pass_size=self._pass_size,
            compile=self._compile,
        )

    def describe(self, served: Served, worker: WorkerHandle) -> messages.Model:
        """Return the description of a model that a worker must load.

        Raises:
            LoadError: the model is not pinned, but others are.
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
        """Say whether a worker runs models with the providers and formats of earlier workers."""
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
        """Return the reference of a model's probe pictures for a worker."""
        return self._references.setdefault((worker.kind, model), Reference())

    def forget(self, model: int) -> None:
        """Drop everything about a model that no worker has any more."""
        for found in (self._ways, self._ceilings, self._references):
            for key in [key for key in found if key[1] == model]:
                del found[key]

"""What the application needs of the processes behind it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Protocol

from models.certification.answer import AnyConclusion
from models.execution import Calibration
from models.images.decoding import Size
from service.catalogue import Catalogue
from service.decoding.reduction import Reduced, Task
from service.engine.queue import Job, Result
from service.http.guards.budget import Budget, File
from service.http.guards.keys import Keys
from service.http.metrics import Metrics


class Answering(Protocol):
    """What answers pictures: the engine, or the way to it from another process.

    Its methods and errors are those of ``service.engine.engine.Engine``.
    """

    @property
    def ready(self) -> bool:
        """Whether pictures are answered now."""

    @property
    def trouble(self) -> str:
        """Why a worker is gone that should be ready again; empty if none is."""

    @property
    def full(self) -> bool:
        """Whether no more pictures may wait."""

    @property
    def retry_seconds(self) -> int:
        """The seconds after which there is likely to be room in the queue again."""

    def running(self, model: int) -> list[tuple[Calibration, str | None]]:
        """Return how each ready worker runs a model, and why if not as agreed with the others."""

    def speed(self, model: int | None = None) -> float:
        """Return a ready worker's draws per second with a model, or any; 0 if none is ready."""

    def preparing(self, owner: int = ...) -> AbstractContextManager[None]:
        """Hold a place in the queue for a picture while it is decoded."""

    async def predict(
        self, job: Job, on_look: Callable[[AnyConclusion | None], None] | None = None
    ) -> Result:
        """Answer ``job``; cancelling this coroutine frees the picture's slots."""

    async def load_all(self, paths: Sequence[Path]) -> object:
        """Have every worker load the bundles in folders, and serve them from then on."""

    async def unload(self, name: str, members: bool = False) -> None:
        """Stop serving a model, all its versions or one, or a family, with its members or alone."""


class Decoding(Protocol):
    """What decodes pictures, as ``service.decoding.decoders.Decoders`` does."""

    @property
    def ready(self) -> bool:
        """Whether large pictures are decoded now, and more may wait."""

    @property
    def trouble(self) -> str:
        """Why the last idle process ended; empty once another starts."""

    async def reduce(
        self, file: File, task: Task, owner: int, admit: Callable[[Size], None]
    ) -> Reduced:
        """Decode a picture, and release its file."""


class Backend(Protocol):
    """Everything behind the application."""

    @property
    def catalogue(self) -> Catalogue:
        """The models that are served."""

    @property
    def engine(self) -> Answering:
        """What answers pictures."""

    @property
    def budget(self) -> Budget:
        """The memory budget of all clients."""

    @property
    def keys(self) -> Keys | None:
        """The keys of the service; None if it asks for none."""

    def running(self) -> AbstractAsyncContextManager[Decoding]:
        """Run while pictures are answered; what decodes them is returned."""

    async def metrics(self, own: Metrics) -> bytes:
        """Return the metrics of the whole service in Prometheus's text format.

        Args:
            own: those of the application's process.
        """

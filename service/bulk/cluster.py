"""A bulk certification on a cluster of Ray: Ray Data gives pictures to engines, which are actors.

The command keeps the job's folder, and one actor on its machine, the keeper, reads and writes what
is answered. An engine takes the numbers of some pictures, asks the keeper which questions to ask
about them, reads the pictures from the source, and gives the rows to the keeper. Ray Data repeats
what an engine had when it died. Then the keeper knows that these pictures have begun before, so
they begin with the next share of α; and of a picture that is answered twice, as by an engine that
was cut off, it takes the first row. All that is lost with the keeper or the command is as with any
command that is killed.

Bundle and data set must be at the same place on all machines.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, from_numpy
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from models.bulk.job import Asked, Row, write_job
from models.bulk.sources import open_source
from models.bundle import read_bundle
from models.certification.arrays import Integers
from models.certification.question import Question
from models.data.named import Split
from service import logs
from service.bulk.answerer import PICTURES_EACH, local_answerer
from service.bulk.certify import BulkCertifier, Writer
from service.catalogue import Served
from service.replica import on_own_devices
from service.settings import Settings

T = TypeVar("T")

# An engine has two blocks at once, so that its passes are full while one ends.
BLOCKS = 2
BLOCK = 2 * PICTURES_EACH


class ClusterError(ValueError):
    """The cluster does not certify: says why."""


@dataclass(frozen=True)
class Order:
    """What every engine must know.

    Attributes:
        settings: of its service; ``models`` names the bundle.
        asked: what is certified, and how.
        dataset, root, split: where the pictures are, as for ``open_source``.
    """

    settings: Settings
    asked: Asked
    dataset: str
    root: Path | None
    split: Split


class Keeper:
    """Reads and writes what is answered, for engines on any machine.

    Args:
        folder: of the job.
        asked: of the job.
    """

    def __init__(self, folder: Path, asked: Asked) -> None:
        self._held = ExitStack()
        self._job = self._held.enter_context(write_job(folder, asked))
        self._writer = Writer(self._job)

    def begin(self, numbers: Integers) -> dict[int, int]:
        """Return those of these pictures that lack answers, and how often each has begun before."""
        lacking = numbers[~self._job.answered[numbers]]
        return {number: self._job.begin(number).restarts for number in map(int, lacking)}

    def add(self, rows: list[Row]) -> None:
        """Take rows."""
        self._writer.add(rows)
        if self._writer.full:
            self._writer.write()

    def missing(self) -> Integers:
        """Write all rows, and return the numbers of the pictures that lack answers."""
        self._writer.write()
        return self._job.missing


class EngineActor:
    """An engine on the devices that Ray gives it; Ray Data calls it with numbers of pictures.

    Args:
        order: what it must know.
        keeper: whom it asks and tells.

    Raises:
        ClusterError: the bundle or the data set is not the one that the command has.
        CannotStartError: no worker can start.
    """

    def __init__(self, order: Order, keeper: Any) -> None:
        self._keeper, self._asked = keeper, order.asked
        logs.configure("console", "warning")
        bundle = read_bundle(order.settings.models[0])
        labels = bundle.manifest.labels
        self._source = open_source(order.dataset, labels, order.root, order.split)
        here = (bundle.digest, self._source.identity)
        if here != (order.asked.digest, order.asked.source):
            raise ClusterError(
                f"{bundle.path} or {order.dataset} differs on {os.uname().nodename}: all machines "
                "must have the same bundle and data set in the same place"
            )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        settings = on_own_devices(order.settings)
        self._held = AsyncExitStack()
        answerer = self._run(self._held.enter_async_context(local_answerer(settings)))
        self._certifier = BulkCertifier(answerer, Served(0, bundle), settings.max_pixels)

    def __call__(self, batch: dict[str, Integers]) -> dict[str, Integers]:
        """Certify pictures, and return how many and their draws."""
        begun = ray.get(self._keeper.begin.remote(batch["data"]))
        rows: list[Row] = self._run(self._certify(begun))
        ray.get(self._keeper.add.remote(rows))
        draws = sum(row.draws or 0 for row in rows)
        return {"pictures": np.array([len(rows)]), "draws": np.array([draws])}

    async def _certify(self, begun: dict[int, int]) -> list[Row]:
        def begin(number: int) -> Question:
            return self._asked.question(begun[number])

        found = self._certifier.certify(self._source.read(begun), begin)
        return [row async for rows in found for row in rows]

    def _run(self, doing: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result()


class Cluster:
    """A cluster that certifies what a job lacks.

    Args:
        order: what its engines must know.
        keeper: of the job.

    Attributes:
        missing: the numbers of the pictures that lack answers.
    """

    def __init__(self, order: Order, keeper: Any) -> None:
        self._order, self._keeper = order, keeper
        self.missing: Integers
        self.write()

    def write(self) -> None:
        """Have the keeper write all that is answered."""
        self.missing = ray.get(self._keeper.missing.remote())

    def certify(self) -> Iterator[tuple[int, int]]:
        """Certify what is missing; yield numbers of pictures when they are answered, and draws.

        Raises:
            ClusterError: nobody answers.
        """
        while had := len(self.missing):
            yield from _answers(self.missing, self._order, self._keeper)
            self.write()
            if len(self.missing) == had:
                raise ClusterError(f"{had:,} pictures have no answer, whichever engine is asked")


@contextmanager
def open_cluster(folder: Path, order: Order) -> Iterator[Cluster]:
    """Join the cluster that this machine belongs to or RAY_ADDRESS names, or start one here.

    Args:
        folder: of the job, which the caller has claimed.
        order: what engines must know.

    Raises:
        ClusterError: there is no such cluster, or, in the block, it does not certify.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(log_to_driver=False, logging_level="error")
        DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), False)
        options = {"num_cpus": 0, "scheduling_strategy": here}
        cluster = Cluster(order, ray.remote(Keeper).options(**options).remote(folder, order.asked))
        try:
            yield cluster
        finally:
            cluster.write()
    except (RayError, ConnectionError) as error:
        raise ClusterError(f"Ray: {_reason(error)}") from None
    finally:
        ray.shutdown()


def _answers(missing: Integers, order: Order, keeper: Any) -> Iterator[tuple[int, int]]:
    """Have engines certify pictures; yield their numbers of pictures and draws."""
    resources = ray.cluster_resources()
    kind = "GPU" if resources.get("GPU") else "CPU"
    blocks = np.array_split(missing, -(-len(missing) // BLOCK))
    # An engine for each GPU or processor; fewer are enough to begin.
    engines = ActorPoolStrategy(
        min_size=1,
        max_size=max(1, int(resources[kind])),
        # More wait in each, or Ray Data would see no need for more engines.
        max_tasks_in_flight_per_actor=2 * BLOCKS,
        max_concurrent_calls_per_actor=BLOCKS,
        enable_true_multi_threading=True,
    )
    answers = from_numpy(blocks).map_batches(
        EngineActor,
        fn_constructor_args=(order, keeper),
        batch_size=None,
        compute=engines,
        **({"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}),
    )
    for batch in answers.iter_batches(batch_size=None, prefetch_batches=0):
        yield int(batch["pictures"].sum()), int(batch["draws"].sum())


def _reason(error: Exception) -> str:
    """Return the last line that says why, of what Ray tells with stacks of all processes."""
    return str(error).strip().splitlines()[-1]

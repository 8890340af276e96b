"""The interface through which the engine reports what it does."""

from typing import Protocol

from service.engine import messages
from service.engine.check import CheckResult


class Observer(Protocol):
    """The object that the engine tells what it does: the metrics."""

    def numbers(self, worker: str, numbers: messages.Numbers) -> None:
        """Add what a worker has done since its last report."""

    def worker_up(self, worker: str, up: bool) -> None:
        """A worker has become ready, or is no longer."""

    def worker_died(self, worker: str) -> None:
        """A worker has died, and will be started again."""

    def worker_out_of_memory(self, worker: str) -> None:
        """A pass did not fit into the memory of a worker's device."""

    def self_checked(self, worker: str, model: str, result: CheckResult) -> None:
        """A worker was given the probe picture again, with this outcome."""

    def picture_requeued(self) -> None:
        """A picture waits again because its worker is gone."""

    def add_model(self, name: str, version: str, digest: str) -> None:
        """A model is served from now on."""

    def remove_model(self, name: str, version: str, digest: str) -> None:
        """A model is no longer served."""

"""What all inquiries do with draws."""

from abc import ABC, abstractmethod

from models.certification.arrays import Draws
from models.certification.names import Stopped


class TakesDraws(ABC):
    """An inquiry of any kind.

    Attributes:
        stopped: why no more draws are wanted; None while more are.
    """

    stopped: Stopped | None

    def add(self, draws: Draws) -> int:
        """Take the next draws in the order of their issue.

        Args:
            draws: votes [rows] or integer scores [rows, K].

        Returns:
            The number of draws used; the others came after the end and are ignored.
        """
        used = 0
        while not self.stopped and used < len(draws):
            used += self.add_to_look(draws[used:])
        return used

    @abstractmethod
    def add_to_look(self, draws: Draws) -> int:
        """Do what :meth:`add` does, but take no draws beyond the next look."""

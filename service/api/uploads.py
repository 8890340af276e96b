"""Bodies while they are received and taken apart: how much memory they may take together."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.api.predictions import RETRY_SECONDS
from service.api.problems import Problem

# Bodies up to this size do not count: most pictures come through however many large ones do.
SMALL = 2**16


class Upload:
    """One body."""

    def __init__(self, uploads: "Uploads") -> None:
        self._uploads, self.size = uploads, 0

    def add(self, size: int) -> int:
        """Count further bytes and return how many there are.

        Raises:
            Problem: ``overloaded``, if large bodies take more than they may. One always may.
        """
        before, self.size = self.counted, self.size + size
        self._uploads.held += self.counted - before
        if self.counted and self._uploads.held > max(self._uploads.most, self.counted):
            detail = "The large bodies that are being received take all the memory there is for it."
            raise Problem("overloaded", detail, retry_after_s=RETRY_SECONDS)
        return self.size

    @property
    def counted(self) -> int:
        """The bytes that count."""
        return self.size if self.size > SMALL else 0


class Uploads:
    """All bodies that are being received or taken apart.

    Args:
        most: bytes that large ones may take together.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    @contextmanager
    def body(self) -> Iterator[Upload]:
        """Count a body as long as the block runs."""
        upload = Upload(self)
        try:
            yield upload
        finally:
            self.held -= upload.counted

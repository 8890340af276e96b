"""A worker as the front sees it, whichever process it is at present."""

import asyncio

from models.execution import Calibration
from service.engine import messages

# Draws that a picture takes from a pass at a time: how many pictures keep a worker's passes full.
DRAWS_AT_A_TIME = 32
# For an answer to come from the worker, beside the pass that it waits for.
ON_ITS_WAY_SECONDS = 0.05


class WorkerHandle:
    """What is known of the worker of one device, and the way to tell it something.

    Its supervisor keeps it true; whoever has pictures for it reads it.

    Args:
        name: of the workers that serve here.
        device: theirs.

    Attributes:
        loaded: whether a worker has loaded its models.
        ready: whether it has certified a probe picture of each, so that it takes pictures.
        quiet: whether it has shown no sign of life just now: others go first.
        silent: whether that is so for longer; it may have been stopped.
        longest_pass: seconds that its longest pass took lately.
        calibrations: how it runs each model, by number.
        trouble: why its last worker is gone; empty once another is ready.
        writer: what it is told goes there; None while there is no process.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device, self.trouble = name, device, ""
        self.forget()

    def forget(self) -> None:
        """Forget what was known of a process that is gone, but for why."""
        self.loaded = self.ready = self.quiet = self.silent = False
        self.longest_pass = 0.0
        self.calibrations: dict[int, Calibration] = {}
        self.writer: asyncio.StreamWriter | None = None

    @property
    def kind(self) -> str:
        """Its kind of device."""
        return self.device.partition(":")[0]

    @property
    def window(self) -> int:
        """How many pictures it has at most.

        Several times those that keep its passes full: some need so many draws that whoever waits
        for one of them to end waits long.
        """
        largest = max((one.pass_size for one in self.calibrations.values()), default=0)
        return 8 * max(1, largest // DRAWS_AT_A_TIME)

    @property
    def pass_seconds(self) -> float:
        """How long its longest passes should take."""
        each = (one.pass_size / one.draws_per_second for one in self.calibrations.values())
        return max(each, default=0.0)

    @property
    def responds(self) -> bool:
        """Whether it takes pictures, and is likely to answer them."""
        return self.ready and not self.silent

    @property
    def late_seconds(self) -> float:
        """How long after a deadline an answer may come: it is made after the pass under way."""
        if self.quiet:
            return 0.0
        return max(self.pass_seconds, self.longest_pass) + ON_ITS_WAY_SECONDS

    def send(self, message: messages.ToWorker, payload: bytes = b"") -> None:
        """Tell the worker something; nobody hears it if it is gone.

        Whoever has something to tell is often a client's request, which has nothing to do with the
        worker's end: what the worker had is given back when its supervisor finds that it is gone.
        """
        if self.writer is None or self.writer.is_closing():
            return
        try:
            self.writer.write(messages.head(message, len(payload)))
            if payload:
                self.writer.write(payload)
        except (OSError, RuntimeError):  # the latter for a closed connection
            self.writer.transport.abort()

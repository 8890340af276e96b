"""A worker as the front sees it, independent of its present process."""

import asyncio

from models.execution import Calibration
from service.engine import messages

# The draws that a picture takes from a pass, which determine how many pictures fill a worker's
# passes.
DRAWS_AT_A_TIME = 32
# The time for an answer to come from the worker, in addition to the pass for which it waits.
ON_ITS_WAY_SECONDS = 0.05


class WorkerHandle:
    """What is known of the worker of one device, and the way to send it messages.

    Its supervisor keeps it up to date, and the dispatcher reads it.

    Args:
        name: of the workers on this device.
        device: the device.

    Attributes:
        loaded: whether a worker has loaded its models.
        ready: whether it has certified a probe picture of each, so that it takes pictures.
        quiet: whether it has just shown no sign of life: other workers are preferred.
        silent: whether this has lasted longer; it may have been stopped.
        longest_pass: the seconds of its longest recent pass.
        calibrations: how it runs each model, by number.
        trouble: why its last worker is gone; empty once another is ready.
        writer: takes messages to it; None while there is no process.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device, self.trouble = name, device, ""
        self.forget()

    def forget(self) -> None:
        """Reset what was known of a process that is gone, except for the reason."""
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
        """The largest number of pictures that it may have.

        Several times the number that fills its passes: some pictures need so many draws that others
        would wait long for one of them to end.
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
        """Whether it is ready, and likely to answer pictures."""
        return self.ready and not self.silent

    @property
    def late_seconds(self) -> float:
        """How long after a deadline an answer may come: it is made after the present pass."""
        if self.quiet:
            return 0.0
        return max(self.pass_seconds, self.longest_pass) + ON_ITS_WAY_SECONDS

    def send(self, message: messages.ToWorker, payload: bytes = b"") -> None:
        """Send the worker a message, which is lost if the worker is gone.

        The sender is often a client's request, which must not fail because of the worker's end: its
        supervisor returns the worker's pictures when it finds that the worker is gone.
        """
        if self.writer is None or self.writer.is_closing():
            return
        try:
            self.writer.write(messages.head(message, len(payload)))
            if payload:
                self.writer.write(payload)
        except (OSError, RuntimeError):  # RuntimeError: a closed connection
            self.writer.transport.abort()

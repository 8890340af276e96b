"""What a request uses, gathered while it is answered: for its line in the log, and by key.

Code that uses something adds it to the usage of the running request. It is in a context variable,
like the caller: the tasks of a request inherit it.
"""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Usage:
    """What one request has used so far.

    Attributes:
        key: the name of the caller's key; None without a known key.
        model: name and version of the model that was used; None if none was.
        answers: the number of answered pictures.
        draws: the draws of these answers.
        charged: the draws that the key was charged: those of its answers, or the whole budget if
            the client did not wait for one; and decoding and receiving, as draws.
        received: bytes of the request's body, as they were sent.
        sent: bytes of the answer's body.
    """

    key: str | None = None
    model: str | None = None
    answers: int = 0
    draws: int = 0
    charged: float = 0.0
    received: int = 0
    sent: int = 0

    def told(self) -> dict[str, str | int]:
        """Return its members for the log."""
        said: dict[str, str | int] = {} if self.key is None else {"key": self.key}
        if self.model is not None:
            said |= {"model": self.model, "answers": self.answers, "draws": self.draws}
        return said | {"received_bytes": self.received, "sent_bytes": self.sent}


_usage: ContextVar[Usage] = ContextVar("usage", default=Usage())  # noqa: B039 - outside requests


def begin() -> Usage:
    """Begin the usage of the running request."""
    usage = Usage()
    _usage.set(usage)
    return usage


def current() -> Usage:
    """Return what the running request has used so far."""
    return _usage.get()

"""What a request uses, gathered while it is answered: for its line in the log, and by key.

Whoever uses something adds it to the running request's usage. A context variable, as for the
caller: the tasks of a request inherit it.
"""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Usage:
    """What one request has used so far.

    Attributes:
        key: the name of the caller's key; None without one that is known.
        model: name and version of the model that was asked; None if none was.
        answers: pictures that were answered.
        draws: of these answers.
        charged: draws that the key's rate was charged: those of its answers, or the whole budget
            where the client did not wait for one; and decoding and receiving, as draws.
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
        """Return what the log says of it."""
        said: dict[str, str | int] = {} if self.key is None else {"key": self.key}
        if self.model is not None:
            said |= {"model": self.model, "answers": self.answers, "draws": self.draws}
        return said | {"received_bytes": self.received, "sent_bytes": self.sent}


_usage: ContextVar[Usage] = ContextVar("usage", default=Usage())  # noqa: B039 - outside requests


def begin() -> Usage:
    """Begin to gather what the running request uses."""
    usage = Usage()
    _usage.set(usage)
    return usage


def current() -> Usage:
    """Return what the running request has used so far."""
    return _usage.get()

"""What the front process and a worker say to each other, over a socket pair.

A frame is two little-endian 32-bit lengths, a JSON header and a payload of raw bytes. Pictures
travel as payload; nothing is ever pickled. This is the only module that knows the format.
"""

import struct
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from models.certification.answer import Conclusion
from models.certification.norms import Norm
from models.precision import Calibration, Precision

_LENGTHS = struct.Struct("<II")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class Model(BaseModel):
    """A bundle to load: its folder, and the digest that it must have.

    Its number format is measured if it is None.
    """

    path: str
    digest: str
    precision: Precision | None


class Load(_Message):
    """To a worker, once and first: what to load, and how to run it."""

    kind: Literal["load"] = "load"
    models: list[Model]
    device: str
    pass_size: int | None
    compile: bool


class Admit(_Message):
    """To a worker: certify a picture. The payload holds its pixels."""

    kind: Literal["admit"] = "admit"
    id: int
    model: int
    width: int
    height: int
    channels: int
    bits: int
    confidence: float
    max_draws: int
    target: float | None
    norm: Norm
    scores: int
    deadline: float
    high: bool
    progress: bool


class Cancel(_Message):
    """To a worker: the client has left."""

    kind: Literal["cancel"] = "cancel"
    id: int


class Ready(_Message):
    """From a worker: every model is loaded and has made its first pass."""

    kind: Literal["ready"] = "ready"
    calibrations: list[Calibration]


class Faster(_Message):
    """From a worker: a model runs compiled from now on."""

    kind: Literal["faster"] = "faster"
    model: int
    calibration: Calibration


class Look(_Message):
    """From a worker: a look was reached, for those who asked for progress."""

    kind: Literal["look"] = "look"
    id: int
    conclusion: Conclusion


class Answer(_Message):
    """From a worker: a picture's question is answered."""

    kind: Literal["answer"] = "answer"
    id: int
    conclusion: Conclusion
    precision: Precision
    compiled: bool
    queue_seconds: float
    compute_seconds: float


class Late(_Message):
    """From a worker: the deadline came before the first look."""

    kind: Literal["late"] = "late"
    id: int


class Failed(_Message):
    """From a worker: this picture cannot be certified; its neighbours are not disturbed."""

    kind: Literal["failed"] = "failed"
    id: int
    reason: str


class Broken(_Message):
    """From a worker: it failed and ends, for a reason that a person must see."""

    kind: Literal["broken"] = "broken"
    reason: str


class Numbers(_Message):
    """From a worker: what it has done since the last such message, for the metrics."""

    kind: Literal["numbers"] = "numbers"
    passes: int
    slots: int
    filled: int
    busy_seconds: float


Message = Annotated[
    Load | Admit | Cancel | Ready | Faster | Look | Answer | Late | Failed | Broken | Numbers,
    Field(discriminator="kind"),
]
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Message)


def encode(message: Message, payload: bytes = b"") -> bytes:
    """Return the frame of ``message``."""
    header = message.model_dump_json().encode()
    return _LENGTHS.pack(len(header), len(payload)) + header + payload


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Message, bytes]]:
        """Add received bytes; yield every message that is complete, with its payload."""
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            header, payload = _LENGTHS.unpack_from(self._buffer)
            middle = _LENGTHS.size + header
            if len(self._buffer) < middle + payload:
                return
            message = _MESSAGES.validate_json(bytes(self._buffer[_LENGTHS.size : middle]))
            content = bytes(self._buffer[middle : middle + payload])
            del self._buffer[: middle + payload]
            yield message, content

"""The messages between the front process and a worker, over a socket pair.

A frame is two little-endian 32-bit lengths, the number of an answered picture and what kind of
answer it is, a JSON header and a payload of raw bytes. Pictures are payloads; nothing is ever
pickled. Only this module knows the format.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from models.certification.answer import AnyConclusion
from models.certification.names import Norm
from models.execution import Calibration, Execution, Format, Provider

_HEAD = struct.Struct("<IIqB")
# What a frame is besides its header: an answer, or a draft of one, which is passed on unread.
_OTHER, _ANSWER, _DRAFT = 0, 1, 2


# Most are about sizes.
Concluded = Annotated[AnyConclusion, Field(union_mode="left_to_right")]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class Model(BaseModel):
    """A bundle to load: its number here, its folder, and the digest that it must have.

    Provider, number format and pass size are measured where they are None, including int8 if it is
    allowed. With a ``pin`` it runs in that way or not at all.
    """

    number: int
    path: str
    digest: str
    precision: Format | None
    provider: Provider | None = None
    int8: bool = True
    pin: Execution | None = None
    pass_size: int | None = None


class Load(_Message):
    """To a worker, once and first: which models to read, and on what device it runs them."""

    kind: Literal["load"] = "load"
    models: list[Model]
    device: str


class Run(_Message):
    """To a worker that has read its models: how to run them, or what to measure."""

    kind: Literal["run"] = "run"
    models: list[Model]


class Compile(_Message):
    """To a worker, at most once: compile models beside what it does, and run them so.

    With ``compare``, only if that is faster.
    """

    kind: Literal["compile"] = "compile"
    models: list[int]
    compare: bool


class Shorten(_Message):
    """To a worker: have smaller passes of models for when few pictures are in flight.

    By number with the pass size; None: measure which pay, if any.
    """

    kind: Literal["shorten"] = "shorten"
    models: dict[int, int | None]


class Admit(_Message):
    """To a worker: certify a picture.

    The payload is its pixels, or the model's input if it is ``prepared``. ``sensitivities`` are
    Δ(p,q) of the preprocessing that took long to compute: p, q and the value. With ``masks`` along
    each side it is about stickers, whose side is the target. ``owner`` identifies
    the client. The picture began again ``restarts`` times before, and shares none of its first
    ``alone`` passes. It goes into passes of ``pass_size``; None: the worker chooses. If it is
    ``lendable``, other workers may make draws of it.
    """

    kind: Literal["admit"] = "admit"
    id: int
    model: int
    width: int
    height: int
    channels: int
    bits: int
    prepared: bool = False
    sensitivities: list[tuple[Norm, Norm, float]] = []
    confidence: float
    max_draws: int
    target: float | None
    norm: Norm
    allow: tuple[int, ...] | None = None
    masks: int = 0
    scores: int
    attacks: int | None = None
    deadline: float
    high: bool
    owner: int = 0
    progress: bool
    alone: int = 0
    restarts: int = 0
    pass_size: int | None = None
    lendable: bool = False


class Assist(_Message):
    """To a worker with nothing to do: be ready to make draws of a picture that another has.

    The payload is that of ``admission``. It must run h as ``execution`` says.
    """

    kind: Literal["assist"] = "assist"
    id: int
    admission: Admit
    execution: Execution


class Lent(_Message):
    """To the worker that has a picture: ``helper`` makes draws of it, or no longer does."""

    kind: Literal["lent"] = "lent"
    id: int
    helper: str
    more: bool


class Draw(_Message):
    """From the worker that has a picture, and on to its helper: make so many draws of it."""

    kind: Literal["draw"] = "draw"
    id: int
    helper: str
    draws: int


class Drawn(_Message):
    """From a helper, and on to the worker that has the picture: the votes, in their order.

    With ``failed`` h failed on the picture, and there are none.
    """

    kind: Literal["drawn"] = "drawn"
    id: int
    helper: str
    votes: list[int]
    failed: str = ""


class Wants(_Message):
    """From a worker: a picture needs more than one pass; others may make draws of it."""

    kind: Literal["wants"] = "wants"
    id: int
    execution: Execution


class Assists(_Message):
    """From a helper: whether it can make draws of a picture.

    If it cannot any more, draws that it owes are lost.
    """

    kind: Literal["assists"] = "assists"
    id: int
    able: bool


class Cancel(_Message):
    """To a worker: the client has left."""

    kind: Literal["cancel"] = "cancel"
    id: int


class Add(_Message):
    """To a worker: load a further model, besides its present work."""

    kind: Literal["add"] = "add"
    model: Model


class Remove(_Message):
    """To a worker: drop a model, for which it has no pictures any more."""

    kind: Literal["remove"] = "remove"
    model: int


class Read(_Message):
    """From a worker: every model is read, and it waits to be told how to run them."""

    kind: Literal["read"] = "read"


class Ready(_Message):
    """From a worker: every model is loaded and has made its first pass; by number.

    ``ceilings`` are the largest passes that fit into memory, where larger ones were told.
    """

    kind: Literal["ready"] = "ready"
    calibrations: dict[int, Calibration]
    ceilings: dict[int, int] = {}


class Added(_Message):
    """From a worker: the further model is loaded and has made its first pass.

    ``ceiling`` is the largest pass that fits into memory, if a larger one was told.
    """

    kind: Literal["added"] = "added"
    model: int
    calibration: Calibration
    ceiling: int | None = None


class NotAdded(_Message):
    """From a worker: the further model cannot be loaded; the others are as before."""

    kind: Literal["not_added"] = "not_added"
    model: int
    reason: str


class Removed(_Message):
    """From a worker: the model is gone."""

    kind: Literal["removed"] = "removed"
    model: int


class Shortened(_Message):
    """From a worker: how it runs the models that were to have smaller passes."""

    kind: Literal["shortened"] = "shortened"
    calibrations: dict[int, Calibration]


class Compiled(_Message):
    """From a worker: what it has compiled.

    ``calibrations`` are those of the models that run compiled from now on, and ``kept`` says why
    the others run as before.
    """

    kind: Literal["compiled"] = "compiled"
    calibrations: dict[int, Calibration]
    kept: dict[int, str]


class Recalibrated(_Message):
    """From a worker: a model runs in smaller passes from now on, as larger ones do not fit."""

    kind: Literal["recalibrated"] = "recalibrated"
    model: int
    calibration: Calibration


class Restored(_Message):
    """From a worker: a model runs again as before its passes did not fit into memory."""

    kind: Literal["restored"] = "restored"
    model: int
    calibration: Calibration


class Look(_Message):
    """From a worker: a look was reached, for clients that stream."""

    kind: Literal["look"] = "look"
    id: int
    conclusion: Concluded


class Begun(_Message):
    """From a worker: a picture begins again, because its pass did not fit into memory."""

    kind: Literal["begun"] = "begun"
    id: int


class Answer(_Message):
    """From a worker: a picture's question is answered.

    ``looks`` has for each look the draws so far and the seconds since the first pass began. With
    ``draft`` the question is not answered yet: this is the answer if no better one comes in time.
    """

    kind: Literal["answer"] = "answer"
    id: int
    conclusion: Concluded
    execution: Execution
    queue_seconds: float
    compute_seconds: float
    looks: list[tuple[int, float]]
    draft: bool = False

    def open(self) -> "Answer":
        """Return it."""
        return self

    def sealed(self) -> bytes:
        """Return it as it is sent."""
        return self.model_dump_json().encode()


@dataclass(frozen=True)
class SealedAnswer:
    """An answer as it was received. Only where it is needed it is read, which takes time.

    Attributes:
        id: the picture's number.
        draft: as of ``Answer``.
        content: the answer as JSON.
    """

    id: int
    draft: bool
    content: bytes

    def open(self) -> Answer:
        """Read it."""
        return Answer.model_validate_json(self.content)

    def sealed(self) -> bytes:
        """Return it as it was sent."""
        return self.content


class Late(_Message):
    """From a worker: the deadline came before the first look; says after how many draws."""

    kind: Literal["late"] = "late"
    id: int
    draws: int = 0


class Failed(_Message):
    """From a worker: this picture cannot be certified; others in its pass are not affected.

    ``model`` says whether the model failed.
    """

    kind: Literal["failed"] = "failed"
    id: int
    reason: str
    model: bool = False


class Broken(_Message):
    """From a worker: it failed and ends, for a reason that a person must see."""

    kind: Literal["broken"] = "broken"
    reason: str


class Numbers(_Message):
    """From a worker: its work since the last such message, and its longest pass."""

    kind: Literal["numbers"] = "numbers"
    passes: int
    slots: int
    filled: int
    busy_seconds: float
    longest_seconds: float = 0.0
    memory_used: int
    memory: int


ToWorker = (
    Load | Run | Shorten | Compile | Admit | Assist | Lent | Draw | Drawn | Cancel | Add | Remove
)
OfPicture = Look | Begun | Answer | Late | Failed | Wants | Assists | Draw | Drawn
AnyAnswer = Answer | SealedAnswer
OfModels = (
    Read | Ready | Added | NotAdded | Removed | Shortened | Compiled | Recalibrated | Restored
)
FromWorker = OfModels | OfPicture | Broken | Numbers
Message = Annotated[ToWorker | FromWorker, Field(discriminator="kind")]
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Message)


def encode(message: Message, payload: bytes = b"") -> bytes:
    """Return the frame of ``message``."""
    return head(message, len(payload)) + payload


def head(message: Message, payload_bytes: int) -> bytes:
    """Return the frame of ``message`` up to its payload, which is sent separately."""
    header = message.model_dump_json().encode()
    number, kind = 0, _OTHER
    if isinstance(message, Answer):
        number, kind = message.id, _DRAFT if message.draft else _ANSWER
    return _HEAD.pack(len(header), payload_bytes, number, kind) + header


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Message | SealedAnswer, bytes]]:
        """Add received bytes; yield every complete message with its payload."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            header, payload, number, kind = _HEAD.unpack_from(self._buffer)
            middle = _HEAD.size + header
            if len(self._buffer) < middle + payload:
                return
            told = bytes(self._buffer[_HEAD.size : middle])
            message: Message | SealedAnswer
            if kind == _OTHER:
                message = _MESSAGES.validate_json(told)
            else:
                message = SealedAnswer(number, kind == _DRAFT, told)
            content = bytes(self._buffer[middle : middle + payload])
            del self._buffer[: middle + payload]
            yield message, content

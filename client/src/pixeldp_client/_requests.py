"""Requests to the service, and the meaning of its answers; nothing is sent here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, Self, TypedDict

import httpx

from pixeldp_client._errors import NotRobust, PixelDPError, ServiceError, error_of
from pixeldp_client._reading import read
from pixeldp_client._results import Look, Model, Prediction, Restart, StickerPrediction

# The service's share of the time left; the rest is for the way there and back.
_SERVICE_SHARE = 0.8
_CONNECT_SECONDS = 5.0
# 406 is an answer, too: one that is not robust.
ANSWERS = (200, 406)


class Options(TypedDict, total=False):
    """The options of a prediction; the service's settings are the defaults."""

    model: str
    target: float
    norm: Literal["l1", "l2", "linf"]
    confidence: float
    max_draws: int
    allow: str | Sequence[str | int]
    scores: int | Literal["all"]
    evidence: bool
    priority: Literal["high", "normal"]


@dataclass(frozen=True)
class Call:
    """One request, which may be sent repeatedly: predicting has no side effects.

    ``bounded`` says that the service shall answer by the deadline, with the certificate so far.
    """

    path: str
    method: Literal["GET", "POST"] = "POST"
    query: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    pictures: Sequence[bytes] = ()
    bounded: bool = False

    def arguments(self, left: float) -> dict[str, Any]:
        """Return httpx's arguments for the request, with ``left`` seconds to the deadline."""
        query = {name: value for name, value in self.query.items() if value is not None}
        if "allow" in query:
            query["allow"] = _joined(query["allow"])
        if self.bounded:
            query["timeout_ms"] = max(1, int(1000 * _SERVICE_SHARE * left))
        timeout = httpx.Timeout(left, connect=min(left, _CONNECT_SECONDS))
        arguments = {"method": self.method, "url": self.path, "params": query, "timeout": timeout}
        if self.pictures:
            arguments["files"] = [
                ("image", (str(number), picture, "application/octet-stream"))
                for number, picture in enumerate(self.pictures)
            ]
        elif self.content is not None:
            arguments["content"] = self.content
            # The service recognises the format by the bytes themselves.
            arguments["headers"] = {"Content-Type": "application/octet-stream"}
        return arguments


@dataclass(frozen=True)
class Reply:
    """An answer that has been received completely."""

    headers: httpx.Headers
    status: int
    body: bytes

    def checked(self) -> Self:
        """Return this answer, or raise it if it is an error."""
        if self.status not in ANSWERS:
            raise error_of(self.status, self.headers, self.body)
        return self

    def json(self) -> Any:
        """Return the content of the body.

        Raises:
            ServiceError: it is not JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            raise ServiceError("the answer is not JSON: is this a PixelDP service?") from None


def address_of(url: str) -> str:
    """Check the address of a service.

    Raises:
        ValueError: it is not one.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not the address of a service; expected http://… or https://…")
    return url.rstrip("/")


def headers(api_key: str | None) -> dict[str, str]:
    """Return the headers of every request.

    Raises:
        ValueError: the key has characters that no header can carry.
    """
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("the API key has characters that no key can have, such as a line break")
    own = {"User-Agent": f"pixeldp-client/{version('pixeldp-client')}"}
    return own | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


def _joined(labels: str | Sequence[str | int]) -> str:
    """Return labels as the service takes them: divided by commas."""
    if isinstance(labels, str):
        return labels
    return ",".join(str(label).replace(",", "\\,") for label in labels)


def predict(image: bytes, options: Options, require_robust: bool, bounded: bool) -> Call:
    """Ask about one picture."""
    query = dict(options) | ({"require": "robust"} if require_robust else {})
    return Call("/predict", query=query, content=image, bounded=bounded)


def predict_sticker(image: bytes, side: int, options: Options, bounded: bool) -> Call:
    """Ask about one picture whether a sticker could change its label."""
    query = {**options, "threat": "sticker", "target": side}
    return Call("/predict", query=query, content=image, bounded=bounded)


def predict_batch(images: Sequence[bytes], options: Options, bounded: bool) -> Call:
    """Ask about several pictures."""
    return Call("/predict/batch", query=dict(options), pictures=images, bounded=bounded)


def stream(image: bytes, options: Options, bounded: bool) -> Call:
    """Ask about one picture, with an event for every look."""
    return Call("/predict/stream", query=dict(options), content=image, bounded=bounded)


MODELS = Call("/models", "GET")
READY = Call("/health/ready", "GET")


def prediction(reply: Reply) -> Prediction:
    """Read the answer of :func:`predict`.

    Raises:
        NotRobust: robust was required.
        PixelDPError: the service answered with an error.
    """
    answer = read(Prediction, reply.json())
    if reply.status == 406:
        raise NotRobust(answer)
    return answer


def sticker_prediction(reply: Reply) -> StickerPrediction:
    """Read the answer of :func:`predict_sticker`.

    Raises:
        PixelDPError: the service answered with an error.
    """
    return read(StickerPrediction, reply.json())


def predictions(reply: Reply) -> list[Prediction | PixelDPError]:
    """Read the answer of :func:`predict_batch`: for each picture, its prediction or its error."""
    answers = _member(reply.json(), "predictions")
    return [
        _problem(answer["error"], reply.headers)
        if isinstance(answer, dict) and "error" in answer
        else read(Prediction, answer)
        for answer in answers
    ]


def models(reply: Reply) -> list[Model]:
    """Read the answer of ``MODELS``."""
    return [read(Model, model) for model in _member(reply.json(), "models")]


class Events:
    """Reads the event stream of an answer as it arrives."""

    def __init__(self, headers: httpx.Headers) -> None:
        self._headers, self._rest = headers, b""

    def feed(self, data: bytes) -> list[Look | Restart | Prediction]:
        """Return the content of the events that ``data`` completes.

        Raises:
            PixelDPError: one of them is an error.
        """
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        told: list[Look | Restart | Prediction] = []
        for block in blocks:
            lines = [line.partition(b": ") for line in block.split(b"\n")]
            fields = {name: value for name, _, value in lines}
            try:
                value = json.loads(fields.get(b"data", b"null"))
            except ValueError:
                raise ServiceError("an event of the stream is not JSON") from None
            match fields.get(b"event"):
                case b"look":
                    told.append(read(Look, value))
                case b"restart":
                    told.append(read(Restart, value))
                case b"answer":
                    told.append(read(Prediction, value))
                case b"error":
                    raise _problem(value, self._headers)
        return told


def _member(body: Any, name: str) -> list[Any]:
    members = body.get(name) if isinstance(body, dict) else None
    if not isinstance(members, list):
        raise ServiceError(f"the answer has no list {name}: is this a PixelDP service?")
    return members


def _problem(document: Any, headers: httpx.Headers) -> PixelDPError:
    status = document.get("status") if isinstance(document, dict) else None
    if not isinstance(status, int):
        return ServiceError("an error without a status: is this a PixelDP service?")
    return error_of(status, headers, json.dumps(document).encode())

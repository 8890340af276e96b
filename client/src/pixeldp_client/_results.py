"""Answers of the service. Nothing is computed here: sizes and bounds are the service's own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pixeldp_client._errors import NotRobust

T = TypeVar("T")


@dataclass(frozen=True)
class ModelName:
    """Which model answered."""

    name: str
    version: str
    digest: str
    rows: str


@dataclass(frozen=True)
class Label:
    """A label by its index and its name."""

    index: int
    name: str


@dataclass(frozen=True)
class Range:
    """A lower and an upper bound."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Score:
    """One label's expected score with its bounds; with a target, what an attacker can reach."""

    index: int
    name: str
    expected: float
    lower: float
    upper: float
    attacked: Range | None


@dataclass(frozen=True)
class Certain:
    """The labels that may be first under some change up to the target; no other label can.

    ``within_allowed`` says whether all are among those of ``allow``; None if that was not given.
    """

    labels: tuple[Label, ...]
    within_allowed: bool | None


@dataclass(frozen=True)
class Budget:
    """The draws asked for and granted, and whether they suffice if every draw agrees."""

    asked: int
    granted: int
    reachable: bool


@dataclass(frozen=True)
class Paper:
    """The size by the PixelDP paper's own condition, for comparison."""

    method: str
    size: float


@dataclass(frozen=True)
class Certificate:
    """How the size was certified: the bounds used, and the size in each norm."""

    method: str
    lower: float
    upper: float
    sizes: dict[str, float]
    paper: Paper


@dataclass(frozen=True)
class Noise:
    """The noise inside the network."""

    mechanism: str
    scale: float
    sensitivity: float
    placement: str
    scoring: str


@dataclass(frozen=True)
class Picture:
    """The decoded picture that the certificate is about."""

    width: int
    height: int
    mode: str
    bits: int


@dataclass(frozen=True)
class Preprocessing:
    """The steps from that picture to the model's input."""

    steps: tuple[str, ...]
    sensitivity: float


@dataclass(frozen=True)
class Compute:
    """How the network ran. Two answers hold together only if this is the same."""

    device: str
    provider: str
    precision: str
    pass_size: int
    compiled: bool


@dataclass(frozen=True)
class Timing:
    """Where the service's time went, in milliseconds."""

    decode: float
    queue: float
    compute: float
    total: float


@dataclass(frozen=True)
class Prediction:
    """A label, and how far the picture could have been altered without changing it.

    ``certified_size`` is in ``norm``, of pixel values scaled to [0, 1]; at 0 nothing is claimed,
    not even the label. ``robust`` says whether it reaches ``target``; it and ``certain`` are None
    without one. All statements hold together, with probability ``confidence``. ``scores`` are
    sorted, the highest first. ``raw`` is the service's JSON, which ``pixeldp verify`` reads if it
    has ``evidence``.
    """

    model: ModelName
    label: Label
    robust: bool | None
    certain: Certain | None
    certified_size: float
    norm: str
    target: float | None
    confidence: float
    draws: int
    budget: Budget
    stopped: str
    scores: tuple[Score, ...]
    certificate: Certificate
    noise: Noise
    picture: Picture
    preprocessing: Preprocessing
    compute: Compute
    timing_ms: Timing
    raw: dict[str, Any] = field(repr=False, compare=False)

    @property
    def is_robust(self) -> bool:
        """What ``require_robust`` requires: ``robust``, or without a target any certified size.

        With ``allow`` it is that none but the labels allowed can be first.
        """
        if self.certain and self.certain.within_allowed is not None:
            return self.certain.within_allowed
        return self.certified_size > 0 if self.robust is None else self.robust

    def require_robust(self) -> "Prediction":
        """Return this prediction if it is robust.

        Raises:
            NotRobust: it is not.
        """
        if not self.is_robust:
            raise NotRobust(self)
        return self

    def or_(self, fallback: Callable[[NotRobust], T]) -> "Prediction | T":
        """Return this prediction if it is robust, or else what ``fallback`` returns for it."""
        return self if self.is_robust else fallback(NotRobust(self))


@dataclass(frozen=True)
class StickerPreprocessing:
    """The steps from that picture to the model's input."""

    steps: tuple[str, ...]


@dataclass(frozen=True)
class Sticker:
    """Whether no sticker of ``side`` × ``side`` pixels can change the label."""

    certified: bool
    label: Label
    side: int


@dataclass(frozen=True)
class StickerPrediction:
    """A label, and whether a square sticker, anywhere and with anything on it, could change it.

    It says nothing about changes of other kinds. ``confidence`` is 1. ``robust`` is whether it is
    certified. ``raw`` is as of :class:`Prediction`.
    """

    threat: str
    model: ModelName
    label: Label
    robust: bool
    sticker: Sticker
    confidence: float
    draws: int
    stopped: str
    scores: tuple[Score, ...]
    picture: Picture
    preprocessing: StickerPreprocessing
    compute: Compute
    timing_ms: Timing
    raw: dict[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Look:
    """The answer so far, at a look before the last; it holds with the same confidence."""

    draws: int
    label: Label
    certain: Certain | None
    certified_size: float
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Restart:
    """The picture begins again, as its worker died or lacked memory: earlier looks are void."""

    detail: str


@dataclass(frozen=True)
class Model:
    """One served model; ``input_shape`` is (channels, height, width)."""

    name: str
    version: str
    digest: str
    rows: str
    default: bool
    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    noise: Noise
    card: str
    raw: dict[str, Any] = field(repr=False, compare=False)

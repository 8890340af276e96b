"""The answer to a prediction, as JSON and as headers."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict

from models.bundle import Bundle, RowsBasis
from models.certification.answer import Conclusion, Evidence
from models.certification.attack_bounds import Attacks
from models.certification.names import Certificate, Mechanism, Norm, Scoring, Stopped
from models.execution import Format, Provider
from models.preprocessing import Preprocessing
from service.decoding.reduction import Reduced
from service.engine.queue import Result
from service.http.api.options import Asked

# The header lists up to so many labels, and otherwise their number: proxies limit headers.
MOST_LISTED = 20
_KNOWN = {True: "true", False: "false", None: "unknown"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelName(_Part):
    """Which model answered, and why no row of a pass affects another."""

    name: str
    version: str
    digest: str
    rows: RowsBasis


class Label(_Part):
    """A label by its index and its name."""

    index: int
    name: str


class CertainPart(_Part):
    """The labels that may be first under some change up to the target; no other label can.

    ``within_allowed`` says whether all of them are among the labels of the option ``allow``.
    """

    labels: list[Label]
    within_allowed: bool | None


class Budget(_Part):
    """The draws asked for and granted, and whether they suffice if every draw agrees."""

    asked: int
    granted: int
    reachable: bool


class Range(_Part):
    """A lower and an upper bound."""

    lower: float
    upper: float


class LabelScore(_Part):
    """One label's expected score, and with a target, the range that attacks can reach."""

    index: int
    name: str
    expected: float
    lower: float
    upper: float
    attacked: Range | None


class Paper(_Part):
    """The size by the paper's own condition, for the same bounds."""

    method: Certificate
    size: float


class CertificatePart(_Part):
    """How the size was certified: the bounds used, and the size in each norm."""

    method: Certificate
    lower: float
    upper: float
    sizes: dict[Norm, float]
    paper: Paper


class NoisePart(_Part):
    """The noise inside the network; ``sensitivity`` is from ``norm`` to the mechanism's own."""

    mechanism: Mechanism
    scale: float
    sensitivity: float
    norm: Norm
    placement: str
    scoring: Scoring


class PicturePart(_Part):
    """The decoded picture that the certificate is about: pixel values scaled to [0, 1]."""

    width: int
    height: int
    mode: Literal["L", "RGB"]
    bits: Literal[8, 16]


class PreprocessingPart(_Part):
    """The steps from that picture to the model's input; every size is divided by their Δ."""

    steps: list[str]
    sensitivity: float


class Compute(_Part):
    """Which h answered, together with the digest of its model: how the network ran.

    A certificate is about this h. Two answers hold together only if both are from the same h.
    """

    device: str
    provider: Provider
    precision: Format
    pass_size: int
    compiled: bool


class Timing(_Part):
    """Where the time went, in milliseconds."""

    decode: float
    queue: float
    compute: float
    total: float


@dataclass(frozen=True)
class EvidencePart(Evidence):
    """The evidence, and the shape of the model's input: (channels, height, width)."""

    input_shape: tuple[int, int, int]


class Answer(_Part):
    """A label, and how far the picture could have been altered without changing it."""

    model: ModelName
    label: Label
    robust: bool | None
    certain: CertainPart | None
    certified_size: float
    norm: Norm
    target: float | None
    confidence: float
    draws: int
    budget: Budget
    stopped: Stopped
    scores: list[LabelScore]
    certificate: CertificatePart
    noise: NoisePart
    picture: PicturePart
    preprocessing: PreprocessingPart
    compute: Compute
    timing_ms: Timing
    attacks: Attacks | None
    evidence: EvidencePart | None

    def headers(self) -> dict[str, str]:
        """Return the headers by which proxies route."""
        size = _headers(self.robust, self.certified_size, self.norm, self.confidence)
        return size | (_set_header([self.certain]) if self.certain else {})


def headers_together(answers: list[Answer | None], asked: Asked) -> dict[str, str]:
    """Return the headers for several answers: those of the least; None stands for a failed one.

    n answers hold together with probability at least 1 − n·(1 − confidence), by the union bound.
    """
    robusts = [answer.robust if answer else False for answer in answers]
    sizes = [answer.certified_size if answer else 0.0 for answer in answers]
    robust = False if False in robusts else None if None in robusts else True
    together = max(Decimal(0), 1 - len(answers) * (1 - Decimal(repr(asked.question.confidence))))
    headers = _headers(robust, min(sizes), asked.question.norm, float(together))
    if asked.question.target is None:
        return headers
    everything = [
        Label(index=index, name=name)
        for index, name in enumerate(asked.served.bundle.manifest.labels)
    ]
    nothing = CertainPart(labels=everything, within_allowed=asked.question.allows([-1]))
    return headers | _set_header(
        [answer.certain if answer and answer.certain else nothing for answer in answers]
    )


def _set_header(sets: Sequence[CertainPart]) -> dict[str, str]:
    """Return the header of the labels that may be first in any of some answers."""
    labels = sorted({label.index for certain in sets for label in certain.labels})
    listed = ",".join(map(str, labels)) if len(labels) <= MOST_LISTED else f"{len(labels)} labels"
    withins = [certain.within_allowed for certain in sets]
    within = None if None in withins else all(withins)
    return {"Certified-Set": f"{listed}; allowed={_KNOWN[within]}"}


def _headers(robust: bool | None, size: float, norm: Norm, confidence: float) -> dict[str, str]:
    return {
        "Certified-Robust": _KNOWN[robust],
        "Certified-Size": f"{size:.12g}; norm={norm}; confidence={confidence!r}",
    }


def answer(
    result: Result, asked: Asked, picture: Reduced, preparation: Preprocessing, timing: Timing
) -> Answer:
    """Put an answer together."""
    conclusion, question, bundle = result.conclusion, asked.question, asked.served.bundle
    manifest = bundle.manifest
    norm = manifest.sensitivity.input_norm
    return Answer(
        model=model_name(bundle),
        label=Label(index=conclusion.label, name=manifest.labels[conclusion.label]),
        robust=conclusion.robust,
        certain=certain_part(conclusion, bundle),
        certified_size=conclusion.certified_size,
        norm=conclusion.norm,
        target=question.target,
        confidence=question.confidence,
        draws=conclusion.draws,
        budget=Budget(
            asked=question.max_draws, granted=result.granted, reachable=conclusion.reachable
        ),
        stopped=conclusion.stopped,
        scores=label_scores(conclusion, bundle),
        certificate=CertificatePart(
            method=conclusion.method,
            lower=conclusion.lower,
            upper=conclusion.upper,
            sizes=conclusion.sizes,
            paper=Paper(method=conclusion.paper, size=conclusion.paper_size),
        ),
        noise=noise_part(bundle),
        picture=PicturePart(
            width=picture.width, height=picture.height, mode=picture.mode, bits=picture.bits
        ),
        preprocessing=PreprocessingPart(
            steps=list(preparation.steps), sensitivity=preparation.sensitivity(norm, norm)
        ),
        compute=Compute(device=result.device, **vars(result.execution)),
        timing_ms=timing,
        attacks=conclusion.attacks,
        evidence=EvidencePart(**vars(conclusion.evidence), input_shape=manifest.input.shape)
        if asked.evidence
        else None,
    )


class Look(_Part):
    """An event of a stream: the answer so far, which holds with the same confidence."""

    draws: int
    label: Label
    certain: CertainPart | None
    certified_size: float
    scores: list[LabelScore]
    attacks: Attacks | None


def look(conclusion: Conclusion, bundle: Bundle) -> Look:
    """Put a look together."""
    name = bundle.manifest.labels[conclusion.label]
    return Look(
        draws=conclusion.draws,
        label=Label(index=conclusion.label, name=name),
        certain=certain_part(conclusion, bundle),
        certified_size=conclusion.certified_size,
        scores=label_scores(conclusion, bundle),
        attacks=conclusion.attacks,
    )


def certain_part(conclusion: Conclusion, bundle: Bundle) -> CertainPart | None:
    """Name the labels of the certain set."""
    certain, names = conclusion.certain, bundle.manifest.labels
    if certain is None:
        return None
    labels = [Label(index=index, name=names[index]) for index in certain.labels]
    return CertainPart(labels=labels, within_allowed=certain.within_allowed)


def label_scores(conclusion: Conclusion, bundle: Bundle) -> list[LabelScore]:
    """Name the scores' labels."""
    return [
        LabelScore(
            index=score.index,
            name=bundle.manifest.labels[score.index],
            expected=score.expected,
            lower=score.lower,
            upper=score.upper,
            attacked=score.attacked
            and Range(lower=score.attacked.lower, upper=score.attacked.upper),
        )
        for score in conclusion.scores
    ]


def model_name(bundle: Bundle) -> ModelName:
    """Name a bundle."""
    manifest = bundle.manifest
    return ModelName(
        name=manifest.name, version=manifest.version, digest=bundle.digest, rows=manifest.rows
    )


def noise_part(bundle: Bundle) -> NoisePart:
    """Describe a bundle's noise."""
    manifest = bundle.manifest
    return NoisePart(
        mechanism=manifest.noise.mechanism,
        scale=manifest.noise.scale,
        sensitivity=manifest.sensitivity.value,
        norm=manifest.sensitivity.input_norm,
        placement=manifest.noise.placement,
        scoring=manifest.scoring,
    )

"""The answer to a prediction, as JSON and as headers."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict

from models.bundle import Bundle, RowsBasis
from models.certification.answer import AnyConclusion, Conclusion, Evidence
from models.certification.attack_bounds import Attacks
from models.certification.names import Certificate, Mechanism, Norm, Scoring, Stopped
from models.certification.stickers import StickerConclusion, StickerEvidence, ViewScore
from models.execution import Format, Provider
from models.preprocessing import Preprocessing
from service.decoding.reduction import Reduced
from service.engine.queue import Result
from service.http.api.options import Asked

# The header lists up to so many labels, and otherwise their number: proxies limit headers.
MOST_LISTED = 20
_ROBUST = "Certified-Robust"
_WORDS = {True: "true", False: "false", None: "unknown"}


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


class MasksPart(_Part):
    """What the views hide of the model's input: rows and columns, from one to before another."""

    rows: list[tuple[int, int]]
    columns: list[tuple[int, int]]


class StickerCertificate(_Part):
    """How stickers are excluded: by so many views, each under one mask or two."""

    method: Literal["two-masks"] = "two-masks"
    masks: MasksPart
    views: int


class StickerPart(_Part):
    """Whether no sticker of that side can change the label; ``side`` in pixels as sent."""

    certified: bool
    label: Label
    side: int


class StickerPreprocessing(_Part):
    """The steps from the picture as sent to the model's input."""

    steps: list[str]


@dataclass(frozen=True)
class StickerEvidencePart(StickerEvidence):
    """The evidence, and the shape of the model's input: (channels, height, width)."""

    input_shape: tuple[int, int, int]


class StickerAnswer(_Part):
    """A label, and whether any square sticker of the target's side could change it.

    ``expected`` of a score is the share of a label among the views made.
    """

    threat: Literal["sticker"] = "sticker"
    model: ModelName
    label: Label
    robust: bool
    sticker: StickerPart
    target: float
    confidence: float
    draws: int
    budget: Budget
    stopped: Stopped
    scores: list[LabelScore]
    certificate: StickerCertificate
    picture: PicturePart
    preprocessing: StickerPreprocessing
    compute: Compute
    timing_ms: Timing
    evidence: StickerEvidencePart | None

    def headers(self) -> dict[str, str]:
        """Return the header by which proxies route; there is no size."""
        return {_ROBUST: _WORDS[self.robust]}


AnyAnswer = Answer | StickerAnswer


def headers_together(answers: Sequence[AnyAnswer | None], asked: Asked) -> dict[str, str]:
    """Return the headers for several answers: those of the least; None stands for a failed one.

    n answers hold together with probability at least 1 − n·(1 − confidence), by the union bound.
    """
    robusts = [answer.robust if answer else False for answer in answers]
    robust = False if False in robusts else None if None in robusts else True
    if asked.question.masks:
        return {_ROBUST: _WORDS[robust]}
    sizes = [answer.certified_size if isinstance(answer, Answer) else 0.0 for answer in answers]
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
        [one.certain if isinstance(one, Answer) and one.certain else nothing for one in answers]
    )


def _set_header(sets: Sequence[CertainPart]) -> dict[str, str]:
    """Return the header of the labels that may be first in any of some answers."""
    labels = sorted({label.index for certain in sets for label in certain.labels})
    listed = ",".join(map(str, labels)) if len(labels) <= MOST_LISTED else f"{len(labels)} labels"
    withins = [certain.within_allowed for certain in sets]
    within = None if None in withins else all(withins)
    return {"Certified-Set": f"{listed}; allowed={_WORDS[within]}"}


def _headers(robust: bool | None, size: float, norm: Norm, confidence: float) -> dict[str, str]:
    return {
        _ROBUST: _WORDS[robust],
        "Certified-Size": f"{size:.12g}; norm={norm}; confidence={confidence!r}",
    }


def answer(
    result: Result, asked: Asked, picture: Reduced, preparation: Preprocessing, timing: Timing
) -> AnyAnswer:
    """Put an answer together."""
    conclusion, question, bundle = result.conclusion, asked.question, asked.served.bundle
    manifest = bundle.manifest
    seen = PicturePart(
        width=picture.width, height=picture.height, mode=picture.mode, bits=picture.bits
    )
    if isinstance(conclusion, StickerConclusion):
        return _about_stickers(conclusion, result, asked, seen, preparation, timing)
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
        picture=seen,
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


def _about_stickers(
    conclusion: StickerConclusion,
    result: Result,
    asked: Asked,
    picture: PicturePart,
    preparation: Preprocessing,
    timing: Timing,
) -> StickerAnswer:
    question, bundle, evidence = asked.question, asked.served.bundle, conclusion.evidence
    manifest, views = bundle.manifest, len(evidence.votes)
    label = Label(index=conclusion.label, name=manifest.labels[conclusion.label])
    return StickerAnswer(
        model=model_name(bundle),
        label=label,
        robust=conclusion.certified,
        sticker=StickerPart(certified=conclusion.certified, label=label, side=evidence.side),
        target=evidence.side,
        confidence=question.confidence,
        draws=conclusion.draws,
        budget=Budget(asked=views, granted=views, reachable=True),
        stopped=conclusion.stopped,
        scores=_named(conclusion.scores, bundle),
        certificate=StickerCertificate(
            masks=MasksPart(rows=evidence.rows, columns=evidence.columns), views=views
        ),
        picture=picture,
        preprocessing=StickerPreprocessing(steps=list(preparation.steps)),
        compute=Compute(device=result.device, **vars(result.execution)),
        timing_ms=timing,
        evidence=StickerEvidencePart(**vars(evidence), input_shape=manifest.input.shape)
        if asked.evidence
        else None,
    )


class StickerLook(_Part):
    """An event of a stream about stickers: the answer so far, whose label stays."""

    threat: Literal["sticker"] = "sticker"
    draws: int
    label: Label
    sticker: StickerPart
    scores: list[LabelScore]


class Look(_Part):
    """An event of a stream: the answer so far, which holds with the same confidence."""

    draws: int
    label: Label
    certain: CertainPart | None
    certified_size: float
    scores: list[LabelScore]
    attacks: Attacks | None


AnyLook = Look | StickerLook


def look(conclusion: AnyConclusion, bundle: Bundle) -> AnyLook:
    """Put a look together."""
    label = Label(index=conclusion.label, name=bundle.manifest.labels[conclusion.label])
    if isinstance(conclusion, StickerConclusion):
        return StickerLook(
            draws=conclusion.draws,
            label=label,
            sticker=StickerPart(
                certified=conclusion.certified, label=label, side=conclusion.evidence.side
            ),
            scores=_named(conclusion.scores, bundle),
        )
    return Look(
        draws=conclusion.draws,
        label=label,
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


def _named(scores: Sequence[ViewScore], bundle: Bundle) -> list[LabelScore]:
    labels = bundle.manifest.labels
    return [LabelScore(name=labels[one.index], attacked=None, **vars(one)) for one in scores]


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

"""The options of a prediction, as query parameters or as members of a JSON body."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.asking import ask, ask_about_stickers, find_labels
from models.bundle import Manifest
from models.certification.division import LEAST_DRAWS
from models.certification.names import Norm, Threat
from models.certification.question import Question
from models.certification.rounding import MOST_NUMBER
from service.catalogue import Served, ServedFamily
from service.http.problems import Problem, out_of_range
from service.settings import Settings

# With up to the first number of labels an answer shows all scores by default, otherwise the second.
ALL_SCORES, FEW_SCORES = 20, 5
MOST_ATTACKS = 200


def _join(value: Any) -> Any:
    """Return a list of labels as the text that a query has."""
    if not isinstance(value, list):
        return value
    names = [str(one) for one in value if type(one) in (str, int)]
    if len(names) < len(value):
        raise ValueError("expected names or indices of labels")
    return ",".join(name.replace(",", "\\,") for name in names)


# Pydantic's own message would have all 51 digits.
def _not_too_large(target: float) -> float:
    if target > MOST_NUMBER:
        raise PydanticCustomError("too_large", f"Input should be at most {MOST_NUMBER:g}")
    return target


Target = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_not_too_large)]


class Options(BaseModel):
    """The options of a client; the service's settings are the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None,
        description="A served name, name:version, or a family, of which the target chooses the "
        "member; by default the service's default model.",
    )
    target: Target | None = Field(
        None, description="The size that you need, in `norm`; `robust` says whether it is reached."
    )
    norm: Norm | None = Field(None, description="The norm of sizes; by default the model's own.")
    confidence: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="The probability with which everything in the answer holds; 1 only for models "
        "with split noise or intervals, whose default it is.",
    )
    max_draws: Annotated[int, Field(ge=LEAST_DRAWS)] | None = Field(
        None,
        description="The draw budget; every draw counts. Models with split noise or intervals have "
        "their own.",
    )
    timeout_ms: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Milliseconds from arrival to the answer, with the certificate "
        "reached by then.",
    )
    scores: Literal["all"] | Annotated[int, Field(ge=1)] | None = Field(
        None, description="How many labels' scores to show."
    )
    require: Literal["robust"] | None = Field(
        None,
        description="`robust`: an answer that is not robust has status 406; with `allow`, one in "
        "which other labels may be first.",
    )
    allow: Annotated[str, BeforeValidator(_join)] | None = Field(
        None,
        description="Labels by name, or by index, divided by commas (in JSON also a list): the "
        "answer says whether none but these may be first under a change up to the target, and "
        "draws go on until that is certain.",
    )
    threat: Threat | None = Field(
        None,
        description="`norm` (the default): a change of the pixels up to a size. `sticker`: a "
        "square of `target` × `target` pixels of the picture as sent, anywhere, whatever is on it; "
        "the answer is certain.",
    )
    attacks: Annotated[int, Field(ge=2, le=MOST_ATTACKS)] | None = Field(
        None, description="At how many attack sizes to show the scores that attacks can reach."
    )
    # Without a default, like all others: generated clients send defaults in the query, where they
    # would contradict the body.
    evidence: bool | None = Field(
        None, description="Whether to add everything that is needed to compute the answer again."
    )
    priority: Literal["high", "normal"] | None = Field(
        None,
        description="high: before all normal pictures (the default), except in every fourth turn.",
    )

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        # For the query as for a body. Pydantic would not list the options.
        _check_names(values)
        return values


def _check_names(names: Iterable[str]) -> None:
    """Refuse names that are not options.

    Raises:
        Problem: ``option-out-of-range``, listing all options.
    """
    for name in names:
        if name not in Options.model_fields:
            short = name if len(name) <= 40 else f"{name[:37]}…"
            allowed = ", ".join(Options.model_fields)
            detail = f"There is no option {short!r}; there are: {allowed}."
            raise Problem("option-out-of-range", detail, option=short, allowed=allowed)


def parse(values: dict[str, Any]) -> Options:
    """Check the options in ``values``; null means not given.

    Raises:
        Problem: ``option-out-of-range``, naming the option.
    """
    _check_names(values)
    for name, value in values.items():
        # One at a time, so that a hostile body is not answered with a million errors.
        wrong = isinstance(value, list | dict) or (isinstance(value, bool) and name != "evidence")
        wrong = wrong and not (name == "allow" and isinstance(value, list))
        if wrong:
            detail = f"{name} must be a number or a word, not a JSON {type(value).__name__}."
            allowed = "a number or a word"
            raise Problem("option-out-of-range", detail, option=name, allowed=allowed)
    try:
        given = {name: value for name, value in values.items() if value is not None}
        return Options.model_validate(given)
    except ValidationError as error:
        raise out_of_range(list(error.errors())) from None


def parse_query(items: list[tuple[str, str]]) -> Options:
    """Check the options in a query; of several values the last counts.

    Raises:
        Problem: ``option-out-of-range``, naming the option.
    """
    try:
        return Options.model_validate(dict(items))
    except ValidationError as error:
        raise out_of_range(list(error.errors())) from None


@dataclass(frozen=True)
class Asked:
    """What is asked of a model: options with the defaults filled in, within the limits.

    With a family, ``served`` is its default member until the target has chosen.
    """

    served: Served
    family: ServedFamily | None
    question: Question
    timeout_ms: int
    scores: int
    attacks: int | None
    high: bool
    evidence: bool


def _question(options: Options, manifest: Manifest, settings: Settings) -> Question:
    """Return what is asked, with the defaults filled in.

    Raises:
        Problem: ``option-out-of-range``.
    """
    if options.threat == "sticker":
        return _question_about_stickers(options, manifest, settings)
    try:
        return ask(
            manifest,
            options.confidence,
            options.max_draws or settings.max_draws,
            options.target,
            options.norm,
            _allowed(options, manifest.labels),
            usual=settings.confidence,
        )
    except ValueError as error:
        allowed = "below 1"
        detail = f"{error}."
        raise Problem("option-out-of-range", detail, option="confidence", allowed=allowed) from None


def _question_about_stickers(options: Options, manifest: Manifest, settings: Settings) -> Question:
    """Do the same for stickers, which have no norm; whatever the confidence, it is 1."""
    for name in ("norm", "attacks", "allow"):
        if getattr(options, name) is not None:
            detail = f"{name} is about changes of some size; omit it with threat=sticker."
            raise Problem("option-out-of-range", detail, option=name, allowed="none")
    try:
        return ask_about_stickers(manifest, options.target, settings.sticker_masks)
    except ValueError as error:
        option = "threat" if manifest.noise.draws else "target"
        allowed = "norm" if manifest.noise.draws else "a whole number of at least 1"
        raise Problem("option-out-of-range", f"{error}.", option=option, allowed=allowed) from None


def resolve(
    options: Options, served: Served, settings: Settings, family: ServedFamily | None = None
) -> Asked:
    """Fill in the options that the client left out.

    Raises:
        Problem: ``option-out-of-range`` for a value that this service or model does not allow.
    """
    manifest = served.bundle.manifest
    labels = len(manifest.labels)
    for name in ("max_draws", "timeout_ms"):
        limit, value = getattr(settings, f"{name}_limit"), getattr(options, name)
        if value is not None and value > limit:
            allowed = f"at most {limit}"
            detail = f"{name} is {value}; this service allows {allowed}."
            raise Problem("option-out-of-range", detail, option=name, allowed=allowed)
    question = _question(options, manifest, settings)
    shown = options.scores or ("all" if labels <= ALL_SCORES else FEW_SCORES)
    return Asked(
        served,
        family,
        question,
        timeout_ms=options.timeout_ms or settings.timeout_ms,
        scores=labels if shown == "all" else min(shown, labels),
        attacks=options.attacks,
        high=options.priority == "high",
        evidence=bool(options.evidence),
    )


def _allowed(options: Options, labels: Sequence[str]) -> tuple[int, ...] | None:
    """Return the labels that are allowed, by index."""
    if options.allow is None:
        return None
    allowed = "labels of the model, with a target"
    try:
        if options.target is None:
            raise ValueError("allow needs a target: a set of labels is certain up to a size")
        return find_labels(options.allow, labels)
    except ValueError as error:
        detail = f"{error}."
        raise Problem("option-out-of-range", detail, option="allow", allowed=allowed) from None

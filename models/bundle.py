"""Bundles: one model on disk, as ``model.json`` and ``weights.safetensors`` (and a card).

A model imported from an exported program has that program's graph as ``program.json``. The folder
``samples``, if any, has pictures for trying the model by hand.

This module reads and writes the description, and checks the weights file as bytes. It does not
import torch, so that callers that only need the description do not pay for it. ``models.network``
turns a bundle into a network.
"""

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.certification.laws import LAWS
from models.certification.laws.interval import BOXES, largest_radius
from models.certification.laws.split import count_draws
from models.certification.names import MECHANISM_NORMS, Mechanism, Norm, Scoring
from models.certification.rounding import LEAST_NUMBER, MOST_NUMBER
from models.files import write_whole

FORMAT_VERSION: Literal[1] = 1
MANIFEST = "model.json"
# The description of a denoiser that is a bundle of its own (models.denoiser).
DENOISER = "denoiser.json"
WEIGHTS: Literal["weights.safetensors"] = "weights.safetensors"
PROGRAM: Literal["program.json"] = "program.json"
CARD = "README.md"
SAMPLES = "samples"
# How the names of families' files end (models.family).
FAMILY = ".family.json"
ZOO = Path(__file__).parent / "zoo"
# Limits for reading strangers' bundles: bytes of each file, and the nesting of the description.
LARGEST = {MANIFEST: 2**22, DENOISER: 2**22, CARD: 2**20, PROGRAM: 2**26, WEIGHTS: 2**36}
DEEPEST = 32
# Limits of samples: their number, and the bytes of each. Browsers show them; names are parts of
# URLs.
MOST_SAMPLES, LARGEST_SAMPLE = 12, 2**18
SAMPLE_KINDS = {".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png"}
_SAMPLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
# Besides control characters, those that change the lines or the direction of the text around them.
_DISTURBING = re.compile(r"[\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# Why rows stay apart: code that this project chose, the proof for an exported program
# (models.networks.foreign.rows), or the word of the operator who brings Python. All are also tried.
RowsBasis = Literal["built-in", "proven", "operator"]
DENOISED = "denoised"
# The denoiser in front of a classifier; and the placement of noise before every layer.
AUTOENCODER, IMAGE = "autoencoder", "image"
# The network of denoisers that are bundles of their own.
UNET = "unet"
# int8 serves by default if on at least this many pictures it lost at most this certified share. On
# fewer, half a point is a picture or two.
INT8_PICTURES, INT8_LOSS = 500, 0.005
_TRAINED = ("cnn", "fast-resnet", "resnet", "strided-cnn", "wide-resnet")
_BUILT_IN = (*_TRAINED, "cifar-resnet", "torchvision")
_ROWS: dict[str, RowsBasis] = {**dict.fromkeys(_BUILT_IN, "built-in"), "exported": "proven"}


def _in_range(value: float) -> float:
    if not LEAST_NUMBER <= value <= MOST_NUMBER:
        raise ValueError(f"must lie between {LEAST_NUMBER:g} and {MOST_NUMBER:g}")
    return value


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_in_range)]


def _plain(text: str) -> str:
    """Refuse text that could affect a terminal or a page instead of just being shown."""
    if _DISTURBING.search(text) or any(unicodedata.category(one) in ("Cc", "Cs") for one in text):
        raise ValueError(f"must have no control characters, but is {text!a:.80}")
    return text


def _around_zero(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] <= 0 < limits[1]:
        raise ValueError(f"a range goes from at most 0 to above 0, not from {limits}")
    return limits


Share = Annotated[float, Field(ge=0, le=1)]
_Limit = Annotated[float, Field(ge=-1e30, le=1e30)]
Range = Annotated[tuple[_Limit, _Limit], AfterValidator(_around_zero)]
Plain = Annotated[str, Field(max_length=1000), AfterValidator(_plain)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


class BundleError(ValueError):
    """A bundle cannot be trusted: says which file, which field of it, and why."""

    def __init__(self, file: Path, field: str, reason: str) -> None:
        super().__init__(f"{file}: {field}: {reason}")
        self.file, self.field, self.reason = file, field, reason


class Part(BaseModel):
    """A part of a description: it has no other members, and stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)


T = TypeVar("T", bound=Part)


class Architecture(Part):
    """The network's name in ``models.networks``, and its arguments."""

    name: str
    arguments: dict[str, Any] = {}


class InputShape(Part):
    """The network's input: ``channels`` × ``height`` × ``width`` pixel values in [0, 1]."""

    channels: Annotated[int, Field(ge=1, le=4)]
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width


class ConstructionBound(Part):
    """The paper's way to state a noise scale: robust to ``size`` at (ε, δ)."""

    size: Positive
    epsilon: Positive
    delta: Annotated[float, Field(ge=0, lt=1)]


class NoiseSpec(Part):
    """The noise law. ``scale`` is σ for Gaussian and b for Laplace, in the units of g's output.

    For split noise it is λ, in pixel values, and 510·λ draws decide. For intervals it is the radius
    of the largest box, in pixel values.
    """

    mechanism: Mechanism
    scale: Positive
    placement: Plain
    construction_bound: ConstructionBound | None = None

    @property
    def draws(self) -> int | None:
        """The number of draws that decide, if the law has finitely many; of intervals, boxes."""
        if self.mechanism == "interval":
            return BOXES
        return count_draws(self.scale) if self.mechanism == "split" else None

    @model_validator(mode="after")
    def _not_added(self) -> Self:
        if self.mechanism == "split":
            count_draws(self.scale)
            if self.placement != IMAGE or self.construction_bound:
                raise ValueError("split noise is of the image, and has no construction bound")
        if self.mechanism == "interval":
            largest_radius(self.scale)
            if self.placement != IMAGE or self.construction_bound:
                raise ValueError("intervals are of the image, and have no construction bound")
        if LAWS[self.mechanism].discrete and (self.placement != IMAGE or self.construction_bound):
            raise ValueError(
                f"{self.mechanism} noise is of the image, and has no construction bound: after a "
                "layer there is no grid; expected the placement image and a scale"
            )
        return self


class SensitivitySpec(Part):
    """Δ(p,q) of g and how it was bounded: p is ``input_norm``, q is ``noise_norm``."""

    value: Positive
    input_norm: Norm
    noise_norm: Norm
    method: Plain


class WeightsSpec(Part):
    """The weights file and the SHA-256 of its bytes, in hexadecimal."""

    file: Literal["weights.safetensors"] = WEIGHTS
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ProgramSpec(Part):
    """The graph of an exported program (``networks.foreign.exported``), and its bytes' SHA-256."""

    file: Literal["program.json"] = PROGRAM
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Int8Certified(Part):
    """Certified accuracy at a size, of the same pictures in both number formats."""

    radius: Annotated[float, Field(ge=0)]
    float32: Share
    int8: Share


class Int8Record(Part):
    """What int8 cost where it was measured beside float32, on the same pictures and noise.

    ``labels_differ`` is the share of pictures whose leading label is another.
    """

    dataset: Plain = ""
    pictures: Annotated[int, Field(ge=1)]
    norm: Norm
    max_draws: Annotated[int, Field(ge=1)]
    confidence: Annotated[float, Field(gt=0, le=1)]
    certified: Annotated[tuple[Int8Certified, ...], Field(min_length=1)]
    labels_differ: Share

    @property
    def lost(self) -> float:
        """The most that int8 loses of the certified share at any of the sizes."""
        return round(max(one.float32 - one.int8 for one in self.certified), 9)

    @property
    def objection(self) -> str:
        """Why int8 must not serve by default; empty if it may."""
        if self.pictures < INT8_PICTURES:
            return f"{INT8_PICTURES} pictures are needed"
        if self.lost > INT8_LOSS:
            return f"that is more than {100 * INT8_LOSS:g} points"
        # Of less than what int8 may lose it could have lost everything.
        if max(one.float32 for one in self.certified) <= INT8_LOSS:
            return "in float32 there is hardly anything to lose"
        return ""


class Int8Spec(Part):
    """The scales that int8 rounds with, and what it cost with them.

    ``ranges`` has by the name of a layer the values that it is given, from and to.
    """

    ranges: Annotated[dict[Plain, Range], Field(min_length=1, max_length=10_000)]
    record: Int8Record | None = None

    @property
    def serves(self) -> bool:
        """Whether int8 may serve unless somebody forbids it."""
        return self.record is not None and not self.record.objection


class Manifest(Part):
    """Everything in ``model.json``."""

    format_version: Literal[1] = FORMAT_VERSION
    name: Name
    version: Version = "1"
    architecture: Architecture
    input: InputShape
    labels: Annotated[tuple[Plain, ...], Field(min_length=2)]
    noise: NoiseSpec
    sensitivity: SensitivitySpec
    scoring: Scoring = "votes"
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    weights: WeightsSpec
    program: ProgramSpec | None = None
    int8: Int8Spec | None = None

    @property
    def rows(self) -> RowsBasis:
        """Why each row of a pass is a function of that row alone."""
        described: Any = self.architecture.model_dump()
        if described["name"] == DENOISED:
            described = described["arguments"].get("classifier")
        name = described.get("name") if isinstance(described, dict) else None
        return _ROWS.get(str(name), "operator")

    @model_validator(mode="after")
    def _norms_agree(self) -> Self:
        needed = MECHANISM_NORMS[self.noise.mechanism]
        if self.sensitivity.noise_norm != needed:
            raise ValueError(
                f"{self.noise.mechanism} noise needs the sensitivity in {needed}, "
                f"not in {self.sensitivity.noise_norm}"
            )
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        if self.noise.mechanism == "split":
            if self.sensitivity.input_norm != "l1" or self.sensitivity.value != 1:
                raise ValueError("split noise needs the sensitivity 1 from l1 to l1")
            if self.scoring != "votes":
                raise ValueError("split noise needs votes, which it counts")
            if self.architecture.name not in _TRAINED:
                raise ValueError(
                    "split noise needs a network made for what it shows of a picture: "
                    f"{', '.join(_TRAINED)}, not {self.architecture.name}"
                )
        stated = self.sensitivity.input_norm, self.sensitivity.value
        if LAWS[self.noise.mechanism].discrete and stated != ("l1", 1):
            raise ValueError(
                f"{self.noise.mechanism} noise needs the sensitivity 1 from l1 to l1, as pixels "
                "stay as they are; expected the norm l1"
            )
        if self.noise.mechanism == "interval":
            if self.sensitivity.input_norm != "linf" or self.sensitivity.value != 1:
                raise ValueError("intervals need the sensitivity 1 from linf to linf")
            if self.scoring != "votes":
                raise ValueError("intervals need votes: a proof is for one label")
            if self.int8:
                raise ValueError("intervals are proven in float32 only, and have no int8")
        return self


@dataclass(frozen=True)
class Bundle:
    """A bundle whose description is well formed.

    Its other files are compared with the description when they are read.
    """

    path: Path
    manifest: Manifest
    digest: str

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.path / WEIGHTS

    @property
    def files(self) -> "list[tuple[Path, WeightsSpec | ProgramSpec]]":
        """Its files besides the description, with what the description states about them."""
        specs = (self.manifest.weights, self.manifest.program)
        return [(self.path / spec.file, spec) for spec in specs if spec]

    @property
    def card(self) -> str:
        """The model card's text; empty if the bundle has none."""
        try:
            with opened(self.path / CARD) as stream:
                return _read(stream, CARD).decode("utf-8", errors="replace")
        except BundleError:
            return ""

    @property
    def samples(self) -> list[str]:
        """The names of its samples' files; none if they have changed since it was read."""
        try:
            return [file.name for file in sample_files(self.path / SAMPLES)]
        except BundleError:
            return []

    def sample(self, name: str) -> bytes:
        """Return the file of one of its samples.

        Raises:
            BundleError: there is none of that name, or it cannot be trusted.
        """
        for file in sample_files(self.path / SAMPLES):
            if file.name == name:
                return read_sample(file)
        raise BundleError(self.path / SAMPLES, "file", "there is no sample of that name")


def locate(path: Path) -> Path:
    """Return what ``path`` means: a bare name may be that of a model or a family of the zoo.

    Of a model it is the folder, of a family the file. What has that name here takes precedence.
    """
    if len(path.parts) != 1 or path.exists():
        return path
    shipped = ZOO / path
    if any((shipped / name).is_file() for name in (MANIFEST, DENOISER)):
        return shipped
    family = ZOO / f"{path.name.removesuffix(FAMILY)}{FAMILY}"
    return family if family.is_file() else path


def locate_denoiser(path: Path) -> Path:
    """Return the folder that ``path`` means: ``photo`` may be the zoo's ``photo-denoiser``.

    A folder of that name takes precedence.
    """
    longer = Path(f"{path}-denoiser")
    if len(path.parts) == 1 and not path.exists() and (ZOO / longer / DENOISER).is_file():
        return ZOO / longer
    return locate(path)


def read_bundle(path: Path) -> Bundle:
    """Read and check the bundle in the folder ``path``, including its large files.

    Raises:
        BundleError: a file is missing or malformed, of an unknown format version, or the weights
            are not those that the description was written for.
    """
    bundle = describe(path)
    for sample in sample_files(path / SAMPLES):
        read_sample(sample)
    for file, spec in bundle.files:
        with opened(file) as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        _compare_digest(file, found, spec.sha256)
    return bundle


def describe(path: Path) -> Bundle:
    """Read the description of the bundle in the folder ``path``, but none of its large files.

    :func:`read_bundle` checks these, and so does loading them.

    Raises:
        BundleError: the description is missing, malformed or of an unknown format version.
    """
    file = path / MANIFEST
    document, raw = read_document(path)
    manifest = validate(file, Manifest, document)
    return Bundle(path, manifest, f"sha256:{hashlib.sha256(raw).hexdigest()}")


def validate(file: Path, kind: type[T], document: dict[str, Any]) -> T:
    """Return a description that has been read from ``file``, checked.

    Raises:
        BundleError: it is malformed or of an unknown format version.
    """
    found = document.get("format_version")
    if found != FORMAT_VERSION:
        reason = f"is {found!r}; this release reads version {FORMAT_VERSION}"
        raise BundleError(file, "format_version", reason)
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "document"
        raise BundleError(file, field, first["msg"]) from None


def read_document(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read the JSON of a bundle's description; see :func:`read_json`."""
    file = path / MANIFEST
    shipped = ", ".join(sorted(one.parent.name for one in ZOO.glob(f"*/{MANIFEST}")))
    families = ", ".join(sorted(one.name.removesuffix(FAMILY) for one in ZOO.glob(f"*{FAMILY}")))
    hint = (
        f"; expected a folder with {MANIFEST}, or one of the shipped models ({shipped}); families, "
        f"which are served: {families}"
    )
    if (path / DENOISER).is_file() and not file.exists():
        reason = (
            "is missing: this is a denoiser, which answers nothing alone; put it in front of a "
            f"classifier: pixeldp import … --denoiser {path}"
        )
        raise BundleError(file, "file", reason)
    return read_json(file, hint)


def read_json(file: Path, hint: str = "") -> tuple[dict[str, Any], bytes]:
    """Read the JSON of a description, and check that all of it can be written as JSON again.

    Args:
        file: the description.
        hint: what to add to the message if it cannot be read.

    Returns:
        The object, and the bytes from which it was read.

    Raises:
        BundleError: the file is missing, too large or not JSON, or its folder is a family;
            the object is nested too deep, or has numbers or characters that JSON does not have.
    """
    if file.parent.name.endswith(FAMILY) and file.parent.is_file():
        reason = (
            "is a family, not a bundle; expected one of its members, which pixeldp models "
            f"{file.parent} lists"
        )
        raise BundleError(file.parent, "file", reason)
    with opened(file, hint) as stream:
        raw = _read(stream, file.name)
    try:
        document = json.loads(raw)
        if not isinstance(document, dict):
            raise BundleError(file, "file", "must hold one JSON object")
        for name, value in document.items():
            name.encode()
            # The builder of a network checks its arguments itself; clients do not see them.
            _check_values(value, DEEPEST, numbers=name != "architecture")
    except BundleError:
        raise
    except (ValueError, RecursionError) as error:
        raise BundleError(file, "file", f"is not JSON ({error})") from None
    return document, raw


def _check_values(value: object, deeper: int, numbers: bool) -> None:
    """Raise ValueError for values that Python reads as JSON and other readers do not."""
    if deeper < 0:
        raise ValueError(f"nested more than {DEEPEST} deep")
    match value:
        case str():
            value.encode()  # fails for halves of characters
        case float() if numbers and not math.isfinite(value):
            raise ValueError(f"a number that is {value}")
        case int() if numbers and not -(2**63) <= value < 2**63:
            raise ValueError("a whole number of more than 64 bits")
        case list():
            for one in value:
                _check_values(one, deeper - 1, numbers)
        case dict():
            for name, one in value.items():
                name.encode()
                _check_values(one, deeper - 1, numbers)


def read_file(file: Path, spec: WeightsSpec | ProgramSpec) -> bytes:
    """Read one of a bundle's large files, which must be as ``spec`` states.

    Raises:
        BundleError: it cannot be read, or is not as stated.
    """
    with opened(file) as stream:
        content = _read(stream, spec.file)
    _compare_digest(file, hashlib.sha256(content).hexdigest(), spec.sha256)
    return content


def sample_files(folder: Path) -> list[Path]:
    """Find the samples in the folder ``folder``, sorted by name; none if there is no such folder.

    Hidden files are skipped. Links are not followed, because none is needed here.

    Raises:
        BundleError: an entry is not a sample, there are too many, or the folder cannot be read.
    """
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise BundleError(folder, "file", "is not a folder, but samples are in one; remove it")
        with os.scandir(folder) as entries:
            visible = (entry for entry in entries if not entry.name.startswith("."))
            found = list(itertools.islice(visible, MOST_SAMPLES + 1))
        if len(found) > MOST_SAMPLES:
            raise BundleError(folder, "files", f"are more than {MOST_SAMPLES}; remove some")
        for entry in found:
            file = folder / entry.name
            if not entry.is_file(follow_symlinks=False):
                raise BundleError(
                    file, "file", "is not a regular file; put the picture itself here"
                )
            if not _SAMPLE_NAME.fullmatch(entry.name) or file.suffix.lower() not in SAMPLE_KINDS:
                kinds = ", ".join(SAMPLE_KINDS)
                reason = (
                    f"{entry.name!a:.80} cannot be a sample's: expected at most 64 letters, "
                    f"digits, spaces and ._- with one of {kinds} at the end"
                )
                raise BundleError(folder, "name", reason)
        return sorted(folder / entry.name for entry in found)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BundleError(folder, "file", f"cannot be read ({error.strerror})") from None


def read_sample(file: Path) -> bytes:
    """Read the file of a sample.

    Raises:
        BundleError: it cannot be read, or is too large.
    """
    with opened(file, largest=LARGEST_SAMPLE) as stream:
        return _read(stream, file.name)


@contextmanager
def opened(file: Path, hint: str = "", largest: int | None = None) -> Iterator[BufferedReader]:
    """Open a regular file of a bundle for reading, which must be in the bundle's folder.

    Any other kind of file could keep its reader waiting for ever. Links are followed within the
    folder, but not out of it: a stranger's bundle must not reveal other files of this machine.

    Args:
        file: the file.
        hint: what to add to the message if it cannot be read.
        largest: its most bytes; by default those in ``LARGEST``.

    Raises:
        BundleError: there is no such file, it is not a regular file, too large or outside the
            folder, or it cannot be read.
    """
    try:
        true = file.resolve(strict=True)
        if not true.is_relative_to(file.parent.resolve()):
            raise BundleError(file, "file", f"is a link that leads out of the folder{hint}")
        descriptor = os.open(true, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise BundleError(file, "file", f"is not a regular file{hint}")
        with os.fdopen(descriptor, "rb") as stream:
            limit = LARGEST[file.name] if largest is None else largest
            if status.st_size > limit:
                raise BundleError(file, "file", f"has more than {limit:,} bytes")
            yield stream
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or error
        raise BundleError(file, "file", f"cannot be read ({reason}){hint}") from None


def _read(stream: BufferedReader, name: str) -> bytes:
    """Read a whole file, but no more than its size when it was opened."""
    size = os.fstat(stream.fileno()).st_size
    content = stream.read(size + 1)
    if len(content) > size:
        raise BundleError(Path(name), "file", "grew while it was read")
    return content


def _compare_digest(file: Path, found: str, stated: str) -> None:
    if found != stated:
        raise BundleError(file, "sha256", f"is {found}, but {MANIFEST} states {stated}")


def remove_bundle(path: Path) -> None:
    """Remove all files of a bundle that exist, so that its folder is no bundle any more.

    The description is removed first: a folder without it is not a bundle, even if this is
    interrupted.
    """
    for name in (MANIFEST, DENOISER, WEIGHTS, PROGRAM, CARD):
        (path / name).unlink(missing_ok=True)
    remove_samples(path)


def remove_samples(path: Path) -> None:
    """Remove the samples of the bundle in ``path``; of a link, only the link itself."""
    samples = path / SAMPLES
    if samples.is_symlink() or samples.is_file():
        samples.unlink()
    elif samples.exists():
        shutil.rmtree(samples)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``model.json`` into the folder ``path``, whole or not at all."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    write_whole(path / MANIFEST, text.encode())

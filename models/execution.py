"""How h may be run. The certificate holds for any function h, in any number format."""

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal, get_args

# PyTorch's number formats, and all number formats.
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Format = Literal["float32", "bfloat16", "int8"]
FORMATS: tuple[Format, ...] = get_args(Format)

# What runs h: PyTorch anywhere, OpenVINO on CPUs if it is installed.
Provider = Literal["pytorch", "openvino"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)

# Each provider's number formats.
WAYS: tuple[tuple[Provider, Format], ...] = (
    ("pytorch", "float32"),
    ("pytorch", "bfloat16"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
)


_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PASS_SIZE = re.compile(r"[1-9][0-9]{0,4}")
_PIN = (
    "digest/provider/precision/pass size/compiled as model.digest and compute of an answer have "
    "them, such as sha256:…/pytorch/float32/128/false"
)


@dataclass(frozen=True)
class Execution:
    """How h is run. With the digest of the model's files and the device it says which h it is.

    Attributes:
        provider: what runs it.
        precision: its number format.
        pass_size: rows of every pass.
        compiled: whether it runs compiled or as it was written.
    """

    provider: Provider
    precision: Format
    pass_size: int
    compiled: bool

    @property
    def name(self) -> str:
        """The h as a pin names it, without the digest: ``openvino/int8/128/false``."""
        return f"{self.provider}/{self.precision}/{self.pass_size}/{str(self.compiled).lower()}"


def parse_pin(text: str) -> tuple[str, Execution]:
    """Read an h as answers name it: ``sha256:…/openvino/int8/128/false``.

    Returns:
        The digest of the model that it is of, and how it is run.

    Raises:
        ValueError: it is none.
    """
    digest, _, way = text.partition("/")
    if not _DIGEST.fullmatch(digest.strip()):
        raise ValueError(f"{text[:200]!r} is no h; expected {_PIN}")
    try:
        return digest.strip(), parse_execution(way)
    except ValueError as error:
        raise ValueError(f"{text[:200]!r} is no h{error}; expected {_PIN}") from None


def parse_execution(text: str, pass_size: int | None = None) -> Execution:
    """Read how h is run: provider/precision/pass size/compiled.

    Args:
        text: ``openvino/int8/128/false``.
        pass_size: of a text that ends before it; without it a text must have all four parts.

    Raises:
        ValueError: it is no way of running h; says why, as the end of a sentence.
    """
    parts = [part.strip() for part in text.split("/")]
    if pass_size is not None:
        parts += ["", "", str(pass_size), "false"][len(parts) :]
    if len(parts) != 4 or not _PASS_SIZE.fullmatch(parts[2]):
        raise ValueError("")
    provider = next((one for one in PROVIDERS if one == parts[0]), None)
    precision = next((one for one in FORMATS if one == parts[1]), None)
    compiled = {"true": True, "false": False}.get(parts[3])
    if provider is None or precision is None or compiled is None:
        raise ValueError("")
    if (provider, precision) not in WAYS or (compiled and provider != "pytorch"):
        raise ValueError(
            f" that any answer names: {provider} does not run networks in "
            f"{precision}{', compiled' if compiled else ''}"
        )
    return Execution(provider, precision, int(parts[2]), compiled)


@dataclass(frozen=True)
class SmallPass:
    """The passes of a model for pictures that come while few are in flight.

    Attributes:
        pass_size: slots of a pass.
        draws_per_second: fewer than in large passes.
    """

    pass_size: int
    draws_per_second: float


@dataclass(frozen=True)
class Calibration:
    """How a model is run: the number format of h, slots of a pass, and draws per second.

    ``compiled`` says whether h runs compiled, and ``provider`` what runs it. With ``small`` the
    model has smaller passes beside these, run in the same way: another h.
    """

    precision: Format
    pass_size: int
    draws_per_second: float
    compiled: bool = False
    provider: Provider = "pytorch"
    small: SmallPass | None = None

    @property
    def execution(self) -> Execution:
        """The h of its large passes, or of all."""
        return Execution(self.provider, self.precision, self.pass_size, self.compiled)

    @property
    def executions(self) -> list[Execution]:
        """Each h that it is of."""
        if self.small is None:
            return [self.execution]
        return [self.execution, replace(self.execution, pass_size=self.small.pass_size)]

    @property
    def least_speed(self) -> float:
        """The draws per second of the slower passes."""
        small = self.small.draws_per_second if self.small else self.draws_per_second
        return min(self.draws_per_second, small)


class ProviderError(RuntimeError):
    """A provider cannot run a network; says why."""


def ways(
    device: str, provider: Provider | None, precision: Format | None, int8: bool = False
) -> list[tuple[Provider, Format]]:
    """Return the possible ways of running h here, in the order of ``WAYS``.

    Args:
        device: a torch device.
        provider: None for any that is installed.
        precision: None for any.
        int8: whether int8 is among them if no number format is given.

    Raises:
        ProviderError: there is none.
    """
    if reason := obstacle(device, provider, precision):
        raise ProviderError(reason)
    return [
        (by, kind)
        for by, kind in WAYS
        if provider in (None, by)
        and (kind == precision or (precision is None and (int8 or kind != "int8")))
        and not obstacle(device, by, kind)
    ]


def obstacle(device: str, provider: Provider | None, precision: Format | None) -> str:
    """Say why a provider cannot run h in this way; empty if it can.

    Arguments as for :func:`ways`.
    """
    if provider == "pytorch" and precision == "int8":
        return "PyTorch does not run networks in int8 here, but OpenVINO does"
    if provider != "openvino" and precision != "int8":
        return ""
    if find_spec("openvino") is None:
        return "OpenVINO is not installed: install pixeldp[openvino]"
    if device != "cpu":
        return f"OpenVINO runs networks only on CPUs, not on {device}"
    return ""

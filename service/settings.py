"""Settings from the environment (``PIXELDP_…``) and the command line, checked at start."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from models.bundle import ZOO, locate
from models.certification.division import LEAST_DRAWS
from models.certification.stickers import FEWEST, MOST
from models.execution import Execution, Format, Provider, obstacle, parse_pin
from models.images.decoding import MOST_PIXELS
from service.http import address
from service.system import devices
from service.system.environment import PREFIX, Environment

# The most front processes by default.
_MOST_FRONTS = 8
# More workers than any machine needs.
_MOST_WORKERS = 1024


class Settings(BaseSettings):
    """What an operator may choose. Every name is also an environment variable, ``PIXELDP_NAME``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    host: str = Field(
        "127.0.0.1",
        description="The address to listen on, or a name for it; any address except loopback needs "
        "keys. 0.0.0.0 is every IPv4 address, and :: every IPv6 and IPv4 address.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8000, description="The port; 0 chooses a free one and prints it."
    )
    root_path: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*/?$", max_length=200)] = Field(
        "",
        description="The path at which a proxy offers the service, such as /pixeldp, whether "
        "or not the proxy removes it from the requests' paths.",
    )
    models: Annotated[list[Path], Field(min_length=1)] = Field(
        [ZOO / "mnist-cnn"],
        description="Bundles or families to serve: folders, files that end in .family.json, or "
        "names of the zoo, separated by commas. The first answers requests that name no model.",
    )
    default_model: str | None = Field(
        None,
        description="The model that answers requests that name none, as name or name:version "
        "(without a version, the highest one served); by default the first one given at start. "
        "When it is no longer served, no other model takes its place.",
    )
    devices: str = Field(
        "auto",
        description="auto (a worker for each GPU, or else for each processor, within the "
        "container's limit), or a list such as cuda:0,cuda:1 or cpu,cpu.",
    )
    fronts: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None,
        description="The number of processes that speak HTTP, on one port, and share the workers; "
        "by default one for each eight processors within the container's limit.",
    )
    precision: Format | None = Field(
        None, description="The number format of h; by default the fastest on each device."
    )
    provider: Literal["auto", "pytorch", "openvino"] = Field(
        "auto",
        description="What runs networks. auto: OpenVINO on CPUs, if it is installed "
        "(pixeldp[openvino]) and is measured to be faster, or else PyTorch.",
    )
    int8: bool = Field(
        True,
        description="Whether int8 may be chosen where it is fastest and a model's record says that "
        "it loses at most half a point of the certified share.",
    )
    pin: list[str] = Field(
        [],
        description="The only way in which each model may serve, as answers state it: "
        "digest/provider/precision/pass size/compiled, such as "
        "sha256:…/pytorch/float32/128/false. A worker that does not run it is not ready, and a "
        "model without one is not served. By default every way may serve.",
    )
    pass_size: Annotated[int, Field(ge=8, le=16_384)] | None = Field(
        None,
        description="The number of slots in every pass. By default one number or two are measured "
        "at start: the smaller is for pictures that come while few are in flight.",
    )
    compile: bool = Field(
        True,
        description="Whether to compile models in the background, and use the compiled "
        "one if faster.",
    )
    queue: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        1024, description="The number of pictures that may wait for a worker; more are refused."
    )
    queue_bytes: Annotated[int, Field(ge=1, le=2**60)] = Field(
        512 * 2**20,
        description="The bytes that the front process may hold for all clients: requests that it "
        "receives, pictures that wait, and answers that are not read yet (one large request is "
        "always allowed).",
    )
    stall_seconds: Annotated[float, Field(ge=1, le=86_400)] = Field(
        10.0,
        description="A worker is replaced after this long without a sign of life, or without a "
        "pass while it has work (but a pass may take 20 times as long as expected).",
    )
    check_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        60.0,
        description="The time between a worker's self-checks: it certifies a probe picture "
        "with each model, and is replaced if its votes are not as before. 0: none.",
    )
    load_seconds: Annotated[float, Field(ge=1, le=86_400)] = Field(
        300.0, description="The time in which a worker must load its models, even from a slow disk."
    )
    stop_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        0.5,
        description="After a signal to stop, readiness fails at once, but requests are "
        "accepted for this long, so that load balancers notice.",
    )

    repository: Path | None = Field(
        None,
        description="A folder of bundles that may be loaded while the service runs; by "
        "default none.",
    )

    keys: Path | None = Field(
        None,
        description="The file of API keys, made by pixeldp keys add; without it no keys "
        "are needed.",
    )
    rates_redis: str | None = Field(
        None,
        repr=False,  # it may contain a password
        description="Share keys' rates with other services through this Redis "
        "(redis://host:6379/0 or rediss://…); by default each service has its own.",
    )
    allow_keyless: bool = Field(
        False, description="Serve other machines without keys, too, not only on loopback."
    )
    cors_origins: list[str] = Field(
        [],
        description="Other sites whose pages may use the service, as https://name or "
        "http://name:port; * means all. By default none.",
    )
    hosts: list[str] = Field(
        [],
        description="Names by which clients may call a service without keys, besides addresses and "
        "names without a dot. By default none.",
    )

    shrink: bool = Field(
        True,
        description="Whether draw budgets shrink when many pictures wait, before any is "
        "refused, and when a model is too slow to reach its first look by a request's "
        "deadline.",
    )

    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="The confidence η of requests that state none."
    )
    max_draws: Annotated[int, Field(ge=LEAST_DRAWS, le=2**23 - 1)] = Field(
        1000, description="The draw budget of requests that state none."
    )
    # Beyond this the squares of soft scores would not fit their integers.
    max_draws_limit: Annotated[int, Field(ge=LEAST_DRAWS, le=2**23 - 1)] = Field(
        100_000, description="The largest draw budget that a request may state."
    )
    sticker_masks: Annotated[int, Field(ge=FEWEST, le=MOST)] = Field(
        3,
        description="Masks along each side of the input for answers about stickers: with k, a "
        "picture takes up to k²(k² + 1)/2 passes of the network, each with less hidden.",
    )
    timeout_ms: Annotated[int, Field(ge=1000, le=86_400_000)] = Field(
        30_000, description="Milliseconds from arrival to answer, for requests that state none."
    )
    timeout_ms_limit: Annotated[int, Field(ge=1000, le=86_400_000)] = Field(
        600_000, description="The longest time-out that a request may state."
    )

    max_bytes: Annotated[int, Field(ge=1024, le=2**30)] = Field(
        20 * 2**20, description="The largest body that is read, in bytes."
    )
    max_pixels: Annotated[int, Field(ge=1, le=MOST_PIXELS)] = Field(
        25_000_000, description="The largest picture that is decoded, in pixels."
    )
    max_batch: Annotated[int, Field(ge=1, le=4096)] = Field(
        256, description="The most pictures in one request."
    )

    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console at a terminal, otherwise JSON lines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="The lowest level to log. info has a line for each request, except for "
        "probes and for refusals because of load, keys or rate, which only debug shows.",
    )

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        return address.clean(host)

    @field_validator("root_path")
    @classmethod
    def _without_last_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @model_validator(mode="after")
    def _defaults_within_limits(self) -> Self:
        for name in ("max_draws", "timeout_ms"):
            value, limit = getattr(self, name), getattr(self, f"{name}_limit")
            if value > limit:
                upper = PREFIX + name.upper()
                raise ValueError(f"{upper} is {value:,}, above {upper}_LIMIT, which is {limit:,}")
        return self

    @model_validator(mode="after")
    def _provider_is_there(self) -> Self:
        provider, precision = self.wanted_provider, self.precision
        if precision == "int8" and not self.int8:
            raise ValueError(f"{PREFIX}PRECISION is int8, which {PREFIX}INT8=false forbids")
        if provider != "openvino" and precision != "int8":
            return self
        for device in set(self.worker_devices()):
            if reason := obstacle(device, provider, precision):
                named = "PROVIDER is openvino" if provider == "openvino" else "PRECISION is int8"
                raise ValueError(f"{PREFIX}{named}: {reason}")
        return self

    @field_validator("cors_origins")
    @classmethod
    def _sites_are_origins(cls, sites: list[str]) -> list[str]:
        for site in sites:
            parts = urlsplit(site)
            sent = f"{parts.scheme}://{parts.netloc}".lower()
            if site != "*" and (site != sent or parts.scheme not in ("http", "https")):
                raise ValueError(
                    f"{site!r} is not a site; browsers send https://name or http://name:port, in "
                    "lower case and without a path, and * means all"
                )
        return sites

    @field_validator("pin")
    @classmethod
    def _pins_are_ways(cls, given: list[str]) -> list[str]:
        if len(dict(map(parse_pin, given))) < len(given):
            raise ValueError("two of them are for the same model")
        return given

    @field_validator("rates_redis")
    @classmethod
    def _redis_is_a_url(cls, given: str | None) -> str | None:
        if given and not given.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("expected redis://host:6379/0, rediss://… or unix://…")
        return given

    @field_validator("models")
    @classmethod
    def _located(cls, models: list[Path]) -> list[Path]:
        return [locate(model) for model in models]

    @field_validator("devices")
    @classmethod
    def _known_devices(cls, given: str) -> str:
        names = [name.strip() for name in given.split(",")]
        known = all(devices.is_device(name) for name in names if name)
        if given != "auto" and not (known and any(names) and len(names) <= _MOST_WORKERS):
            raise ValueError("expected auto or a list such as cpu,cpu or cuda:0,cuda:1")
        return given

    @field_validator("repository")
    @classmethod
    def _existing_folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError("expected a folder that exists")
        return folder

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of settings: the command line first, then the environment."""
        return init_settings, Environment(settings_cls)

    @property
    def wanted_provider(self) -> Provider | None:
        """What alone may run networks; None for what measures best."""
        return None if self.provider == "auto" else self.provider

    @property
    def pins(self) -> dict[str, Execution]:
        """The only way in which each model may serve, by its digest."""
        return dict(map(parse_pin, self.pin))

    @property
    def wanted_fronts(self) -> int:
        """The number of front processes to start."""
        return self.fronts or max(1, min(devices.processors() // 8, _MOST_FRONTS))

    def worker_devices(self) -> list[str]:
        """Return the device of each worker to start."""
        if self.devices == "auto":
            return devices.automatic()
        return [device.strip() for device in self.devices.split(",") if device.strip()]


def explain(error: ValidationError, options: set[str]) -> str:
    """Say for each wrong setting, in one sentence, its value and what is allowed.

    Args:
        error: of :class:`Settings`.
        options: the names of the settings given on the command line.
    """
    return "; ".join(_sentence(dict(one), options) for one in error.errors(include_url=False))


def _sentence(error: dict[str, Any], options: set[str]) -> str:
    reason = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(reason)
    name = str(error["loc"][0])
    if name not in Settings.model_fields:
        return f"there is no setting {name}"
    shown = f"--{name.replace('_', '-')}" if name in options else PREFIX + name.upper()
    if error["type"] != "value_error" and allowed(name):
        reason = f"expected {allowed(name)}"
    return f"{shown} is {_shown(error['input'])}: {reason}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def allowed(name: str) -> str:
    """Say which values a setting may have; empty if its description says it."""
    schema = Settings.model_json_schema()["properties"][name]
    kinds: list[dict[str, Any]] = schema.get("anyOf", [schema])
    kind = next(one for one in kinds if one.get("type") != "null")
    if "enum" in kind:
        return f"one of {', '.join(kind['enum'])}"
    match kind["type"]:
        case "boolean":
            return "true or false"
        case "integer":
            return f"a whole number {_range(kind)}"
        case "number":
            return f"a number {_range(kind)}"
        case "array" if kind.get("minItems"):
            return "at least one"
    return ""


def _range(kind: dict[str, Any]) -> str:
    """Say the bounds of a number; every setting has both."""
    least, above = kind.get("minimum"), kind.get("exclusiveMinimum")
    most, below = kind.get("maximum"), kind.get("exclusiveMaximum")
    lower = f"above {above:,}" if least is None else f"from {least:,}"
    upper = f"below {below:,}" if most is None else f"to {most:,}"
    return f"{lower} {upper}" if most is not None and least is not None else f"{lower} and {upper}"

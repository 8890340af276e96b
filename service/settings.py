"""Settings, from the environment (``PIXELDP_…``) and the command line, checked at start."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.bundle import ZOO
from models.certification.division import LEAST_DRAWS
from models.precision import Precision


class Settings(BaseSettings):
    """What an operator may choose. Every name is also an environment variable, ``PIXELDP_NAME``."""

    model_config = SettingsConfigDict(env_prefix="PIXELDP_", extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    models: Annotated[list[Path], Field(min_length=1)] = [ZOO / "mnist-cnn"]
    devices: str = Field(
        "auto",
        description="auto (each GPU, else one worker a CPU core), or a list such as cuda:0,cuda:1 "
        "or cpu,cpu",
    )
    precision: Precision | None = Field(None, description="The fastest here, if not given.")
    pass_size: Annotated[int, Field(ge=8, le=65536)] | None = Field(
        None, description="Slots of a forward pass; measured at start, if not given."
    )
    compile: bool = Field(
        True, description="Whether to compile models in the background and use what is faster."
    )
    queue: Annotated[int, Field(ge=1)] = Field(
        1024, description="Pictures that may wait for a worker; more are refused."
    )
    queue_bytes: Annotated[int, Field(ge=1)] = Field(
        512 * 2**20,
        description="Bytes that decoded pictures may take, waiting and in flight; one always may.",
    )
    stall_seconds: Annotated[float, Field(ge=1)] = Field(
        10.0,
        description="A worker that shows no sign of life for so long is replaced, and one that "
        "makes no pass while it has work (but a pass may take 20 times as long as it should).",
    )
    stop_delay_seconds: Annotated[float, Field(ge=0)] = Field(
        0.5,
        description="After a signal to stop, readiness fails at once, but requests are taken for "
        "so long, until balancers have seen it.",
    )

    repository: Path | None = Field(
        None, description="A folder of bundles that may be loaded while serving; by default none."
    )

    keys: Path | None = Field(
        None, description="The file of API keys, made by pixeldp keys add; none: no keys are asked."
    )
    allow_keyless: bool = Field(
        False, description="Serve without keys to other machines, too, not only on loopback."
    )
    cors_origins: list[str] = Field(
        [], description="Other sites whose pages may use the service; by default none."
    )

    shrink: bool = Field(
        True, description="Whether draw budgets shrink when many pictures wait, before any is shed."
    )

    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    max_draws: Annotated[int, Field(ge=LEAST_DRAWS)] = 1000
    # Beyond this the squares of soft scores would not fit their integers.
    max_draws_limit: Annotated[int, Field(ge=LEAST_DRAWS, lt=2**23)] = 100_000
    timeout_ms: Annotated[int, Field(ge=1)] = 30_000
    timeout_ms_limit: Annotated[int, Field(ge=1)] = 600_000

    max_bytes: Annotated[int, Field(ge=1)] = 20 * 2**20
    max_pixels: Annotated[int, Field(ge=1)] = 25_000_000
    max_batch: Annotated[int, Field(ge=1)] = 256

    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _defaults_within_limits(self) -> Self:
        for name in ("max_draws", "timeout_ms"):
            value, limit = getattr(self, name), getattr(self, f"{name}_limit")
            if value > limit:
                raise ValueError(f"{name} is {value}, above {name}_limit, {limit}")
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def worker_devices(self) -> list[str]:
        """Return the device of each worker to start.

        Looks for GPUs without importing torch: the front process does without it.
        """
        if self.devices != "auto":
            return [device.strip() for device in self.devices.split(",") if device.strip()]
        gpus = _visible_gpus()
        return [f"cuda:{i}" for i in range(gpus)] or ["cpu"] * len(os.sched_getaffinity(0))


def _visible_gpus() -> int:
    """Count the NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() and part.strip() != "-1"])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))

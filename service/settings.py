"""Settings, from the environment (``PIXELDP_…``) and the command line, checked at start."""

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
    pass_size: Annotated[int, Field(ge=32, le=65536)] | None = Field(
        None, description="Slots of a forward pass; measured at start, if not given."
    )
    compile: bool = Field(
        True, description="Whether to compile models in the background and use what is faster."
    )
    queue: Annotated[int, Field(ge=1)] = 1024

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

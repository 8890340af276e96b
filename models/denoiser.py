"""Denoisers: bundles of their own, without a classifier and without labels.

``denoiser.json`` describes one, and ``weights.safetensors`` has its weights. A denoiser alone
answers nothing, so it cannot be served: ``pixeldp import --denoiser`` puts it in front of a
classifier. It takes pictures of any size from ``LEAST_SIDE`` up.

Like ``models.bundle``, this module does not import torch.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from models.bundle import (
    DENOISER,
    WEIGHTS,
    Architecture,
    Name,
    NoiseSpec,
    Part,
    Version,
    WeightsSpec,
    read_file,
    read_json,
    validate,
)
from models.files import write_whole

FORMAT_VERSION: Literal[1] = 1
LEAST_SIDE = 32


class DenoiserManifest(Part):
    """Everything in ``denoiser.json``.

    ``channels`` are those of the pictures; ``noise`` is what it was trained to remove.
    """

    format_version: Literal[1] = FORMAT_VERSION
    kind: Literal["denoiser"] = "denoiser"
    name: Name
    version: Version = "1"
    architecture: Architecture
    channels: Annotated[int, Field(ge=1, le=4)]
    noise: NoiseSpec
    training: dict[str, Any] = Field(default_factory=dict)
    weights: WeightsSpec


@dataclass(frozen=True)
class Denoiser:
    """A denoiser whose description is well formed."""

    path: Path
    manifest: DenoiserManifest
    digest: str

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.path / WEIGHTS


def describe_denoiser(path: Path) -> Denoiser:
    """Read the description of the denoiser in the folder ``path``, but not its weights.

    Raises:
        BundleError: the description is missing, malformed or of an unknown format version.
    """
    document, raw = read_json(path / DENOISER)
    manifest = validate(path / DENOISER, DenoiserManifest, document)
    return Denoiser(path, manifest, f"sha256:{hashlib.sha256(raw).hexdigest()}")


def read_denoiser(path: Path) -> Denoiser:
    """Read and check the denoiser in the folder ``path``, including its weights.

    Raises:
        BundleError: as for :func:`describe_denoiser`, or the weights are not those that the
            description was written for.
    """
    denoiser = describe_denoiser(path)
    read_file(denoiser.weights, denoiser.manifest.weights)
    return denoiser


def write_denoiser(path: Path, manifest: DenoiserManifest) -> None:
    """Write ``denoiser.json`` into the folder ``path``, whole or not at all."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    write_whole(path / DENOISER, text.encode())

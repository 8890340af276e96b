"""g and h of a bundle as files that other tools read: ONNX, or programs of ``torch.export``.

The files compute in float32 what the bundle's network computes. The noise between them is not in
them: their metadata state it, with everything that a certificate needs. A certificate holds for
whoever draws that noise in real numbers; what rounding and a generator's law add (ρ and τ) is the
matter of the program that draws, as :mod:`models.noise` is here.
"""

import json
import tempfile
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from models.bundle import Bundle
from models.certification.names import ADDITIVE
from models.network import load_network

Target = Literal["onnx", "pt2"]
TARGETS: tuple[Target, ...] = get_args(Target)
# The member of the metadata that states the terms.
TERMS = "pixeldp"


def export_bundle(bundle: Bundle, out: Path, target: Target) -> tuple[Path, ...]:
    """Write g and h.

    Args:
        bundle: with added noise: split noise and intervals add none to features.
        out: the folder, which is made; it must hold no such files.
        target: the kind of files.

    Returns:
        The files, of g and of h.

    Raises:
        ValueError: they cannot be written, or a package is missing.
    """
    files = tuple(out / f"{part}.{target}" for part in "gh")
    _check(bundle, files, target)
    network = load_network(bundle)
    pictures = torch.zeros(2, *bundle.manifest.input.shape)
    with torch.no_grad():
        features = torch.zeros_like(network.encode(pictures))
    stated = {TERMS: json.dumps(terms(bundle)), "labels": json.dumps(bundle.manifest.labels)}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export.") as folder:
        written = [Path(folder, file.name) for file in files]
        parts = ((network.encoder, pictures), (network.classifier, features))
        for (part, given), file in zip(parts, written, strict=True):
            try:
                _write(part, given, file, target, stated)
            except Exception as error:  # whatever exporters raise for a network
                reason = " ".join(str(error).split())[:300]
                raise ValueError(
                    f"{bundle.path}: {file.stem} cannot be written as {target}: "
                    f"{type(error).__name__}: {reason}"
                ) from None
        for one, file in zip(written, files, strict=True):
            one.replace(file)
    return files


def terms(bundle: Bundle) -> dict[str, Any]:
    """Return what a certificate about the files needs, besides draws: noise, Δ, and the labels."""
    manifest = bundle.manifest
    kept = {"name", "version", "input", "labels", "noise", "sensitivity", "scoring"}
    return {**manifest.model_dump(mode="json", include=kept), "digest": bundle.digest}


def _check(bundle: Bundle, files: tuple[Path, ...], target: Target) -> None:
    mechanism = bundle.manifest.noise.mechanism
    if mechanism not in ADDITIVE:
        raise ValueError(
            f"{bundle.path} has the mechanism {mechanism}, which adds no noise to features; "
            "expected a bundle with added noise"
        )
    there = [file for file in files if file.exists()]
    if there:
        raise ValueError(f"{there[0]} exists; choose another --out")
    if target == "onnx" and find_spec("onnxscript") is None:
        raise ValueError("ONNX files need more packages: pip install 'pixeldp[formats]'")


def _write(
    part: nn.Module, given: torch.Tensor, file: Path, target: Target, stated: Mapping[str, str]
) -> None:
    batch = {0: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of exporters about themselves
        program = torch.export.export(part.eval(), (given,), dynamic_shapes=(batch,))
        if target == "pt2":
            torch.export.save(program, file, extra_files=dict(stated))
            return
        made = torch.onnx.export(
            program, input_names=["input"], output_names=["output"], verbose=False
        )
        assert made is not None
        made.model.metadata_props.update(stated)
        made.save(file)

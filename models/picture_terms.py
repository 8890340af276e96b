"""The terms of a model's certificates for a picture, from the model's description."""

from math import prod

from models.bundle import Manifest
from models.certification.terms import Terms
from models.preprocessing import Preprocessing


def assemble_terms(manifest: Manifest, preparation: Preprocessing | None = None) -> Terms:
    """Return what turns bounds into sizes, except for what only a loaded model knows.

    ``Predictor.encode`` adds that: τ, ρ and the further bounds on how far g moves.

    Args:
        manifest: of the model.
        preparation: of the picture; None for a picture that is already the model's input.
    """
    norm, values, factor = manifest.sensitivity.input_norm, prod(manifest.input.shape), 1.0
    if preparation:
        values, factor = preparation.values, preparation.sensitivity(norm, norm)
    return Terms(
        mechanism=manifest.noise.mechanism,
        scale=manifest.noise.scale,
        sensitivity=manifest.sensitivity.value * factor,
        norm=norm,
        values=values,
    )

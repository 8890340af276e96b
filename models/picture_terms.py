"""The terms of a model's certificates for a picture, from the model's description."""

from math import prod

from models.bundle import Manifest
from models.certification.kinds import terms_kind
from models.certification.names import CONTINUOUS, Norm
from models.certification.norms import required
from models.certification.terms import Terms
from models.preprocessing import CannotCertify, Preprocessing


def assemble_terms(manifest: Manifest, preparation: Preprocessing | None = None) -> Terms:
    """Return what turns bounds into sizes, except for what only a loaded model knows.

    ``Predictor.encode`` adds that: τ, ρ and the further bounds on how far g moves.

    Args:
        manifest: of the model.
        preparation: of the picture; None for a picture that is already the model's input.

    Raises:
        CannotCertify: the model's noise does not allow that preparation.
    """
    norm, values, factor = manifest.sensitivity.input_norm, prod(manifest.input.shape), 1.0
    if preparation:
        values, factor = preparation.values, preparation.sensitivity(norm, norm)
    mechanism = manifest.noise.mechanism
    if mechanism not in CONTINUOUS and preparation and not preparation.selects:
        by = (
            "intervals, which take"
            if mechanism == "interval"
            else f"{mechanism} noise, which takes"
        )
        raise CannotCertify(
            f"{manifest.name} certifies by {by} pixels as they are: send 8 "
            f"bits per value, {'RGB' if manifest.input.channels == 3 else 'grey'}, and "
            f"{manifest.input.width}x{manifest.input.height} pixels, or more along one side, which "
            "is cropped"
        )
    return terms_kind(manifest.noise.mechanism)(
        mechanism=manifest.noise.mechanism,
        scale=manifest.noise.scale,
        sensitivity=manifest.sensitivity.value * factor,
        norm=norm,
        values=values,
    )


def target_at_input(target: float, norm: Norm, own: Norm, preparation: Preprocessing) -> float:
    """Return the largest size, at a model's input, of a change of the target's size.

    Args:
        target: a size of a change of the picture as sent.
        norm: its norm.
        own: the model's norm, that of the result.
        preparation: the way from the picture to the input.
    """
    converted = required(target, own, norm, preparation.values)
    return converted * preparation.sensitivity(own, own)

"""The noise options of ``pixeldp train`` and ``pixeldp import``."""

from typing import TYPE_CHECKING, Annotated

import typer

from models.certification.names import Mechanism, Norm

if TYPE_CHECKING:
    from models.bundle import ConstructionBound, Manifest
    from models.denoiser import DenoiserManifest

MechanismOption = Annotated[Mechanism | None, typer.Option("--mechanism", help="The noise law.")]
Scale = Annotated[
    float | None, typer.Option(help="The scale of the noise: σ, b or λ, in units of g's output.")
]
Bound = Annotated[
    float | None,
    typer.Option(
        "--construction-bound", help="The paper's way to state the scale: the size L, with ε and δ."
    ),
]
Epsilon = Annotated[float | None, typer.Option(help="ε of the construction bound; by default 1.")]
Delta = Annotated[float | None, typer.Option(help="δ of the construction bound; by default 0.05.")]
NormOption = Annotated[
    Norm | None,
    typer.Option("--norm", help="The norm of attacks; by default that of a new mechanism."),
]


def construction_bound(
    size: float | None, epsilon: float | None, delta: float | None, mechanism: Mechanism
) -> "ConstructionBound | None":
    """Return the construction bound of the options, if there is one.

    Raises:
        ValueError: ε or δ without it, δ with Laplace, or numbers out of range.
    """
    from pydantic import ValidationError

    from models.bundle import ConstructionBound
    from models.certification.certificates import PURE

    if size is None:
        if epsilon is not None or delta is not None:
            raise ValueError(
                "--epsilon and --delta belong to --construction-bound, which is missing"
            )
        return None
    if mechanism != "gaussian" and mechanism not in PURE:
        raise ValueError(f"{mechanism} noise has no construction bound; give --scale")
    if mechanism != "gaussian" and delta is not None:
        raise ValueError(f"{mechanism.capitalize()} noise has no --delta")
    # The values that Lécuyer et al. 2019 (section IV) use throughout.
    usual = 0.05 if mechanism == "gaussian" else 0.0
    try:
        return ConstructionBound(
            size=size,
            epsilon=1.0 if epsilon is None else epsilon,
            delta=usual if delta is None else delta,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"construction bound: {first['loc'][0]}: {first['msg']}") from None


def describe_noise(manifest: "Manifest | DenoiserManifest") -> str:
    """Describe the noise of a new bundle, and the sensitivity of the layers before it, if any."""
    noise, spec = manifest.noise, getattr(manifest, "sensitivity", None)
    said = f"{noise.mechanism} noise of scale {noise.scale:g} ({noise.placement})"
    if spec is None:
        return f"a denoiser for {said}"
    return (
        f"{said}, sensitivity {spec.value:g} from {spec.input_norm} to {spec.noise_norm} "
        f"({spec.method})"
    )

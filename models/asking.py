"""A question to a model: what is asked, and what its noise decides."""

from models.bundle import Manifest
from models.certification.norms import check_norm
from models.certification.question import Question


def ask(
    manifest: Manifest,
    confidence: float | None,
    max_draws: int,
    target: float | None = None,
    norm: str | None = None,
    *,
    usual: float,
) -> Question:
    """Return a question.

    Args:
        manifest: of the model.
        confidence: η; None for the usual one, which is 1 if the noise has finitely many draws.
        max_draws: the draw budget; noise with finitely many draws needs them all.
        target: the size needed, or None.
        norm: of sizes; the model's own by default.
        usual: the confidence if none is asked for and the draws are random.

    Raises:
        ValueError: a value is not allowed, or not for this model.
    """
    draws = manifest.noise.draws
    if confidence is None:
        confidence = usual if draws is None else 1.0
    if confidence == 1 and draws is None:
        raise ValueError(
            f"confidence is 1, but {manifest.name} estimates expected scores from random draws, "
            "which is never certain; expected a number below 1, such as 0.999999"
        )
    sizes_in = check_norm(norm or manifest.sensitivity.input_norm)
    return Question(confidence, draws or max_draws, target, sizes_in)

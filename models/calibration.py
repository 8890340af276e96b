"""How a model runs fastest on the machine at hand, found by measuring at start.

The certificate takes h to be any function, so a lower precision costs no soundness as long as a
picture meets the same h in all its draws; one loaded model never changes it.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from models.bundle import Bundle
from models.precision import PRECISIONS, Calibration, Precision
from models.predictor import Predictor

# At which the number formats are compared, unless that takes too long.
TYPICAL_PASS = 256
# Answers leave between passes: with a large network they must not wait longer than so many seconds.
LONGEST_PASS = 1.0
LEAST_PASS = 8
PASS_SIZES: dict[str, tuple[int, ...]] = {
    "cpu": (128, 256, 512),
    "cuda": (256, 512, 1024, 2048, 4096),
}
# The smallest pass that makes this share of the best speed: beyond it only waiting times grow.
KNEE = 0.95
SECONDS_A_TRIAL = 0.06
# How much faster a compiled network must be to be changed to.
WORTHWHILE = 1.05


def calibrate(
    bundle: Bundle, device: str, precision: Precision | None, pass_size: int | None
) -> tuple[Predictor, Calibration]:
    """Load a model in the way that draws fastest.

    Args:
        bundle: the model.
        device: a torch device.
        precision: None to measure which is fastest.
        pass_size: None to measure which is enough.

    Raises:
        BundleError: the bundle cannot be trusted.
        RuntimeError: the network runs in none of the formats.
    """
    formats: Sequence[Precision] = (precision,) if precision else PRECISIONS
    predictors = [Predictor(bundle, pass_size or LEAST_PASS, device, one) for one in formats]
    trial = pass_size or _bearable(predictors[0])
    measured: list[tuple[float, Predictor]] = []
    for predictor in predictors:
        predictor.pass_size = trial
        try:
            measured.append((predictor.measure(SECONDS_A_TRIAL), predictor))
        except RuntimeError:
            # Imported networks may do sums in float32 whatever their weights are in.
            if predictor is predictors[-1] and not measured:
                raise
    speed, predictor = max(measured, key=lambda pair: pair[0])
    if pass_size is None and trial == TYPICAL_PASS:
        speed = _find_knee(predictor)
    return predictor, Calibration(predictor.precision, predictor.pass_size, round(speed, 1))


def _bearable(predictor: Predictor) -> int:
    """Return the size of pass, at most the typical one, that does not take too long."""
    speed = predictor.measure(SECONDS_A_TRIAL)
    size = TYPICAL_PASS
    while size > LEAST_PASS and size > speed * LONGEST_PASS:
        size //= 2
    return size


def _find_knee(predictor: Predictor) -> float:
    """Set the smallest pass size that is nearly as fast as any; return its speed."""
    found: dict[int, float] = {}
    for size in PASS_SIZES["cuda" if predictor.device.startswith("cuda") else "cpu"]:
        predictor.pass_size = size
        try:
            found[size] = predictor.measure(SECONDS_A_TRIAL)
        except torch.OutOfMemoryError:
            break
    enough = KNEE * max(found.values())
    predictor.pass_size = next(size for size, speed in found.items() if speed >= enough)
    return found[predictor.pass_size]


def compare(
    predictor: Predictor, compiled: Predictor, calibration: Calibration
) -> Calibration | None:
    """Measure a model beside its compiled self, in turns.

    Returns:
        The calibration of the compiled one if it is worth the change, else None.
    """
    eager = max(predictor.measure(SECONDS_A_TRIAL) for _ in range(2))
    speed = max(compiled.measure(SECONDS_A_TRIAL) for _ in range(2))
    if speed < WORTHWHILE * eager:
        return None
    return replace(calibration, draws_per_second=round(speed, 1), compiled=True)

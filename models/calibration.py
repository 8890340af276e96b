"""How a model runs fastest on the machine at hand, found by measuring at start.

The certificate takes h to be any function, so a lower precision costs no soundness as long as a
picture meets the same h in all its draws; one loaded model never changes it.
"""

from collections.abc import Sequence
from dataclasses import replace

from models.bundle import Bundle
from models.precision import PRECISIONS, Calibration, Precision
from models.predictor import Predictor

# At which the number formats are compared.
TYPICAL_PASS = 256
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
    """
    formats: Sequence[Precision] = (precision,) if precision else PRECISIONS
    predictors = [Predictor(bundle, pass_size or TYPICAL_PASS, device, one) for one in formats]
    speeds = [predictor.measure(SECONDS_A_TRIAL) for predictor in predictors]
    speed, predictor = max(zip(speeds, predictors, strict=True), key=lambda pair: pair[0])
    if pass_size is None:
        speed = _find_knee(predictor)
    return predictor, Calibration(predictor.precision, predictor.pass_size, round(speed, 1))


def _find_knee(predictor: Predictor) -> float:
    """Set the smallest pass size that is nearly as fast as any; return its speed."""
    found: dict[int, float] = {}
    for size in PASS_SIZES["cuda" if predictor.device.startswith("cuda") else "cpu"]:
        predictor.pass_size = size
        found[size] = predictor.measure(SECONDS_A_TRIAL)
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

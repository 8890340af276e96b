"""Experiments have a short form, for every run of the tests, and a long one."""

import os
from pathlib import Path

from models.bundle import Bundle
from models.calibration import calibrate
from models.loaded import load_model
from models.predictor import Predictor

# ``make soundness`` sets these.
LONG = os.environ.get("PIXELDP_SOUNDNESS") == "long"
# Draws for each picture's true expected scores in the long form.
TRUTH = int(os.environ.get("PIXELDP_SOUNDNESS_DRAWS", "1000000"))
# How many pictures to attack in the whole zoo.
ATTACKED = int(os.environ.get("PIXELDP_SOUNDNESS_ATTACKED", "10000" if LONG else "60"))
# The folder of named data sets, if there is one.
DATA = Path(os.environ["PIXELDP_DATA"]) if os.environ.get("PIXELDP_DATA") else None


def fastest(bundle: Path | Bundle, slots: int) -> Predictor:
    """Load a model in the number format that draws fastest here.

    No experiment depends on which it is: certificates hold for any function h.
    """
    predictor, _ = calibrate(load_model(bundle), "cpu", None, slots)
    return predictor

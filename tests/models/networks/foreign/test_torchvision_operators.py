import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

FRESH = {
    "torchvision works once they are declared, and predicting does not import it": """
import sys
import models.predictor
assert "torchvision" not in sys.modules
from models.networks.foreign.torchvision_operators import declare_missing_operators
first = declare_missing_operators()
import torchvision
from torchvision.transforms import v2
torchvision.models.resnet18()
assert declare_missing_operators() is first
""",
    "operators that exist are left alone": """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from models.networks.foreign.torchvision_operators import declare_missing_operators
assert declare_missing_operators() is None
""",
}


@pytest.mark.parametrize("program", FRESH.values(), ids=FRESH.keys())
def test_in_a_fresh_interpreter(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)

"""PixelDP models: what they are, how they are trained, and what their predictions are worth."""

import os

# h must round a row in the same way at every place of a pass. Intel's MKL promises this of matrix
# products in its strict mode only; without it a layer with two or three outputs differs by place.
# MKL reads this when it is first used.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

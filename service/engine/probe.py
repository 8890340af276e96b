"""The probe picture: a worker that certifies it is ready, one that only says so is not.

It is for nobody: no client waits for it, no key is charged for it, and no answer is counted.
"""

import time

from models.bundle import Bundle
from models.certification.division import LEAST_DRAWS as DRAWS
from service.engine import messages

# A worker that never answers it is found wedged.
SECONDS = 3600.0


def probe(number: int, model: int, bundle: Bundle) -> tuple[messages.Admit, bytes]:
    """Return what asks for a certificate of a mid-grey picture, as for any other, and its pixels.

    Args:
        number: of the picture.
        model: of the model.
        bundle: the model.
    """
    channels, height, width = bundle.manifest.input.shape
    message = messages.Admit(
        id=number,
        model=model,
        width=width,
        height=height,
        channels=channels,
        bits=8,
        confidence=0.95,
        max_draws=DRAWS,
        target=None,
        norm=bundle.manifest.sensitivity.input_norm,
        scores=1,
        deadline=time.monotonic() + SECONDS,
        high=False,  # few draws are soon made; and no client of high priority waits for them
        progress=False,
    )
    return message, b"\x80" * (width * height * channels)

"""The probe picture: a worker is ready once it has certified it, not when it says so.

It belongs to no client: nobody waits for it, no key is charged, and no answer is counted.
"""

import time

from models.bundle import Bundle
from models.certification.division import LEAST_DRAWS as DRAWS
from service.engine import messages

# A worker that never answers it is found to be wedged before that.
SECONDS = 3600.0


def probe(number: int, model: int, bundle: Bundle, pass_size: int) -> tuple[messages.Admit, bytes]:
    """Return the message that asks to certify a mid-grey picture, like any other, and its pixels.

    Args:
        number: of the picture.
        model: of the model.
        bundle: the model.
        pass_size: of the h that is to certify it.
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
        high=False,  # its few draws are made soon, and must not delay clients of high priority
        progress=False,
        pass_size=pass_size,
    )
    return message, b"\x80" * (width * height * channels)

"""The proof of a device: does it draw the noise that certificates assume, fresh for each pass?

Before a model serves, its device must draw, by fixed keys, the same noise as the processor does in
another way, bit for bit; and each pass must be of its own key. With the trial
(:mod:`models.trial`), which shows that rows do not see each other, this is what certificates need
of a device. A device, a driver or a library that computes anything else is found here, and not by
wrong answers.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from models.certification.names import Scoring
from models.certification.tally import make_draws
from models.device import Device, DeviceError, Resident, Submitted
from models.networks.interval import IntervalNetwork
from models.noise import Features

# Nothing that anybody is told rests on these draws.
KEYS = bytes(range(32)), bytes(range(255, 223, -1))
# About this many coordinates of noise are compared, in at least two rows.
COORDINATES = 2**15


def prove_noise(resident: Resident, pictures: Sequence[Features], step: float) -> None:
    """Compare a device's noise with the reference.

    Args:
        resident: the model on the device.
        pictures: features, all on the grid or all between its points.
        step: γ.

    Raises:
        DeviceError: they differ.
    """
    count = max(COORDINATES // len(pictures[0].steps), 2)
    rows = np.arange(count, dtype=np.intp) % len(pictures)
    for key in KEYS:
        drawn = resident.noisy(pictures, rows, key).cpu().reshape(count, -1)
        expected = torch.from_numpy(resident.reference(pictures, rows, key)).to(torch.float32)
        wrong = int((drawn != expected.mul_(step)).sum())
        if wrong:
            raise DeviceError(
                f"it draws other noise than it should, in {wrong} of {drawn.numel()} coordinates"
            )


def prove_products(on: Device, network: IntervalNetwork, rows: int) -> None:
    """Show that products of matrices are true ones, on which the bounds of intervals rest.

    Args:
        on: the device.
        network: h there.
        rows: of a pass.

    Raises:
        DeviceError: they are rounded further, or are sums of other terms.
    """
    if not on.call(partial(network.try_products, rows)):
        raise DeviceError(
            "its products of float32 matrices are not those that intervals assume: it computes in "
            "a lower format or by a fast algorithm"
        )


def prove_passes(
    resident: Resident, pictures: Sequence[Features], rows: NDArray[np.intp], scoring: Scoring
) -> None:
    """Make one pass after another, each by a key of its own.

    Args:
        resident: the model on the device.
        pictures: features.
        rows: [rows], the picture of each row of a pass.
        scoring: ``votes`` or ``softmax``.

    Raises:
        DeviceError: a pass is not by its key, or its draws are not what h makes of that noise.
    """
    passes = [Submitted(resident.submit(pictures, rows, key), key) for key in KEYS]
    _, last = (one.votes() for one in passes)
    number = passes[-1].handle.number
    logits = resident.logits(resident.noisy(pictures, rows, KEYS[-1], number))
    expected = make_draws(logits.numpy(), scoring)
    if not np.array_equal(last, expected):
        raise DeviceError("the draws of a pass are not those of the noise by its key")

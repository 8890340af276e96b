"""Attacked pictures as an attacker would send them: pixels of 8 or 16 bits, within a given size."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.certification.arrays import Floats, Integers
from models.certification.names import Norm
from models.evaluation.asked import AttackName
from models.evaluation.attacks import ATTACKS, LogScores
from models.evaluation.tools import autoattack
from models.preprocessing import DEPTHS, Pixels

_METHODS = {**ATTACKS, "autoattack": autoattack}
# float32 may add far less to the length of a change.
_SLACK = 1e-5


@dataclass(frozen=True)
class Attack:
    """A method of attack, and its effort."""

    name: AttackName
    norm: Norm
    steps: int


def alter(
    attack: Attack,
    scores: LogScores,
    images: NDArray[np.uint8],
    labels: Integers,
    sizes: Floats,
    *,
    device: str = "cpu",
    batch: int = 32,
    bits: int = 16,
) -> Iterator[Pixels]:
    """Attack pictures.

    Args:
        attack: how to attack.
        scores: the function to attack, on ``device``.
        images: [N, height, width, channels].
        labels: [N], the labels to move away from.
        sizes: [N], the largest change of each picture, in the attack's norm.
        device: a torch device.
        batch: the number of pictures that are attacked at a time.
        bits: of each value of the altered pictures, 8 or 16.

    Yields:
        The altered pictures [up to batch, height, width, channels], batch by batch. Each change, of
        pixel values scaled to [0, 1], is within its size.
    """
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        clean = torch.from_numpy(images[part]).permute(0, 3, 1, 2).contiguous().float() / 255
        changed = _METHODS[attack.name](
            scores,
            clean.to(device),
            torch.from_numpy(labels[part]).to(device),
            torch.from_numpy(sizes[part] * (1 - _SLACK)).to(device),
            attack.norm,
            attack.steps,
        )
        change = (changed.cpu().double() - clean.double()).permute(0, 2, 3, 1).numpy()
        # Rounded towards 0, so that no change grows.
        most = 2**bits - 1  # a multiple of 255: 65535 = 257·255
        steps = np.trunc(change * most).astype(np.int64)
        pixels = images[part].astype(np.int64) * (most // 255) + steps
        yield np.clip(pixels, 0, most).astype(DEPTHS[bits])

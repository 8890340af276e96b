"""The noise of ``models.noise``, drawn on the device that runs h.

A GPU runs a small h faster than a CPU can draw its noise. Here the device makes the 16 bits that
select the noise of a coordinate, and looks them up in the same tables. Only the few per cent that
these bits do not decide are settled by the CPU, with the same code. The bits are the keystream of
ChaCha20 (RFC 8439), which needs only sums, shifts and exclusive ors of 32-bit integers, so that
every device makes the same bits.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray
from torch import Tensor

from models.noise import SUBSTEPS, UNSURE, Features, GridNoise, Keystream

_CONSTANTS = b"expand 32-byte k"
_DOUBLE_ROUNDS = 10
# The number of 16-bit words in a block.
_BLOCK = 32


def chacha20_words(key: bytes, count: int, device: str) -> Tensor:
    """Return ``count`` words of 16 uniform bits, int32 [count].

    They are the keystream of ChaCha20 with the nonce 0, from block 0 on, in the RFC's order of
    bytes, two bytes per word, the lower one first.

    Args:
        key: 32 secret bytes, never used before.
        count: at most 2³⁷, the limit of the 32-bit block counter.
        device: a torch device.
    """
    blocks = -(-count // _BLOCK)
    if blocks > 2**32:
        raise ValueError(f"a key makes {2**32 * _BLOCK:,} words, not {count:,}")
    # Four rows of four words each, for all blocks together: [4, blocks] int32.
    fixed = torch.from_numpy(np.frombuffer(_CONSTANTS + key, "<i4").astype(np.int32)).to(device)
    a, b, c = (row[:, None].expand(4, blocks) for row in fixed.reshape(3, 4))
    d = torch.zeros(4, blocks, dtype=torch.int32, device=device)
    d[0] = torch.arange(blocks, device=device).to(torch.int32)  # modulo 2³², as the RFC's
    start = torch.stack([a, b, c, d])
    for _ in range(_DOUBLE_ROUNDS):
        a, b, c, d = _quarter_rounds(a, b, c, d)
        # Now along the diagonals.
        a, b, c, d = _quarter_rounds(a, b.roll(-1, 0), c.roll(-2, 0), d.roll(-3, 0))
        b, c, d = b.roll(1, 0), c.roll(2, 0), d.roll(3, 0)
    words = (torch.stack([a, b, c, d]) + start).reshape(16, blocks).T
    halves = torch.stack([words & 0xFFFF, words >> 16 & 0xFFFF], dim=-1)
    return halves.reshape(-1)[:count]


def _quarter_rounds(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
    """RFC 8439, section 2.1, on four columns at a time."""
    a = a + b
    d = _rotated(d ^ a, 16)
    c = c + d
    b = _rotated(b ^ c, 12)
    a = a + b
    d = _rotated(d ^ a, 8)
    c = c + d
    b = _rotated(b ^ c, 7)
    return a, b, c, d


def _rotated(x: Tensor, bits: int) -> Tensor:
    # Shifting right repeats the sign bit, which is masked out.
    return (x << bits) | ((x >> (32 - bits)) & ((1 << bits) - 1))


class DeviceNoise:
    """Draws the noise of a :class:`GridNoise` on a device.

    Args:
        noise: the law and its grid; its τ holds here, too.
        device: a torch device.
    """

    def __init__(self, noise: GridNoise, device: str) -> None:
        self._noise, self._device = noise, device
        tables = (noise.on_grid, noise.low, noise.high)
        self._on_grid, self._low, self._high = (torch.from_numpy(one).to(device) for one in tables)

    def draw(self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes) -> Tensor:
        """Draw the noisy features of one pass, as :meth:`GridNoise.draw` does.

        Args:
            pictures: the features of the pictures in this pass, all of the same length m.
            rows: [draws], the picture of each draw.
            key: 32 fresh secret bytes.

        Returns:
            [draws, m] int32 on the device: z/γ.
        """
        count = len(rows) * len(pictures[0].steps)
        words = chacha20_words(key, count, self._device)
        return self.select(pictures, rows, words, _more(key))

    def reference(
        self, pictures: Sequence[Features], rows: NDArray[np.intp], key: bytes
    ) -> NDArray[np.int32]:
        """Return what :meth:`draw` must return, computed by the processor in another way."""
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        count = len(rows) * len(pictures[0].steps)
        words = np.frombuffer(stream.update(bytes(2 * count)), dtype="<u2")
        return self._noise.reference(pictures, rows, words, _more(key))

    def select(
        self,
        pictures: Sequence[Features],
        rows: NDArray[np.intp],
        words: Tensor,
        more: Keystream,
    ) -> Tensor:
        """Select the noise by 16 bits per coordinate, and 48 ``more`` where they do not decide."""
        on_grid = all(picture.on_grid for picture in pictures)
        features = np.stack([one.steps if on_grid else one.substeps for one in pictures])
        fine = self._sent(features)[self._sent(rows)].reshape(-1)
        if on_grid:
            noise = self._on_grid.index_select(0, words).to(torch.int32)
            z, unsure = fine + noise, noise == int(UNSURE)
        else:
            centred = fine + SUBSTEPS // 2
            z = _floored(centred + self._high.index_select(0, words))
            unsure = _floored(centred + self._low.index_select(0, words)) != z
        left = unsure.nonzero().squeeze(1)
        start = fine[left].cpu().numpy().astype(np.float64) / (1 if on_grid else SUBSTEPS)
        bits = words[left].cpu().numpy().astype(np.uint16)
        settled = self._noise.settle(start, bits, more.tails(len(bits)))
        z[left] = self._sent(settled)
        return z.reshape(len(rows), -1)

    def _sent(self, values: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(values)
        if self._device.startswith("cuda"):
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _more(key: bytes) -> Keystream:
    """Return the bits of coordinates that the first 16 do not decide, under a key of their own."""
    return Keystream(hashlib.blake2b(b"tails", key=key, digest_size=32).digest())


def _floored(substeps: Tensor) -> Tensor:
    return torch.div(substeps, SUBSTEPS, rounding_mode="floor")

"""Noise drawn with a device's own arithmetic: here on the CPU, and on a GPU if there is one."""

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from models.bundle import ZOO
from models.certification.names import Mechanism
from models.device_noise import DeviceNoise, chacha20_words
from models.loaded import load_model
from models.noise import PIXEL_STEP, Features, GridNoise, Keystream
from models.predictor import Predictor
from models.torch_device import CudaDevice

GPUS = [pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else []
DEVICES = ["cpu", *GPUS]
KEY = bytes(range(32))


@pytest.mark.parametrize("device", DEVICES)
def test_the_keystream_block_of_the_rfc(device: str) -> None:
    # RFC 8439, A.1, test vector 1: key, counter and nonce all zero.
    words = chacha20_words(bytes(32), 32, device).cpu().numpy().astype("<u2")
    assert words.tobytes().hex().startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1a")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [1, 31, 32, 33, 100_001])
def test_the_keystream_is_that_of_another_implementation(device: str, count: int) -> None:
    for key in (KEY, bytes(range(255, 223, -1))):
        cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        expected = np.frombuffer(cipher.update(bytes(2 * count)), "<u2")
        assert np.array_equal(chacha20_words(key, count, device).cpu().numpy(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("on_grid", [True, False])
@pytest.mark.parametrize(
    ("mechanism", "scale", "step", "largest"),
    [
        ("gaussian", 0.5, PIXEL_STEP, 1.0),
        ("gaussian", 0.37, 0.37 / 64, 256 * 0.37),
        ("laplace", 0.35, PIXEL_STEP, 1.0),
        ("laplace", 1.0, 1.0, 4.0),
    ],
)
def test_the_same_bits_select_the_same_noise(
    device: str, on_grid: bool, mechanism: Mechanism, scale: float, step: float, largest: float
) -> None:
    noise = GridNoise(mechanism, scale, step, largest)
    rng = np.random.default_rng(0)
    most = int(largest / step) if on_grid else 10_000
    pictures = [
        Features(rng.integers(-most, most + 1, 321, dtype=np.int32), on_grid) for _ in range(5)
    ]
    rows = rng.integers(5, size=400)
    expected = noise.draw(pictures, rows, KEY)
    stream = Keystream(KEY)
    words = torch.from_numpy(stream.words(expected.size).astype(np.int32)).to(device)
    # Most values of the first 16 bits occur, including those that leave the result undecided.
    assert len(words.unique()) > 0.8 * 2**16
    found = DeviceNoise(noise, device).select(pictures, rows, words, stream)
    assert found.dtype == torch.int32
    assert np.array_equal(found.cpu().numpy(), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_every_pass_has_keys_of_its_own(device: str) -> None:
    noise = DeviceNoise(GridNoise("gaussian", 0.5, PIXEL_STEP, 1.0), device)
    features, rows = [Features(np.zeros(50, np.int32), on_grid=True)], np.zeros(8, np.intp)
    one, other = (noise.draw(features, rows, bytes([number]) * 32) for number in range(2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_are_answered_with_it(device: str) -> None:
    """On a processor, too, in the way of a GPU."""
    predictor = Predictor(load_model(ZOO / "mnist-cnn"), 64, CudaDevice(device))
    encoded = predictor.encode(np.zeros((28, 28, 1), np.uint8))
    noisy = predictor.noisy([encoded.features], np.zeros(64, np.intp))
    assert noisy.shape == (64, 1, 28, 28)
    assert abs(float(noisy.std()) - predictor.manifest.noise.scale) < 0.01
    assert (predictor.run([encoded.features], np.zeros(64, np.intp)) >= 0).all()

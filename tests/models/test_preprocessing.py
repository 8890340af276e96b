"""Preprocessing: what it computes (compared with Pillow), its norms and its rounding error."""

from fractions import Fraction
from math import prod, sqrt

import numpy as np
import pytest
from PIL import Image

from models import preprocessing
from models.preprocessing import CannotCertify, plan

PAIRS = [
    ("l1", "l1"),
    ("l1", "l2"),
    ("l1", "linf"),
    ("l2", "l2"),
    ("l2", "linf"),
    ("linf", "linf"),
]
# width, height, mode, model's shape, steps
PLANS = [
    (28, 28, "L", (1, 28, 28), ()),
    (6, 8, "RGB", (3, 8, 6), ()),
    (28, 28, "RGB", (1, 28, 28), ("greyscale",)),
    (7, 9, "L", (3, 9, 7), ("grey to RGB",)),
    (64, 48, "RGB", (1, 28, 28), ("greyscale", "resize 64x48 to 37x28", "crop to 28x28")),
    (65, 48, "L", (1, 28, 28), ("resize 65x48 to 38x28", "crop to 28x28")),
    (48, 65, "L", (1, 28, 28), ("resize 48x65 to 28x38", "crop to 28x28")),
    (48, 64, "L", (1, 28, 28), ("resize 48x64 to 28x37", "crop to 28x28")),
    (32, 28, "L", (1, 28, 28), ("crop to 28x28",)),
    (28, 33, "L", (3, 28, 28), ("grey to RGB", "crop to 28x28")),
    (5, 4, "RGB", (3, 12, 15), ("resize 5x4 to 15x12",)),
    (5, 4, "L", (1, 12, 12), ("resize 5x4 to 15x12", "crop to 12x12")),
    (1, 1, "L", (1, 3, 5), ("resize 1x1 to 5x5", "crop to 5x3")),
    (40, 3, "RGB", (3, 6, 5), ("resize 40x3 to 80x6", "crop to 5x6")),
    (17, 90, "RGB", (1, 10, 10), ("greyscale", "resize 17x90 to 10x53", "crop to 10x10")),
    (20, 10, "RGB", (3, 7, 16), ("resize 20x10 to 16x8", "crop to 16x7")),
]
IDS = [f"{w}x{h} {mode} to {shape}" for w, h, mode, shape, _ in PLANS]


def random_pixels(width, height, mode, bits, seed=0):
    channels = 1 if mode == "L" else 3
    values = np.random.default_rng(seed).integers(0, 2**bits, (height, width, channels))
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def dense(found):
    """The matrix of ``apply``, from one full-scale value at a time."""
    channels = 1 if found.mode == "L" else 3
    size = found.height * found.width * channels
    full = 2**found.bits - 1
    units = (np.eye(size) * full).astype(np.uint8 if found.bits == 8 else np.uint16)
    pictures = units.reshape(size, found.height, found.width, channels)
    return np.stack([found.apply(picture).ravel() for picture in pictures], axis=1)


def exact_norm(matrix, p, q):
    orders = {"l1": 1, "l2": 2, "linf": np.inf}
    if p == q:
        return np.linalg.norm(matrix, orders[p])
    if p == "l1":
        return np.linalg.norm(matrix, orders[q], axis=0).max()
    return np.linalg.norm(matrix, axis=1).max()


@pytest.mark.parametrize(("width", "height", "mode", "shape", "steps"), PLANS, ids=IDS)
def test_steps_in_words(width, height, mode, shape, steps):
    assert plan(width, height, mode, 8, shape).steps == steps


@pytest.mark.parametrize(("width", "height", "mode", "shape", "steps"), PLANS, ids=IDS)
@pytest.mark.parametrize("bits", [8, 16])
def test_it_resizes_as_pillow_does(width, height, mode, shape, steps, bits):
    pixels = random_pixels(width, height, mode, bits)
    found = plan(width, height, mode, bits, shape)
    values = pixels.astype(float) / (2**bits - 1)
    if mode == "RGB" and shape[0] == 1:
        values = values @ np.array([[0.299], [0.587], [0.114]])
    rows, columns = found.resized
    top, left = (rows - shape[1]) // 2, (columns - shape[2]) // 2
    planes = []
    for channel in range(values.shape[2]):
        image = Image.fromarray(values[:, :, channel].astype(np.float32))
        assert image.mode == "F"
        image = image.resize((columns, rows), Image.Resampling.BILINEAR)
        planes.append(np.asarray(image)[top : top + shape[1], left : left + shape[2]])
    expected = np.broadcast_to(np.stack(planes), shape)
    result = found.apply(pixels)
    assert result.shape == shape
    assert result.dtype == np.float64
    assert np.abs(result - expected).max() < 2e-6
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize(
    ("width", "height", "mode", "shape", "steps"),
    [case for case in PLANS if case[0] * case[1] < 1600],
)
def test_sensitivity_is_the_dense_matrix_s(width, height, mode, shape, steps):
    found = plan(width, height, mode, 8, shape)
    matrix = dense(found)
    for p, q in PAIRS:
        exact = exact_norm(matrix, p, q)
        assert exact * (1 - 1e-14) <= found.sensitivity(p, q) <= exact * (1 + 1e-9), (p, q)


@pytest.mark.parametrize(
    ("width", "height", "mode", "shape", "steps"),
    [case for case in PLANS if case[0] * case[1] < 1600],
)
def test_sums_over_rows_and_columns_are_the_dense_matrix_s(width, height, mode, shape, steps):
    """For p > q, the bounds multiply over the axes, and lie above what sign vectors attain."""
    found = plan(width, height, mode, 8, shape)
    matrix = dense(found)
    rows, columns = np.abs(matrix).sum(axis=1), np.abs(matrix).sum(axis=0)
    expected = {
        ("linf", "l2"): np.sqrt((rows**2).sum()),
        ("linf", "l1"): rows.sum(),
        ("l2", "l1"): np.sqrt((columns**2).sum()),
    }
    rng = np.random.default_rng(1)
    for (p, q), exact in expected.items():
        bound = found.sensitivity(p, q)
        assert exact * (1 - 1e-14) <= bound <= exact * (1 + 1e-9), (p, q)
        orders = {"l1": 1, "l2": 2, "linf": np.inf}
        for change in (
            *rng.choice([-1.0, 1.0], (20, matrix.shape[1])),
            columns,
            rng.normal(size=columns.shape),
        ):
            moved = np.linalg.norm(matrix @ change, orders[q])
            assert moved <= bound * np.linalg.norm(change, orders[p]) * (1 + 1e-12)


def test_wide_resizes_are_bounded_without_a_decomposition(monkeypatch):
    exact = plan(40, 30, "L", 8, (1, 13, 17)).sensitivity("l2", "l2")
    monkeypatch.setattr(preprocessing, "_LARGEST_DECOMPOSED", 5)
    preprocessing._resize_norm.cache_clear()
    found = plan(40, 30, "L", 8, (1, 13, 17)).sensitivity("l2", "l2")
    preprocessing._resize_norm.cache_clear()
    assert exact < found < 1.15 * exact  # 7 % for each axis


def test_colour_factors():
    grey = plan(28, 28, "RGB", 8, (1, 28, 28))
    assert grey.sensitivity("l1", "l1") == pytest.approx(0.587, rel=1e-9)
    assert grey.sensitivity("l2", "l2") == pytest.approx(0.6686, abs=5e-5)
    assert grey.sensitivity("linf", "linf") == pytest.approx(1, rel=1e-9)
    rgb = plan(28, 28, "L", 8, (3, 28, 28))
    assert rgb.sensitivity("l1", "l1") == pytest.approx(3, rel=1e-9)
    assert rgb.sensitivity("l2", "l2") == pytest.approx(sqrt(3), rel=1e-9)
    assert rgb.sensitivity("l1", "l2") == pytest.approx(sqrt(3), rel=1e-9)
    assert rgb.sensitivity("linf", "linf") == 1


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_steps_that_only_move_pixels_have_sensitivity_exactly_one(p, q):
    for case in ((28, 28), (40, 28), (28, 29)):
        assert plan(*case, "L", 8, (1, 28, 28)).sensitivity(p, q) == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_no_pair_of_pictures_exceeds_the_sensitivity(seed):
    rng = np.random.default_rng(seed)
    width, height = (int(n) for n in rng.integers(1, 30, 2))
    mode = str(rng.choice(["L", "RGB"]))
    shape = (int(rng.choice([1, 3])), *(int(n) for n in rng.integers(1, 30, 2)))
    found = plan(width, height, mode, 16, shape)
    matrix_orders = {"l1": 1, "l2": 2, "linf": np.inf}
    for step in range(10):
        one = random_pixels(width, height, mode, 16, seed=100 * seed + step)
        other = one.copy()
        some = rng.random(one.shape) < rng.choice([0.02, 0.5, 1.0])
        other[some] = rng.choice([0, 65535]) if step % 2 else 65535 - other[some]
        if (one == other).all():
            continue
        moved = (found.apply(one) - found.apply(other)).ravel()
        change = (one.astype(float) - other).ravel() / 65535
        for p, q in PAIRS:
            before = np.linalg.norm(change, matrix_orders[p])
            bound = found.sensitivity(p, q) * before * (1 + 1e-12)
            assert np.linalg.norm(moved, matrix_orders[q]) <= bound


@pytest.mark.parametrize("bits", [8, 16])
def test_without_steps_it_is_only_a_division(bits):
    pixels = random_pixels(6, 8, "RGB", bits)
    found = plan(6, 8, "RGB", bits, (3, 8, 6))
    expected = pixels.transpose(2, 0, 1).astype(float) / (2**bits - 1)
    assert np.array_equal(found.apply(pixels), expected)
    assert found.on_grid == (bits == 8)
    assert (found.error("l2") == 0) == (bits == 8)


def test_the_grid_ends_with_the_first_step():
    assert not plan(6, 8, "RGB", 8, (1, 8, 6)).on_grid
    assert not plan(6, 9, "L", 8, (1, 8, 6)).on_grid
    assert plan(6, 9, "L", 8, (1, 8, 6)).error("l1") > 0


@pytest.mark.parametrize(
    ("width", "height", "mode", "bits", "shape"),
    [
        (13, 11, "RGB", 8, (1, 4, 5)),
        (13, 11, "L", 16, (3, 5, 4)),
        (3, 4, "RGB", 16, (3, 7, 7)),
        (7, 7, "L", 16, (1, 7, 7)),
    ],
)
def test_rounding_stays_within_the_stated_error(width, height, mode, bits, shape):
    """Against exact rational arithmetic with the same stored coefficients."""
    pixels = random_pixels(width, height, mode, bits)
    found = plan(width, height, mode, bits, shape)
    rows, columns = (preprocessing._resize_matrix(*axis) for axis in found._axes())
    full = 2**bits - 1

    def fractions(array):
        return np.vectorize(Fraction, otypes=[object])(array)

    exact = fractions(pixels.transpose(2, 0, 1)) / full
    if mode == "RGB" and shape[0] == 1:
        weights = fractions(np.array([0.299, 0.587, 0.114]))
        exact = (weights[:, None, None] * exact).sum(axis=0, keepdims=True)
    exact = np.stack([fractions(rows) @ plane @ fractions(columns).T for plane in exact])
    exact = np.broadcast_to(exact, shape)
    gap = np.abs(fractions(found.apply(pixels)) - exact).astype(float)
    assert 0 < gap.max() <= found.error("linf")
    assert np.linalg.norm(gap) <= found.error("l2")
    assert gap.sum() <= found.error("l1")
    assert found.error("l1") == pytest.approx(prod(shape) * found.error("linf"))
    assert found.error("l2") < 1e-12


@pytest.mark.parametrize(("size", "resized", "kept"), [(50, 20, 20), (7, 90, 40), (30, 30, 12)])
def test_what_is_left_out_of_a_resize_are_products_by_zero(monkeypatch, size, resized, kept):
    matrix = preprocessing._resize_matrix(size, resized, kept)
    lines, most = np.random.default_rng(0).random((size, 6)), []

    def prepare(some):
        most.append(len(some))
        return some

    whole = preprocessing._weigh(matrix, lines, prepare)
    assert most == [size], "all at once, as they are few"
    monkeypatch.setattr(preprocessing, "_CHUNK", 6 * (size - 1))
    parts = preprocessing._weigh(matrix, lines, prepare)
    assert max(most[1:]) == np.count_nonzero(matrix, axis=1).max()
    for weighed in (whole, parts):
        assert np.allclose(weighed, matrix @ lines, rtol=0, atol=1e-14)


def test_large_pictures_are_processed_in_strips(monkeypatch):
    pixels = random_pixels(50, 40, "RGB", 8)
    found = plan(50, 40, "RGB", 8, (3, 20, 20))
    whole = found.apply(pixels)
    monkeypatch.setattr(preprocessing, "_CHUNK", 50 * 3 * 7)
    assert np.allclose(found.apply(pixels), whole, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((28, 28, "RGBA", 8, (1, 28, 28)), "mode 'RGBA'.*expected L or RGB"),
        ((28, 28, "P", 8, (1, 28, 28)), "mode 'P'"),
        ((28, 28, "L", 12, (1, 28, 28)), "12 bits"),
        ((28, 28, "L", 8, (4, 28, 28)), "1 or 3 channels"),
        ((28, 28, "L", 8, (1, 0, 28)), "the model takes"),
        ((0, 28, "L", 8, (1, 28, 28)), "no pixels"),
        ((28, 0, "L", 8, (1, 28, 28)), "no pixels"),
        ((3, 3, "L", 8, (1, 193, 193)), "more than 64 times"),
        ((100, 1, "L", 8, (1, 65, 65)), "more than 64 times"),
    ],
)
def test_what_cannot_be_certified_is_refused(arguments, message):
    with pytest.raises(CannotCertify, match=message):
        plan(*arguments)


def test_enlarging_64_times_is_allowed():
    assert plan(1, 1, "L", 8, (1, 64, 64)).sensitivity("l1", "l1") == pytest.approx(4096)


def test_unknown_norms_are_refused():
    with pytest.raises(ValueError, match="unknown norm"):
        plan(28, 28, "L", 8, (1, 28, 28)).sensitivity("l2", "l4")


def test_other_pixels_than_planned_for_are_refused():
    found = plan(6, 8, "RGB", 8, (3, 8, 6))
    for pixels in (
        random_pixels(8, 6, "RGB", 8),
        random_pixels(6, 8, "L", 8),
        random_pixels(6, 8, "RGB", 16),
    ):
        with pytest.raises(ValueError, match="expected uint8 pixels"):
            found.apply(pixels)

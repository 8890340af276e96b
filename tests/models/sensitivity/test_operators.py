"""Bounds on linear maps and convolutions, compared with dense matrices and with attacks."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.sensitivity.operators import (
    PAIRS,
    Convolution,
    Matrix,
    Sensitivity,
)

torch.set_num_threads(1)

REFERENCE = json.loads((Path(__file__).parent / "conv_reference.json").read_text())
CLOSE = 1 + 1e-9
EXACT = [("l1", "l1"), ("l1", "l2"), ("linf", "linf")]


def dense(kernel, size, **options):
    """The matrix of a convolution, from every unit vector sent through torch in float64."""
    weight = torch.as_tensor(np.asarray(kernel, dtype=float))
    inputs = weight.shape[1] * options.get("groups", 1) * size[0] * size[1]
    units = torch.eye(inputs, dtype=torch.float64).reshape(inputs, -1, *size)
    return functional.conv2d(units, weight, **options).reshape(inputs, -1).T.numpy()


def exact_norm(matrix, p, q):
    orders = {"l1": 1, "l2": 2, "linf": np.inf}
    if p == q:
        return np.linalg.norm(matrix, orders[p])
    assert (p, q) == ("l1", "l2")
    return np.linalg.norm(matrix, axis=0).max()


def attack_from_linf(matrix, q, rng):
    """The best of several ascents over sign vectors: a lower bound on the norm from L∞ to Lq."""
    best = 0.0
    for _ in range(5):
        x = np.sign(rng.normal(size=matrix.shape[1]))
        for _ in range(20):
            y = matrix @ x
            x = np.where(matrix.T @ (y if q == "l2" else np.sign(y)) >= 0, 1.0, -1.0)
        best = max(best, np.linalg.norm(matrix @ x, 1 if q == "l1" else 2))
    return best


def random_case(rng):
    """A kernel, a size and options that leave at least one output."""
    groups = int(rng.choice([1, 1, 2, 3]))
    while True:
        taps, stride, padding, dilation = (
            tuple(int(n) for n in rng.integers(low, high, 2))
            for low, high in ((1, 6), (1, 4), (0, 4), (1, 3))
        )
        size = tuple(int(n) for n in rng.integers(1, 12, 2))
        spans = [d * (k - 1) + 1 for k, d in zip(taps, dilation, strict=True)]
        if all(s + 2 * p >= k for s, p, k in zip(size, padding, spans, strict=True)):
            break
    shape = (groups * int(rng.integers(1, 4)), int(rng.integers(1, 3)), *taps)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return rng.normal(size=shape), size, options


@pytest.mark.parametrize("seed", range(120))
def test_bounds_hold_for_the_dense_matrix(seed):
    rng = np.random.default_rng(seed)
    kernel, size, options = random_case(rng)
    matrix = dense(kernel, size, **options)
    bound = {
        (p, q): Convolution(kernel, input_size=size, **options).sensitivity(p, q).value
        for p, q in PAIRS
    }
    if not matrix.any():  # every weight falls on the padding
        assert min(bound.values()) >= 0
        return
    for pair in EXACT:
        assert exact_norm(matrix, *pair) <= bound[pair] <= exact_norm(matrix, *pair) * CLOSE
    assert exact_norm(matrix, "l2", "l2") <= bound["l2", "l2"]
    for q in ("l1", "l2"):
        assert attack_from_linf(matrix, q, rng) <= bound["linf", q]
    rows = np.abs(matrix).sum(axis=1)
    assert bound["linf", "l1"] <= rows.sum() * CLOSE
    assert bound["linf", "l2"] <= np.linalg.norm(rows) * CLOSE


@pytest.mark.parametrize("seed", range(12))
def test_largest_singular_value_is_within_a_tenth(seed):
    rng = np.random.default_rng(seed)
    taps = tuple(int(n) for n in rng.integers(1, 6, 2))
    stride = tuple(int(n) for n in rng.integers(1, 3, 2))
    kernel = rng.normal(size=(4, int(rng.integers(1, 3)), *taps))
    size = tuple(int(n) for n in rng.integers(16, 21, 2))
    options = {"stride": stride, "padding": (taps[0] // 2, taps[1] // 2)}
    exact = np.linalg.norm(dense(kernel, size, **options), 2)
    found = Convolution(kernel, input_size=size, **options).sensitivity("l2", "l2").value
    assert exact <= found <= 1.1 * exact


@pytest.mark.parametrize("seed", range(20))
def test_the_grid_factor_covers_the_frequencies_between(seed):
    """On a long axis, the finite matrix itself exceeds the maximum over the grid."""
    rng = np.random.default_rng(seed)
    taps = int(rng.integers(3, 6))
    kernel = rng.normal(size=(2, 1, 1, taps))
    size = (1, 600)
    found = Convolution(kernel, input_size=size).sensitivity("l2", "l2")
    assert "Ehlich-Zeller" in found.method
    frequencies = np.linspace(0, np.pi, 40_001)
    waves = np.exp(1j * np.outer(np.arange(taps), frequencies))
    supremum = np.linalg.norm(kernel[:, 0, 0] @ waves, axis=0).max()
    assert supremum <= found.value <= 1.0013 * supremum
    if seed < 3:
        assert np.linalg.norm(dense(kernel, size), 2) <= found.value


def test_a_long_picture_needs_the_grid_factor():
    """Without it this kernel's bound would be wrong: its peak lies halfway between two points."""
    taps, points = 5, 160
    peak = 2 * np.pi * 40.5 / points
    kernel = np.cos(peak * np.arange(taps))[None, None, None]
    kernel = np.concatenate([kernel, np.sin(peak * np.arange(taps))[None, None, None]])
    grid = np.exp(2j * np.pi * np.outer(np.arange(taps), np.arange(points)) / points)
    exact = np.linalg.norm(dense(kernel, (1, 600)), 2)
    assert np.linalg.norm(kernel[:, 0, 0] @ grid, axis=0).max() < exact
    found = Convolution(kernel, input_size=(1, 600)).sensitivity("l2", "l2")
    assert exact <= found.value <= 1.002 * exact


@pytest.mark.parametrize("case", REFERENCE, ids=lambda case: case["name"])
def test_reference_figures(case):
    size, stride, padding = (case["H"], case["W"]), case["stride"], case["pad"]
    layer = Convolution(case["kernel"], input_size=size, stride=stride, padding=padding)

    def value(p, q):
        return layer.sensitivity(p, q).value

    assert value("l1", "l1") == pytest.approx(float(case["col_l1_exact"]), rel=1e-9)
    assert value("l1", "l2") == pytest.approx(float(case["col_l2_exact"]), rel=1e-9)
    assert value("linf", "linf") == pytest.approx(float(case["row_l1"]), rel=1e-9)
    # The figures are rounded to ten and to eight decimals.
    assert float(case["exact_2_2"]) - 1e-10 <= value("l2", "l2")
    assert value("l2", "l2") <= float(case["reshaped_pixeldp"]) * CLOSE
    assert value("l2", "l2") <= float(case["upper_64"]) * CLOSE


@pytest.mark.parametrize("seed", range(10))
def test_norms_from_linf_against_all_signs(seed):
    rng = np.random.default_rng(seed)
    kernel, size, options = rng.normal(size=(2, 1, 2, 3)), (3, 4), {"padding": 1, "stride": (2, 1)}
    matrix = dense(kernel, size, **options)
    signs = np.array(list(product((-1.0, 1.0), repeat=12)))
    images = signs @ matrix.T
    for q, order in (("l1", 1), ("l2", 2)):
        exact = np.linalg.norm(images, order, axis=1).max()
        by_kernel = Convolution(kernel, input_size=size, **options).sensitivity("linf", q)
        by_matrix = Matrix(matrix).sensitivity("linf", q)
        assert exact <= by_matrix.value
        assert exact <= by_kernel.value


@pytest.mark.parametrize("seed", range(20))
def test_dense_matrices(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=rng.integers(1, 40, 2))
    for p, q in [*EXACT, ("l2", "l2")]:
        found = Matrix(matrix).sensitivity(p, q).value
        exact = exact_norm(matrix, p, q)
        assert exact * (1 - 1e-14) <= found <= exact * CLOSE
    for q in ("l1", "l2"):
        assert attack_from_linf(matrix, q, rng) <= Matrix(matrix).sensitivity("linf", q).value


@pytest.mark.parametrize("factor", [1e-250, 1e-30, 1e30, 1e250])
def test_squares_neither_vanish_nor_overflow(factor):
    kernel = np.random.default_rng(0).normal(size=(3, 2, 3, 3))
    for p, q in PAIRS:
        plain = Convolution(kernel, input_size=(9, 9)).sensitivity(p, q).value
        scaled = Convolution(kernel * factor, input_size=(9, 9)).sensitivity(p, q).value
        assert scaled == pytest.approx(plain * factor, rel=1e-12)


def test_many_channels_are_bounded_in_chunks(monkeypatch):
    kernel = np.random.default_rng(0).normal(size=(6, 4, 3, 3))
    whole = Convolution(kernel, input_size=(20, 20)).sensitivity("l2", "l2").value
    monkeypatch.setattr("models.sensitivity.operators._CHUNK", 600)
    pieces = Convolution(kernel, input_size=(20, 20)).sensitivity("l2", "l2").value
    assert pieces == pytest.approx(whole, rel=1e-14)


def test_small_cases_by_hand():
    assert Matrix([[3.0, 0.0], [4.0, 1.0]]).sensitivity("l1", "l2") == Sensitivity(
        5 * (1 + 1e-10), "exact column l2 norms"
    )
    zero = Convolution(np.zeros((2, 1, 3, 3)), input_size=(5, 5)).sensitivity("l2", "l2")
    assert zero == Sensitivity(0.0, "zero map")
    # A 3 × 3 mean filter: 1 at frequency zero.
    mean = np.full((1, 1, 3, 3), 1 / 9)
    found = Convolution(mean, input_size=(64, 64), padding=1).sensitivity("l2", "l2")
    assert found.value == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(
    ("p", "q"), [("l2", "l1"), ("l1", "linf"), ("l2", "linf"), ("l3", "l2"), ("l2", "")]
)
def test_unknown_pairs_are_refused(p, q):
    for kernel in (np.ones((1, 1, 3, 3)), np.zeros((1, 1, 3, 3))):
        with pytest.raises(ValueError, match=r"no bound|unknown norm"):
            Convolution(kernel, input_size=(8, 8)).sensitivity(p, q)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": np.ones((1, 3, 3))}, "expected a kernel"),
        ({"kernel": np.full((1, 1, 3, 3), np.nan)}, "NaN or infinite"),
        ({"kernel": np.full((1, 1, 3, 3), np.inf)}, "NaN or infinite"),
        ({"input_size": (2, 8)}, "does not fit"),
        ({"input_size": (0, 8)}, "input_size"),
        ({"groups": 2}, "do not divide"),
        ({"stride": 0}, "stride"),
        ({"dilation": (1, 0)}, "dilation"),
        ({"padding": -1}, "padding"),
    ],
)
def test_convolutions_that_do_not_exist_are_refused(changes, message):
    options = {"kernel": np.ones((1, 1, 3, 3)), "input_size": (8, 8)} | changes
    with pytest.raises(ValueError, match=message):
        Convolution(**options).sensitivity("l2", "l2")


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((16, 8, 3, 3), (4, 4), {"padding": 1}),
        ((8, 3, 9, 9), (4, 4), {"padding": 4}),
        ((6, 2, 3, 5), (5, 7), {"stride": (2, 1), "padding": (1, 2), "groups": 2}),
        ((4, 3, 3, 3), (6, 6), {"dilation": 2, "padding": 2}),
    ],
)
def test_small_maps_have_the_norm_of_their_matrix(shape, size, options):
    kernel = np.random.default_rng(4).normal(size=shape)
    inputs = shape[1] * options.get("groups", 1)
    units = torch.eye(inputs * size[0] * size[1], dtype=torch.float64).reshape(-1, inputs, *size)
    images = functional.conv2d(units, torch.from_numpy(kernel), **options)
    exact = float(np.linalg.norm(images.reshape(len(units), -1).numpy(), 2))
    convolution = Convolution(kernel, input_size=size, **options)
    found = convolution.sensitivity("l2", "l2")
    assert exact <= found.value <= exact * (1 + 2e-10)
    by_frequencies = convolution._bound_symbol()[0] * convolution.scale
    assert by_frequencies >= exact * (1 - 1e-12)
    if shape[2] == 9:
        assert by_frequencies > 2 * exact  # the effect of the border

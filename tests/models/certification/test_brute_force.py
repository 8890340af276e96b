"""Certificates compared with classifiers whose expected scores are known exactly.

Piecewise constant scores on a line, or on a chequered plane, have expectations that are sums of
products of distribution functions. A search finds the true size: no certificate exceeds it, and the
defaults attain it where theory says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from models.certification.certificates import size
from models.certification.laws import LAWS
from models.certification.names import CERTIFICATES, CONTINUOUS, MECHANISM_NORMS, Mechanism

Floats = NDArray[np.float64]
Scores = Callable[[Floats], Floats]  # shifts of the mean [n, d] → expected scores [n, K]

CDFS: dict[Mechanism, Callable[[Floats], Floats]] = {
    name: LAWS[name].module.cdf for name in CONTINUOUS
}
# The distribution function of this law takes four times as long as any other.
LAWS_TRIED = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "generalised-normal" else [])
    for name in CONTINUOUS
]


def masses(mechanism: Mechanism, edges: Floats, shifts: Floats, scale: float) -> Floats:
    """P(noise + shift lies between neighbouring edges), [n, pieces]; the outermost are infinite."""
    inner = CDFS[mechanism]((edges[None] - shifts[:, None]) / scale)
    ends = np.zeros((len(shifts), 1)), np.ones((len(shifts), 1))
    return np.diff(np.hstack([ends[0], inner, ends[1]]), axis=1)


def line(mechanism: Mechanism, edges: Floats, values: Floats, scale: float) -> Scores:
    """Scores ``values`` [pieces, K] on the intervals between ``edges``."""
    return lambda shifts: masses(mechanism, edges, shifts[:, 0], scale) @ values


def plane(mechanism: Mechanism, edges: list[Floats], values: Floats, scale: float) -> Scores:
    """Scores ``values`` [columns, rows, K] on the fields of a chequered plane."""

    def expected(shifts: Floats) -> Floats:
        across, down = (masses(mechanism, edges[axis], shifts[:, axis], scale) for axis in range(2))
        return np.asarray(np.einsum("ni,nj,ijk->nk", across, down, values))

    return expected


def margins(expected: Scores, label: int, shifts: Floats) -> Floats:
    """How far the label's expected score lies above every other's."""
    scores = expected(shifts)
    own = scores[:, label].copy()
    scores[:, label] = -np.inf
    return np.asarray(own - scores.max(axis=1))


def true_size(expected: Scores, label: int, directions: Floats, most: float) -> float:
    """The smallest multiple of a direction at which another label's score is as high."""
    distances = np.linspace(0, most, 601)
    ways = (directions[:, None] * distances[:, None]).reshape(-1, directions.shape[1])
    behind = (margins(expected, label, ways) <= 0).reshape(len(directions), -1)
    smallest = np.inf
    for direction, row in zip(directions, behind, strict=True):
        if not row.any() or distances[row.argmax() - 1] >= smallest:
            continue
        low, high = distances[row.argmax() - 1], distances[row.argmax()]
        for _ in range(50):
            middle = (low + high) / 2
            held = margins(expected, label, np.array([middle * direction]))[0] > 0
            low, high = (middle, high) if held else (low, middle)
        smallest = min(smallest, high)
    return float(smallest)


def directions(mechanism: Mechanism, dimensions: int) -> Floats:
    """Unit vectors in the norm of the mechanism's certificates."""
    if dimensions == 1:
        return np.array([[1.0], [-1.0]])
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    unit = np.column_stack([np.cos(angles), np.sin(angles)])
    if MECHANISM_NORMS[mechanism] == "l1":
        unit /= np.abs(unit).sum(axis=1, keepdims=True)
    return unit


def random_values(rng: np.random.Generator, shape: tuple[int, ...], labels: int) -> Floats:
    """Votes, or soft scores that sum to at most 1."""
    if rng.random() < 0.6:
        return np.asarray(np.eye(labels)[rng.integers(0, labels, shape)])
    values = rng.dirichlet(np.full(labels, rng.choice([0.1, 1.0])), shape)
    return np.asarray(values * rng.uniform(0.5, 1, (*shape, 1)))


@dataclass
class Case:
    """One classifier under one noise law, and its scores at the unshifted mean."""

    expected: Scores
    scale: float
    dimensions: int
    label: int = field(init=False)
    lower: float = field(init=False)
    upper: float = field(init=False)

    def __post_init__(self) -> None:
        (scores,) = self.expected(np.zeros((1, self.dimensions)))
        self.label = int(scores.argmax())
        self.lower = float(scores[self.label])
        self.upper = float(np.delete(scores, self.label).max())


def random_case(mechanism: Mechanism, dimensions: int, rng: np.random.Generator) -> Case:
    """A case with something to certify, in which something could go wrong."""
    while True:
        labels, scale = int(rng.integers(2, 5)), float(rng.uniform(0.3, 2))
        edges = [
            np.sort(rng.normal(0, 2 * scale, int(rng.integers(1, 6)))) for _ in range(dimensions)
        ]
        values = random_values(rng, tuple(len(axis) + 1 for axis in edges), labels)
        expected = (
            line(mechanism, edges[0], values, scale)
            if dimensions == 1
            else plane(mechanism, edges, values, scale)
        )
        case = Case(expected, scale, dimensions)
        if 1e-9 < case.upper < case.lower < 1 - 1e-9:
            return case


def sizes(certificate: str, cases: list[Case], sensitivity: float | list[float] = 1.0) -> Floats:
    """The size that a certificate gives for the exact scores."""
    return size(
        certificate,
        [case.lower for case in cases],
        [case.upper for case in cases],
        [case.scale for case in cases],
        sensitivity,
    )


@pytest.mark.parametrize("mechanism", LAWS_TRIED)
@pytest.mark.parametrize("dimensions", [1, 2])
def test_no_certificate_exceeds_the_true_size(mechanism: Mechanism, dimensions: int) -> None:
    rng = np.random.default_rng(1)
    cases = [random_case(mechanism, dimensions, rng) for _ in range(400 if dimensions == 1 else 80)]
    ways = directions(mechanism, dimensions)
    truths = np.array(
        [true_size(case.expected, case.label, ways, 12 * case.scale) for case in cases]
    )
    assert np.isfinite(truths).sum() > 30
    for certificate in CERTIFICATES:
        if certificate in LAWS[mechanism].certificates:
            assert (sizes(certificate, cases) <= truths + 1e-9).all(), certificate
    # The search is sharp enough to reveal a default that claims a few per cent too much.
    closest = np.min(truths / sizes(mechanism, cases))
    assert closest < (1.001 if dimensions == 1 else 1.06)


@pytest.mark.parametrize("mechanism", [name for name in CONTINUOUS if LAWS[name].symmetric])
def test_half_lines_attain_the_defaults(mechanism: Mechanism) -> None:
    """One threshold between two labels, or a gap between them that many small labels share."""
    for scale in (0.3, 1.0, 2.5):
        for own, gap in [(0.3, 0.0), (1.0, 0.0), (2.5, 0.0), (-0.2, 1.0), (0.5, 1.5), (2.0, 0.4)]:
            if mechanism in ("uniform", "generalised-normal") and own + gap >= 1:
                continue  # there is nothing beyond, or less than between the two
            edges = np.linspace(own, own + gap, 41) * scale
            case = Case(line(mechanism, edges, np.eye(42), scale), scale, 1)
            assert case.label == 0
            truth = true_size(case.expected, 0, np.array([[1.0]]), 12 * scale)
            assert truth == pytest.approx((own + gap / 2) * scale, abs=1e-9)
            assert sizes(mechanism, [case]) == pytest.approx(truth, abs=1e-6)


def test_half_planes_attain_the_gaussian_in_every_direction() -> None:
    sigma = 0.7
    for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        normal = np.array([np.cos(angle), np.sin(angle)])

        def expected(shifts: Floats, normal: Floats = normal) -> Floats:
            own = special.ndtr((0.9 - shifts @ normal) / sigma)
            return np.column_stack([own, 1 - own])

        case = Case(expected, sigma, 2)
        truth = true_size(expected, case.label, normal[None], 12 * sigma)
        assert truth == pytest.approx(0.9, abs=1e-9)
        assert sizes("gaussian", [case]) == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("mechanism", LAWS_TRIED)
def test_a_linear_network_before_the_noise(mechanism: Mechanism) -> None:
    """The size is that of a change of the picture: it is divided by g's sensitivity."""
    rng = np.random.default_rng(2)
    cases, sensitivities, closest = [], [], np.inf
    for _ in range(60):
        behind = random_case(mechanism, 2, rng)
        matrix = rng.normal(size=(2, 2)) if rng.random() < 0.5 else rng.normal() * np.eye(2)

        def expected(
            changes: Floats, matrix: Floats = matrix, behind: Scores = behind.expected
        ) -> Floats:
            return behind(changes @ matrix.T)

        cases.append(Case(expected, behind.scale, 2))
        order = 2 if mechanism == "gaussian" else 1
        sensitivities.append(float(np.linalg.norm(matrix, order)))
    ways = directions(mechanism, 2)
    found = sizes(mechanism, cases, sensitivities)
    for case, sensitivity, certified in zip(cases, sensitivities, found, strict=True):
        truth = true_size(case.expected, case.label, ways, 12 * case.scale / sensitivity)
        assert certified <= truth + 1e-9
        closest = min(closest, truth / certified)
    assert closest < 1.2


@pytest.mark.parametrize("mechanism", CONTINUOUS)
@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_detour_through_other_pictures_buys_nothing(
    mechanism: Mechanism, dimensions: int
) -> None:
    """G_s∘G_t = G_{s+t}: at every x' within the size, the remainder of it is certified again."""
    rng = np.random.default_rng(3)
    ways = directions(mechanism, dimensions)
    for _ in range(60):
        case = random_case(mechanism, dimensions, rng)
        (most,) = sizes(mechanism, [case])
        distances = np.linspace(0, 0.999, 40) * most
        steps = (ways[:, None] * distances[:, None]).reshape(-1, dimensions)
        scores = case.expected(steps)
        own = scores[:, case.label].copy()
        scores[:, case.label] = -1
        left = size(mechanism, own, scores.max(axis=1), case.scale, 1.0)
        assert (left >= most - np.tile(distances, len(ways)) - 1e-9).all()

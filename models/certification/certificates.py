"""From bounds to the certified size.

The certificates of each law are in :mod:`models.certification.laws`. Each takes a lower bound pA on
E y_c and an upper bound pB on max_{i≠c} E y_i, both true at once, and returns how far the mean of
the noise may move, in units of its scale (σ for Gaussian, b for Laplace), before another label's
expected score could reach that of c: a number μ such that the label is the same for every x' with
Δ‖x' − x‖ ≤ μ·scale. μ is 0 where pA ≤ pB: then nothing is claimed, not even the label.

Why they hold for soft scores, for any h and any g of sensitivity Δ: a change of size L moves the
mean of z by at most ΔL in the noise's norm, and each certificate bounds what that does to the
expectation of *every* function with values in [0, 1]; it is applied to y_c and to each y_i.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from models.certification.arrays import Floats
from models.certification.laws import REGISTRY, interval, log_concave, split
from models.certification.names import (
    CERTIFICATES,
    Certificate,
    Mechanism,
    Norm,
)

# The tight certificates that answers use, by the norm in which they need g's sensitivity, the
# mechanism's own first; and the paper's own condition, which is shown beside them.
DEFAULTS = cast(
    "dict[Mechanism, dict[Norm, Certificate]]", {law.name: law.defaults for law in REGISTRY}
)
DEFAULT: dict[Mechanism, Certificate] = {law.name: law.defaults[law.norm] for law in REGISTRY}
PAPER: dict[Mechanism, Certificate] = {law.name: law.paper for law in REGISTRY}

# Their densities change by at most the factor e^θ when they move by θ scales.
PURE: tuple[Mechanism, ...] = tuple(
    law.name
    for law in REGISTRY
    if law.additive and law.module.SHIFTS[law.paper] is log_concave.pure
)

_SHIFTS: dict[str, Callable[..., Floats]] = {
    name: shift for law in REGISTRY if law.additive for name, shift in law.module.SHIFTS.items()
}
_DISCRETE = tuple(name for law in REGISTRY if law.discrete for name in law.certificates)
_COUNTED = {"split": split.sizes, "interval": interval.sizes}
_LAW_OF = {name: law for law in REGISTRY for name in law.defaults.values()}


def size(
    certificate: str,
    lower: ArrayLike,
    upper: ArrayLike,
    scale: ArrayLike,
    sensitivity: ArrayLike,
    *,
    tau: ArrayLike = 0.0,
    rho: ArrayLike = 0.0,
) -> Floats:
    """Return the certified size L = (scale·μ − ρ)/Δ, in the norm of Δ's input.

    The one place where noise scale and sensitivity are divided.

    Args:
        certificate: one of ``CERTIFICATES``.
        lower: pA, lower bounds on the label's expected score.
        upper: pB, upper bounds on every rival's.
        scale: σ or b, in units of g's output.
        sensitivity: Δ of g, preprocessing included, to the norm that the certificate needs: L1 for
            ``gaussian`` and its kin, and ``laplace-l2``, L2; L1 for all others.
        tau: as for :func:`shifts`.
        rho: bound on how much more than Δ‖x' − x‖ two computed outputs of g can differ.

    Returns:
        Sizes ≥ 0 of the broadcast shape; 0 where pA ≤ pB.

    Raises:
        ValueError: an unknown certificate, a scale or sensitivity that is not positive, or a Δ or
            ρ that the certificate does not allow.
    """
    scale, sensitivity = np.asarray(scale, dtype=float), np.asarray(sensitivity, dtype=float)
    rho = np.asarray(rho, dtype=float)
    if not (np.all(scale > 0) and np.all(sensitivity > 0) and np.all(np.isfinite(scale))):
        raise ValueError("scale and sensitivity must be positive and finite")
    if certificate in _COUNTED:
        if not (np.all(sensitivity == 1) and np.all(rho == 0) and np.all(np.asarray(tau) == 0)):
            raise ValueError(f"{certificate} needs a sensitivity of 1, and tau and rho of 0")
        return _COUNTED[certificate](lower, upper, float(scale))
    if certificate in _DISCRETE and not (np.all(sensitivity == 1) and np.all(rho == 0)):
        raise ValueError(f"{certificate} needs a sensitivity of 1, and rho of 0")
    if not np.all(rho >= 0):
        raise ValueError("rho must not be negative and tau must lie in [0, 0.5)")
    mu = shifts(certificate, lower, upper, tau, scale)
    return np.asarray(np.maximum((scale * mu - rho) / sensitivity, 0.0))


def shifts(
    certificate: str,
    lower: ArrayLike,
    upper: ArrayLike,
    tau: ArrayLike = 0.0,
    scale: ArrayLike | None = None,
) -> Floats:
    """Return μ: by how many noise scales the noise's mean may move; 0 where pA ≤ pB.

    Args:
        certificate: one of ``CERTIFICATES``.
        lower: pA, lower bounds on the label's expected score.
        upper: pB, upper bounds on every rival's.
        tau: bound on the total variation distance between the noise that was drawn and the law.
        scale: of the noise, one number, which discrete laws need.

    τ enters by post-processing: under the true law the scores differ by at most τ, at x and at x'.
    Relabel each draw as the rival i with probability 2τ. This mixture has pA' = (1−2τ)(pA−τ) and
    pB' = (1−2τ)(pB+τ) + 2τ, and wherever its label is certified, the unmixed scores differ by at
    least 2τ/(1−2τ) ≥ 2τ at x', more than the sampler can hide.

    Raises:
        ValueError: an unknown certificate, τ outside [0, 0.5), or no scale for a discrete law.
    """
    if certificate not in _SHIFTS:
        raise ValueError(f"unknown certificate {certificate!r}; known: {', '.join(CERTIFICATES)}")
    shift = _shift_at(certificate, scale)
    tau = np.asarray(tau, dtype=float)
    if not (np.all(tau >= 0) and np.all(tau < 0.5)):
        raise ValueError("tau must lie in [0, 0.5)")
    pa = (1 - 2 * tau) * (np.asarray(lower, dtype=float) - tau)
    pb = (1 - 2 * tau) * (np.asarray(upper, dtype=float) + tau) + 2 * tau
    pa, pb = np.broadcast_arrays(np.clip(pa, 0.0, 1.0), np.clip(pb, 0.0, 1.0))
    claims = pa > pb
    return np.where(claims, shift(np.where(claims, pa, 0.5), np.where(claims, pb, 0.5)), 0.0)


def shift(certificate: Certificate, lower: float, upper: float, tau: float, scale: float) -> float:
    """Return what :func:`shifts` returns for one pair of bounds, at a tenth of the cost."""
    pa = min(max((1 - 2 * tau) * (lower - tau), 0.0), 1.0)
    pb = min(max((1 - 2 * tau) * (upper + tau) + 2 * tau, 0.0), 1.0)
    found = _shift_at(certificate, scale)
    return float(found(np.asarray(pa), np.asarray(pb))) if pa > pb else 0.0


def _shift_at(certificate: str, scale: ArrayLike | None) -> Callable[[Floats, Floats], Floats]:
    """Return a certificate's function from pA and pB to μ, for noise of ``scale``."""
    found = _SHIFTS[certificate]
    if certificate not in _DISCRETE:
        return found
    if scale is None or np.ndim(scale):
        raise ValueError(f"{certificate} depends on the scale: expected one number")
    return partial(found, scale=float(np.asarray(scale)))


def attacked(
    certificate: str,
    lower: ArrayLike,
    upper: ArrayLike,
    change: ArrayLike,
    scale: float,
    sensitivity: float,
    *,
    tau: float = 0.0,
    rho: float = 0.0,
) -> tuple[Floats, Floats]:
    """Return the interval that an attacker can reach for a label's expected score.

    The paper's Figure 1b, by a tight certificate: [F(F⁻¹(lower) − μ), F(F⁻¹(upper) + μ)] with
    μ = (Δ·change + ρ)/scale and the law's F; for ``laplace-l2`` Φ with √(π/2)·μ; for
    ``exponential`` see its module. Widened by τ before and after.

    Args:
        certificate: one of ``DEFAULTS``.
        lower: lower bounds on expected scores at the picture.
        upper: upper bounds on them.
        change: size T of the attack in the norm of Δ's input.
        scale: σ or b.
        sensitivity: Δ.
        tau: as for :func:`size`.
        rho: as for :func:`size`.

    Raises:
        ValueError: any other certificate.
    """
    mu = (sensitivity * np.asarray(change, dtype=float) + rho) / scale
    low = np.clip(np.asarray(lower, dtype=float) - tau, 0.0, 1.0)
    high = np.clip(np.asarray(upper, dtype=float) + tau, 0.0, 1.0)
    law = _LAW_OF.get(certificate)
    if law is None or not law.additive:
        known = ", ".join(name for name, one in _LAW_OF.items() if one.additive)
        raise ValueError(
            f"there is no interval for the certificate {certificate!r}; known: {known}"
        )
    low, high = law.at(scale, law.module.attack)(certificate, low, high, mu)
    return np.clip(low - tau, 0.0, 1.0), np.clip(high + tau, 0.0, 1.0)


def construction_scale(
    mechanism: Mechanism, size: float, epsilon: float, delta: float, sensitivity: float
) -> float:
    """Return the noise scale of the paper's construction bound: (ε, δ)-PixelDP to ``size``.

    √(2 ln(1.25/δ))·Δ·L/ε for Gaussian with ε ≤ 1 (Lécuyer et al. 2019, §III-B), Δ·L/ε for Laplace
    and logistic noise.

    Raises:
        ValueError: a mechanism without such a bound, or ε and δ that the proof does not cover.
    """
    if not (size > 0 and epsilon > 0 and sensitivity > 0):
        raise ValueError("size, epsilon and sensitivity must be positive")
    if mechanism in PURE:
        return sensitivity * size / epsilon
    if mechanism != "gaussian":
        known = ", ".join(("gaussian", *PURE))
        raise ValueError(f"{mechanism!r} noise has no construction bound; expected {known}")
    if epsilon > 1 or not 0 < delta < 1:
        raise ValueError("the Gaussian mechanism's proof needs epsilon <= 1 and 0 < delta < 1")
    return float(np.sqrt(2 * np.log(1.25 / delta)) * sensitivity * size / epsilon)

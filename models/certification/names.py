"""The vocabularies of certification.

Number formats are not among them, because certificates hold for h in any format: see
:mod:`models.execution`.
"""

from typing import Literal, get_args

Norm = Literal["l1", "l2", "linf"]
NORMS: tuple[Norm, ...] = get_args(Norm)

# The laws of noise, and the norms in which they need g's sensitivity.
Mechanism = Literal["gaussian", "laplace", "split"]
MECHANISMS: tuple[Mechanism, ...] = get_args(Mechanism)
# Those that add noise to the output of g; split noise lets h see part of the picture instead.
ADDITIVE: tuple[Mechanism, ...] = tuple(one for one in MECHANISMS if one != "split")
MECHANISM_NORMS: dict[Mechanism, Norm] = {"gaussian": "l2", "laplace": "l1", "split": "l1"}

Scoring = Literal["votes", "softmax"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)

Bound = Literal["betting", "clopper-pearson", "hoeffding", "empirical-bernstein"]
BOUNDS: tuple[Bound, ...] = get_args(Bound)

# What a certificate can rest on: betting over the draws after the pilot, Clopper-Pearson at the
# last look, or betting over all draws for a label that has more than half of the votes.
Ground = Literal["betting", "clopper-pearson", "majority"]
GROUNDS: tuple[Ground, ...] = get_args(Ground)
# Split noise has finitely many draws, which are counted.
Counting = Literal["counting"]

Certificate = Literal[
    "pixeldp-laplace",
    "pixeldp-gaussian",
    "analytic-gaussian",
    "renyi",
    "gaussian",
    "laplace",
    "laplace-l2",
    "split",
]
CERTIFICATES: tuple[Certificate, ...] = get_args(Certificate)

# Why a picture gets no more draws.
Stopped = Literal["target_certified", "target_out_of_reach", "max_draws", "deadline"]

"""The vocabularies of certification.

Number formats are not among them, because certificates hold for h in any format: see
:mod:`models.execution`.
"""

from typing import TYPE_CHECKING, Literal, cast, get_args

from models.certification.laws import LAWS, REGISTRY

Norm = Literal["l1", "l2", "linf"]
NORMS: tuple[Norm, ...] = get_args(Norm)

# The laws of noise, and the norms in which they need g's sensitivity, as their registry has them.
# Type checkers see text.
CERTIFICATES = tuple(dict.fromkeys(name for law in REGISTRY for name in law.certificates))
if TYPE_CHECKING:
    Mechanism = str
    Certificate = str
else:
    Mechanism = Literal[tuple(LAWS)]
    Certificate = Literal[CERTIFICATES]
MECHANISMS: tuple[Mechanism, ...] = tuple(LAWS)
# Those that add noise to the output of g. Split noise lets h see part of the picture instead, and
# intervals let it see a box of pictures.
ADDITIVE: tuple[Mechanism, ...] = tuple(law.name for law in REGISTRY if law.additive)
# Those of them that do so for any g. All other laws take pixels of 8 bits as they are.
CONTINUOUS: tuple[Mechanism, ...] = tuple(name for name in ADDITIVE if not LAWS[name].discrete)
MECHANISM_NORMS = cast("dict[Mechanism, Norm]", {law.name: law.norm for law in REGISTRY})

Scoring = Literal["votes", "softmax"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)

Bound = Literal["betting", "clopper-pearson", "hoeffding", "empirical-bernstein"]
BOUNDS: tuple[Bound, ...] = get_args(Bound)

# What a certificate can rest on: betting over the draws after the pilot, Clopper-Pearson at the
# last look, or betting over all draws for a label that has more than half of the votes.
Ground = Literal["betting", "clopper-pearson", "majority"]
GROUNDS: tuple[Ground, ...] = get_args(Ground)
# Split noise has finitely many draws, which are counted; intervals have proofs.
Counting = Literal["counting", "interval"]

# What a picture is certified against: a change of some size in a norm, or a sticker of some side.
Threat = Literal["norm", "sticker"]

# Why a picture gets no more draws.
Stopped = Literal["target_certified", "target_out_of_reach", "max_draws", "deadline"]

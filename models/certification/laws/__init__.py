"""The laws of noise: one entry here, and one module of the same name, for each.

This module itself needs nothing, so that whoever only needs the names pays for nothing. A law's
module has:

- ``cdf`` and ``quantile``: F and F⁻¹ of scale 1, arrays;
- ``SHIFTS``: each of its certificates by name: from pA and pB to μ, by how many scales the noise's
  mean may move;
- ``attack``: from bounds on an expected score to what a move of μ scales can make of them;
- ``upper_quantile``, if the law is not symmetric: F⁻¹(1 − p) for small p.

Each function of a discrete law has a further argument: the scale, on which the law's form depends.

A hyphen in a law's name is an underscore in those of its modules. How training draws the noise is
in the module of the same name in :mod:`models.mechanisms`; served models draw every law by its
quantile function (:mod:`models.noise`). Split noise adds nothing to pixels, and intervals draw
nothing at all; both have a theorem of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Law:
    """What is known of a law by name.

    Attributes:
        name: of the law, and of its modules.
        defaults: the tight certificates that answers use, by the norm in which they need g's
            sensitivity; the law's own norm first.
        paper: the certificate of the paper's own condition.
        further: its other certificates.
        additive: whether noise is added to the output of g.
        symmetric: whether F(−x) = 1 − F(x).
        discrete: whether its noise is a whole number of steps of 1/255, for pixels of 8 bits alone.
    """

    name: str
    defaults: Mapping[str, str]
    paper: str
    further: tuple[str, ...] = ()
    additive: bool = True
    symmetric: bool = True
    discrete: bool = False

    @property
    def norm(self) -> str:
        """The norm in which the noise needs g's sensitivity."""
        return next(iter(self.defaults))

    @property
    def certificates(self) -> tuple[str, ...]:
        """All its certificates."""
        return tuple(dict.fromkeys((self.paper, *self.further, *self.defaults.values())))

    @property
    def module_name(self) -> str:
        """The name of its modules."""
        return self.name.replace("-", "_")

    @property
    def module(self) -> Any:
        """Its module in this package."""
        return import_module(f"{__name__}.{self.module_name}")

    def at(self, scale: float, function: Any) -> Any:
        """Return a function of its module for noise of ``scale``."""
        return partial(function, scale=scale) if self.discrete else function

    def quantiles(self, tail: Any, scale: float) -> tuple[Any, Any]:
        """Return F⁻¹(``tail``) and F⁻¹(1 − ``tail``), exact for small tails; arrays."""
        below = self.at(scale, self.module.quantile)(tail)
        return below, -below if self.symmetric else self.module.upper_quantile(tail)


REGISTRY: tuple[Law, ...] = (
    Law("gaussian", {"l2": "gaussian"}, "pixeldp-gaussian", ("analytic-gaussian", "renyi")),
    Law("laplace", {"l1": "laplace", "l2": "laplace-l2"}, "pixeldp-laplace"),
    Law("logistic", {"l1": "logistic"}, "pixeldp-logistic"),
    Law("uniform", {"l1": "uniform"}, "uniform"),
    Law("generalised-normal", {"l1": "generalised-normal"}, "pixeldp-generalised-normal"),
    Law("exponential", {"l1": "exponential"}, "pixeldp-exponential", symmetric=False),
    Law("discrete-laplace", {"l1": "discrete-laplace"}, "pixeldp-discrete-laplace", discrete=True),
    Law("split", {"l1": "split"}, "split", additive=False),
    Law("interval", {"linf": "interval"}, "interval", additive=False),
)
LAWS: dict[str, Law] = {law.name: law for law in REGISTRY}

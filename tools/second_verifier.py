"""A second verifier of answers, written from docs/verification.md alone.

    python tools/second_verifier.py answer.json        (- for standard input)

It imports nothing of the project, so that a mistake in the project's code is not repeated here, and
whoever trusts neither can read this one file beside the page. Exit status 0: everything that
follows from the evidence was found again; 1: something differs; 2: this is no answer with evidence.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from scipy.sparse import csr_array
from scipy.special import betaincinv, gammaincc, gammainccinv, ndtr, ndtri
from scipy.stats import hypergeom

WORD = (
    "model",
    "compute",
    "timing_ms",
    "the names of the labels",
    "noise",
    "picture",
    "the question: norm, target, confidence, budget.asked, budget.granted",
    "how many scores and attacks are shown",
    "the evidence: the tallies, votes, bound, restarts, allow, tau, rho, input_shape",
    "sensitivities beside the first",
)
NORMS = ("l1", "l2", "linf")
MOST_DRAWS = 2**23 - 1
BETS = 1 / (1 + np.exp(-np.arange(-5.0, 7.0)))
WEIGHTS = np.sqrt(BETS * (1 - BETS)) / np.sqrt(BETS * (1 - BETS)).sum()


class MalformedError(ValueError):
    """This is no answer with evidence."""


class ImpossibleError(ValueError):
    """An answer that cannot be, whatever else it says."""


# What is there, and of which type -----------------------------------------------------------------


def refuse(path: str, expected: str) -> NoReturn:
    """Say which member no answer has."""
    raise MalformedError(f"{path}: expected {expected}")


def impossible(path: str, expected: str) -> NoReturn:
    """Say which member cannot be."""
    raise ImpossibleError(f"{path}: cannot be, expected {expected}")


def text(value: Any, path: str) -> None:
    """Accept a text."""
    if not isinstance(value, str):
        refuse(path, "a text")


def flag(value: Any, path: str) -> None:
    """Accept true or false."""
    if not isinstance(value, bool):
        refuse(path, "true or false")


def number(value: Any, path: str) -> None:
    """Accept a number that float64 can hold."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not abs(value) <= sys.float_info.max:
        refuse(path, "a number")


def integer(value: Any, path: str) -> None:
    """Accept an integer, written without a fraction."""
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(path, "an integer")


def within(
    check: Callable[[Any, str], None], allowed: Callable[[Any], bool], words: str
) -> Callable[[Any, str], None]:
    """Accept what check accepts, if allowed."""

    def accept(value: Any, path: str) -> None:
        check(value, path)
        if not allowed(value):
            refuse(path, words)

    return accept


def one_of(*words: str) -> Callable[[Any, str], None]:
    """Accept one of some texts."""
    return within(text, lambda value: value in words, " or ".join(words))


def optional(check: Any) -> Callable[[Any, str], None]:
    """Accept null as well."""

    def accept(value: Any, path: str) -> None:
        if value is not None:
            inspect(value, check, path)

    return accept


def inspect(value: Any, schema: Any, path: str = "") -> None:
    """Compare a value with a schema: a check, {name: schema}, or [schema of every entry]."""
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            refuse(path or "the answer", "an object")
        for name in schema.keys() ^ value.keys():
            refuse(f"{path}.{name}".lstrip("."), "nothing" if name in value else "a value")
        for name, inner in schema.items():
            inspect(value[name], inner, f"{path}.{name}".lstrip("."))
    elif isinstance(schema, list):
        if not isinstance(value, list):
            refuse(path, "a list")
        for index, entry in enumerate(value):
            inspect(entry, schema[0], f"{path}[{index}]")
    else:
        schema(value, path)


def between(least: int, most: int) -> Callable[[Any, str], None]:
    """Accept an integer in a range."""
    return within(integer, lambda v: least <= v <= most, f"an integer from {least} to {most}")


def three(value: Any, path: str) -> None:
    """Accept channels, height and width."""
    inspect(value, [between(1, 4096)], path)
    if len(value) != 3:
        refuse(path, "three integers")


POSITIVE = within(number, lambda value: 1e-50 <= value <= 1e50, "a number above 0")
NOT_NEGATIVE = within(number, lambda value: 0 <= value <= 1e50, "a number of at least 0")
NAME = within(text, lambda value: value != "", "a text that is not empty")
PLACEMENT = within(text, lambda value: all(value.split(".")), "texts joined by dots")
DEVICE = within(text, lambda value: re.fullmatch("[a-z]+(:[0-9]+)?", value) is not None, "a device")
SUM, SIDE = between(0, 2**63 - 1), between(1, 16_384)
INTERVAL = {"lower": number, "upper": number}
TALLY = {"draws": between(0, MOST_DRAWS), "sums": [SUM], "sums_of_squares": [SUM]}
SCHEMA: dict[str, Any] = {
    "model": {
        "name": NAME,
        "version": NAME,
        "digest": NAME,
        "rows": one_of("built-in", "proven", "operator"),
    },
    "label": {"index": integer, "name": text},
    "robust": optional(flag),
    "certain": optional(
        {"labels": [{"index": integer, "name": text}], "within_allowed": optional(flag)}
    ),
    "certified_size": number,
    "norm": one_of(*NORMS),
    "target": optional(within(number, lambda value: 0 < value <= 1e50, "a number above 0")),
    "confidence": within(number, lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "draws": integer,
    "budget": {
        "asked": between(64, 2**53),
        "granted": between(64, MOST_DRAWS),
        "reachable": flag,
    },
    "stopped": text,
    "scores": [
        {"index": integer, "name": text, "expected": number}
        | INTERVAL
        | {"attacked": optional(INTERVAL)}
    ],
    "certificate": INTERVAL
    | {
        "method": text,
        "sizes": dict.fromkeys(NORMS, number),
        "paper": {"method": text, "size": number},
    },
    "noise": {
        "mechanism": one_of(
            "gaussian",
            "laplace",
            "logistic",
            "uniform",
            "generalised-normal",
            "exponential",
            "discrete-laplace",
            "split",
            "interval",
        ),
        "scale": POSITIVE,
        "placement": PLACEMENT,
        "sensitivity": POSITIVE,
        "norm": one_of(*NORMS),
        "scoring": one_of("votes", "softmax"),
    },
    "picture": {
        "width": SIDE,
        "height": SIDE,
        "mode": one_of("L", "RGB"),
        "bits": within(integer, lambda value: value in (8, 16), "8 or 16"),
    },
    "preprocessing": {"steps": [text], "sensitivity": POSITIVE},
    "compute": {
        "device": DEVICE,
        "provider": one_of("pytorch", "openvino"),
        "precision": one_of("float32", "bfloat16", "int8"),
        "pass_size": between(1, 2**31 - 1),
        "compiled": flag,
    },
    "timing_ms": dict.fromkeys(("decode", "queue", "compute", "total"), NOT_NEGATIVE),
    "attacks": optional(
        {
            "sizes": [number],
            "scores": [{"index": integer, "lower": [number], "upper": [number]}],
            "others": optional([number]),
        }
    ),
    "evidence": {
        "label": integer,
        "pilot_draws": integer,
        "denominator": integer,
        "bound": one_of("betting", "clopper-pearson", "majority", "counting", "interval"),
        "alpha_certificate": number,
        "alpha_label": number,
        "alpha_rival": number,
        "alpha_scores": number,
        "restarts": between(0, 500),
        "allow": optional([between(0, 2**31 - 1)]),
        "tau": within(number, lambda value: 0 <= value < 0.5, "a number from 0 and below 0.5"),
        "rho": NOT_NEGATIVE,
        "pilot": TALLY,
        "total": TALLY,
        "sensitivities": [
            {
                "source": one_of(*NORMS),
                "target": one_of(*NORMS),
                "value": POSITIVE,
                "rho": NOT_NEGATIVE,
            }
        ],
        "votes": optional([optional(between(-1, 2**31 - 1))]),
        "input_shape": three,
    }
    | TALLY,
}


def spans(value: Any, path: str) -> None:
    """Accept one to eight pairs of integers."""
    inspect(value, [[between(0, 4096)]], path)
    if not 1 <= len(value) <= 8 or any(len(span) != 2 for span in value):
        refuse(path, "one to eight pairs")


SAME = ("model", "label", "target", "confidence", "draws", "stopped", "scores")
STICKER_SCHEMA: dict[str, Any] = {
    name: SCHEMA[name] for name in (*SAME, "picture", "compute", "timing_ms")
} | {
    "threat": one_of("sticker"),
    "robust": flag,
    "sticker": {"certified": flag, "label": SCHEMA["label"], "side": integer},
    "budget": {"asked": integer, "granted": integer, "reachable": flag},
    "certificate": {
        "method": text,
        "masks": {"rows": [[integer]], "columns": [[integer]]},
        "views": integer,
    },
    "preprocessing": {"steps": [text]},
    "evidence": {
        "threat": one_of("sticker"),
        "side": SIDE,
        "rows": spans,
        "columns": spans,
        "votes": [optional(between(-1, 2**31 - 1))],
        "labels": between(2, 2**20),
        "input_shape": three,
    },
}


# Tallies ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """n draws; for each label the sum in units of 1/D and of squares in units of 1/D²."""

    n: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]
    denominator: int

    @classmethod
    def of(cls, member: dict[str, Any], denominator: int) -> "Tally":
        """Read a tally of the evidence."""
        sums, squares = ([int(entry) for entry in member[k]] for k in ("sums", "sums_of_squares"))
        return cls(int(member["draws"]), tuple(sums), tuple(squares), denominator)

    def combine(self, other: "Tally", sign: int = 1) -> "Tally":
        """Add another tally, or take it away."""
        return Tally(
            self.n + sign * other.n,
            tuple(a + sign * b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + sign * b for a, b in zip(self.squares, other.squares, strict=True)),
            self.denominator,
        )

    def take(self, labels: Sequence[int]) -> "Tally":
        """Return the tally of some labels alone."""
        sums, squares = ([tally[i] for i in labels] for tally in (self.sums, self.squares))
        return Tally(self.n, tuple(sums), tuple(squares), self.denominator)

    def order(self) -> list[int]:
        """Return the labels by falling sum, the lowest index first among equals."""
        return sorted(range(len(self.sums)), key=lambda i: -self.sums[i])

    def rival(self, label: int) -> int:
        """Return the label other than this one with the largest sum."""
        return next(i for i in self.order() if i != label)

    def check(self, name: str, votes: bool) -> None:
        """Refuse what no draws give."""
        n, one = self.n, self.denominator
        possible = n >= 0 and sum(self.sums) <= n * one
        for s, ss in zip(self.sums, self.squares, strict=True):
            possible &= 0 <= ss <= s * one and s * s <= n * ss and not (votes and s != ss)
        if not possible:
            impossible(name, "a tally that draws can give")


@dataclass(frozen=True)
class Steps:
    """The pilot's blocks and its longest, the first look, the least step and how steps grow."""

    block: int
    longest: int
    first: int
    step: int
    growth: float

    @classmethod
    def of(cls, target: float | None) -> "Steps":
        """Return those without or with a target."""
        return cls(32, 128, 32, 32, 0.15) if target is None else cls(16, 64, 8, 8, 0.0625)

    def pilot_ended(self, pilot: Tally, granted: int) -> bool:
        """Say whether the pilot ends here."""
        first, second = pilot.order()[:2]
        one, longer = pilot.denominator, pilot.n + self.block
        lead = (pilot.sums[first] - pilot.sums[second]) / one
        spread = (pilot.squares[first] + pilot.squares[second]) / one**2 - lead * lead / pilot.n
        clear = lead > 2 * math.sqrt(max(0.0, spread))
        return pilot.n == self.longest or longer + self.first > granted or clear

    def looks(self, end: int) -> list[int]:
        """Return the numbers of counted draws at which there is a look."""
        found = [min(self.first, end)]
        while found[-1] < end:
            further = self.step * (math.floor(self.growth * found[-1]) // self.step)
            found.append(min(end, found[-1] + max(self.step, further)))
        return found


def alone(pilot: Tally) -> bool:
    """Say whether one rival has in the pilot all that its leader has not."""
    label = pilot.order()[0]
    return pilot.sums[pilot.rival(label)] >= pilot.n * pilot.denominator - pilot.sums[label]


# Bounds on a mean ---------------------------------------------------------------------------------


@lru_cache(maxsize=200_000)
def betting(n: int, total: int, squares: int, one: int, chance: float) -> float:
    """Return the lower bound on a mean by betting."""
    if total == 0 or squares == 0:
        return 0.0
    s, ss = total / one, squares / one / one
    x, n1 = ss / s, s / ss * s
    n0 = max(n - n1, 0.0)
    k = np.log(WEIGHTS) + n0 * np.log(1 - BETS)
    with np.errstate(over="ignore"):
        m = float(np.max(BETS * x / (np.exp((-math.log(chance) - k) / n1) - 1 + BETS)))
    if m <= 1e-200:
        return 0.0
    for _ in range(3):
        r = BETS * x / m
        power = k + n1 * np.log(1 - BETS + r)
        top = power.max()
        wealth = np.exp(power - top)
        value = max(0.0, top + math.log(wealth.sum()) + math.log(chance))
        slope = n1 / m * float((wealth * r / (1 - BETS + r)).sum() / wealth.sum())
        m += value / slope
    return min(max(m, 0.0), 1.0)


def lower_bound(bound: str, n: int, total: int, squares: int, one: int, chance: float) -> float:
    """Return the lower bound on a label's expected score."""
    if bound == "betting":
        return betting(n, total, squares, one, chance)
    return float(betaincinv(total, n - total + 1, chance)) if total else 0.0


def upper_bound(bound: str, n: int, total: int, squares: int, one: int, chance: float) -> float:
    """Return the upper bound: 1 less the lower bound of what is missing."""
    missing = n * one**2 - 2 * one * total + squares
    return 1 - lower_bound(bound, n, n * one - total, missing, one, chance)


def largest_upper(bound: str, tally: Tally, label: int, chance: float, votes: bool) -> float:
    """Return the largest upper bound of the labels other than one."""
    others = [i for i in tally.order() if i != label]
    pairs = [(tally.sums[i], tally.squares[i]) for i in others]
    if not votes and len(pairs) > 3:
        pairs[3:] = [(pairs[3][0], pairs[3][0] * tally.denominator)]
    return max(upper_bound(bound, tally.n, *pair, tally.denominator, chance) for pair in set(pairs))


# The question, and what the noise makes of bounds -------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One bound on how far preprocessing and g move."""

    source: str
    target: str
    value: float
    rho: float


@dataclass(frozen=True)
class Question:
    """What was asked, and all that a size depends on beside the tallies."""

    norm: str
    target: float | None
    confidence: float
    restarts: int
    granted: int
    labels: int
    votes: bool
    mechanism: str
    scale: float
    tau: float
    values: int
    entries: tuple[Entry, ...]

    @property
    def alpha(self) -> float:
        """Return the chance that anything in this run is wrong."""
        part = 2.0**-20
        run = 1 - part if self.restarts == 0 else part / 7 * 2.0**-self.restarts
        return run * (1 - self.confidence)

    @property
    def alpha_scores(self) -> float:
        """Return the part of the intervals shown."""
        return (1 - 0.9) * self.alpha

    @property
    def shares(self) -> dict[str, float]:
        """Return the share of everything that a certificate can rest on."""
        if not self.votes:
            return {"betting": 1.0}
        if self.target is None:
            return {"betting": 0.1, "clopper-pearson": 0.9}
        return {"betting": 0.1, "clopper-pearson": 0.5, "majority": 0.4}

    def parts(self, bound: str, alone: bool) -> tuple[float, float]:
        """Return the label's and the rival's part of alpha; see :func:`alone`."""
        part = self.shares[bound] * (0.9 * self.alpha)
        if bound == "majority":
            return part / 2, 0.0
        if self.labels == 2 or (bound == "betting" and alone):
            mine = 1.0
        else:
            mine = 0.5 if self.target is not None or not self.votes else 0.8
        return mine * part, (1 - mine) * part

    def method(self, entry: Entry) -> str:
        """Return the certificate of an entry."""
        both = (self.mechanism, entry.target) == ("laplace", "l2")
        return "laplace-l2" if both else self.mechanism

    @property
    def paper(self) -> str:
        """Return the certificate of the paper's condition."""
        return "uniform" if self.mechanism == "uniform" else f"pixeldp-{self.mechanism}"


def bounds(
    question: Question, bound: str, pilot: Tally, counted: Tally, label: int, parts: Sequence[float]
) -> tuple[float, float]:
    """Return pA and pB."""
    mine, theirs = parts
    one, votes = counted.denominator, question.votes
    shown = question.alpha_scores / (2 * question.labels)
    both = pilot.combine(counted)
    if bound == "majority":
        p_a = lower_bound("betting", both.n, both.sums[label], both.squares[label], one, mine)
        if p_a <= 0.5:
            return 0.0, 1.0
        return p_a, min(1 - p_a, largest_upper("betting", both, label, shown, votes))
    p_a = lower_bound(bound, counted.n, counted.sums[label], counted.squares[label], one, mine)
    p_b = 1 - p_a
    if theirs > 0:
        p_b = min(p_b, largest_upper(bound, counted, label, theirs, votes))
    return p_a, min(p_b, largest_upper("betting", both, label, shown, votes))


def round_to(value: float, digits: int, up: bool = False) -> float:
    """Round a float64 to significant decimal digits, exactly, down or up."""
    context = Context(prec=digits, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    return float(context.create_decimal(Decimal(value)))


def clip(value: float) -> float:
    """Return the nearest value in [0, 1]."""
    return min(max(value, 0.0), 1.0)


def laplace_quantile(p: float) -> float:
    """Return the quantile of the Laplace law of scale 1."""
    if p <= 0.5:
        return math.log(2 * p) if p > 0 else -math.inf
    return -math.log(2 * (1 - p)) if p < 1 else math.inf


def laplace_law(x: float) -> float:
    """Return the distribution function of the Laplace law of scale 1."""
    return 0.5 * math.exp(x) if x <= 0 else 1 - 0.5 * math.exp(-x)


def logistic_quantile(p: float) -> float:
    """Return the quantile of the logistic law of scale 1."""
    if p in (0, 1):
        return math.inf if p else -math.inf
    return math.log(p) - math.log1p(-p)


def logistic_law(x: float) -> float:
    """Return the distribution function of the logistic law of scale 1."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def uniform_quantile(p: float) -> float:
    """Return the quantile of the uniform law on [-1, 1]."""
    return 2 * p - 1


def uniform_law(x: float) -> float:
    """Return the distribution function of the uniform law on [-1, 1]."""
    return clip((1 + x) / 2)


def cubic_quantile(p: float) -> float:
    """Return the quantile of the law with a density like exp(-|x|^3)."""
    x = math.pow(gammainccinv(1 / 3, 2 * min(p, 1 - p)), 1 / 3)
    return -x if p <= 0.5 else x


def cubic_law(x: float) -> float:
    """Return the distribution function of the law with a density like exp(-|x|^3)."""
    tail = 0.5 * float(gammaincc(1 / 3, abs(x) ** 3))
    return tail if x <= 0 else 1 - tail


def exponential_shift(p_a: float, p_b: float) -> float:
    """Return the shift up to which what attacks make of p_a stays above what they make of p_b."""
    shifts = [math.log1p(p_a - p_b)]
    if p_a < 1:
        shifts.append(0.5 * math.log((1 - p_b) / (1 - p_a)))
    if p_b > 0:
        shifts.append(0.5 * math.log(p_a / p_b))
    return min(shifts)


def exponential_moves(low: float, high: float, mu: float) -> tuple[float, float]:
    """Return what moves by mu, up or down, make of scores between low and high."""
    left = math.exp(min(mu + math.log(1 - low), 0.0)) if low < 1 else 0.0
    grown = math.exp(min(mu + math.log(high), 0.0)) if high > 0 else 0.0
    shrunk = math.exp(-mu)
    return min(1 - left, shrunk * low), max(grown, 1 - shrunk * (1 - high))


def step_tail(n: int, spread: float) -> float:
    """Return the chance of more than n steps, n >= -1, of the discrete Laplace law."""
    return math.exp(-(n + 1) / spread) / (1 + math.exp(-1 / spread))


def step_quantile(p: float, spread: float) -> float:
    """Return the quantile, in steps, of the discrete Laplace law plus a uniform part of a step."""
    tail = min(p, 1 - p)
    if tail == 0:
        return math.copysign(math.inf, p - 0.5)
    tail = max(tail, 1e-300)
    n = math.floor(-spread * (math.log(tail) + math.log1p(math.exp(-1 / spread)))) - 1
    n = max(n, -1)
    over = step_tail(n, spread)
    x = n + 0.5 + (over - tail) / (over * -math.expm1(-1 / spread))
    return -x if p <= 0.5 else x


def step_law(x: float, spread: float) -> float:
    """Return the distribution function of the discrete Laplace law plus such a part."""
    far = min(abs(x), 800 * spread + 1)
    n = math.floor(far + 0.5) - 1
    tail = step_tail(n, spread) * (1 + (far - 0.5 - n) * math.expm1(-1 / spread))
    return tail if x <= 0 else 1 - tail


def step_shift(p_a: float, p_b: float, spread: float) -> float:
    """Return the largest whole number of steps that is certified, in scales."""
    apart = step_quantile(p_a, spread) - step_quantile(p_b, spread)
    if math.isinf(apart):
        return apart
    return max(0, math.floor((apart * (1 - 1e-9) - 1e-9) / 2)) / spread


def step_moves(low: float, high: float, mu: float, spread: float) -> tuple[float, float]:
    """Return what moves by the whole steps within mu make of scores between low and high."""
    steps = math.floor(mu * spread + 1e-6)
    low = 0.0 if low < 1e-300 else low
    down, up = step_quantile(low, spread) - steps, step_quantile(high, spread) + steps
    return step_law(down, spread), step_law(up, spread)


def normal_quantile(p: float) -> float:
    """Return the quantile of the normal law."""
    return float(ndtri(p))


def normal_law(x: float) -> float:
    """Return the distribution function of the normal law."""
    return float(ndtr(x))


LAWS = {
    "gaussian": (normal_law, normal_quantile),
    "laplace-l2": (normal_law, normal_quantile),
    "laplace": (laplace_law, laplace_quantile),
    "logistic": (logistic_law, logistic_quantile),
    "uniform": (uniform_law, uniform_quantile),
    "generalised-normal": (cubic_law, cubic_quantile),
}


def paper_gaussian(p_a: float, p_b: float) -> float:
    """Return the shift of the paper's condition for Gaussian noise."""

    def shift(epsilon: float) -> float:
        delta = (p_a - math.exp(2 * epsilon) * p_b) / (1 + math.exp(epsilon))
        return epsilon / math.sqrt(2 * math.log(1.25 / delta)) if delta > 0 else 0.0

    low, high = 0.0, min(1.0, 0.5 * math.log(p_a / p_b)) if p_b > 0 else 1.0
    best = shift(high)
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(100):
        left, right = high - golden * (high - low), low + golden * (high - low)
        values = shift(left), shift(right)
        best = max(best, *values)
        low, high = (low, right) if values[0] >= values[1] else (left, high)
    return best


def shift_of(method: str, p_a: float, p_b: float, scale: float) -> float:
    """Return the shift in noise scales that the bounds certify."""
    if p_a <= p_b:
        return 0.0
    if method == "pixeldp-gaussian":
        return paper_gaussian(p_a, p_b)
    if method == "pixeldp-generalised-normal":
        return 2 * cubic_quantile(0.5 + (p_a - p_b) / 4)
    if method == "pixeldp-exponential":
        return -math.log1p(-(p_a - p_b) / 2)
    if method.startswith("pixeldp-"):
        return 0.5 * math.log(p_a / p_b) if p_b > 0 else math.inf
    if method == "exponential":
        return exponential_shift(p_a, p_b)
    if method == "discrete-laplace":
        return step_shift(p_a, p_b, 255 * scale)
    _, quantile = LAWS[method]
    half = 0.5 * (quantile(p_a) - quantile(p_b))
    return math.sqrt(2 / math.pi) * half if method == "laplace-l2" else half


def convert(size: float, source: str, norm: str, values: int) -> float:
    """Return the size in another norm."""
    if source in (norm, "linf"):
        return size
    if (source, norm) in (("l1", "l2"), ("l2", "linf")):
        return size / math.sqrt(values)
    if source == "l1":
        return size / values
    if size <= 1:
        return size
    whole = math.floor(size * size)
    return whole + math.sqrt(size * size - whole)


def whole_size(question: Question, entry: Entry, method: str, p_a: float, p_b: float) -> float:
    """Return the size in the entry's own norm."""
    tau, scale = question.tau, question.scale
    p_a = clip((1 - 2 * tau) * (p_a - tau))
    p_b = clip((1 - 2 * tau) * (p_b + tau) + 2 * tau)
    return max(0.0, (scale * shift_of(method, p_a, p_b, scale) - entry.rho) / entry.value)


def entry_size(question: Question, entry: Entry, method: str, p_a: float, p_b: float) -> float:
    """Return the size in the entry's own norm, its error taken off."""
    size = whole_size(question, entry, method, p_a, p_b)
    return max(0.0, size * (1 - 1e-9) - 1e-12 * max(1.0, question.scale / entry.value))


def sizes(question: Question, p_a: float, p_b: float) -> tuple[dict[str, float], str]:
    """Return the certified size in every norm, and the method of the one in the answer's norm."""
    own = [entry_size(question, e, question.method(e), p_a, p_b) for e in question.entries]
    found = {
        norm: [
            round_to(convert(size, entry.source, norm, question.values), 6)
            for entry, size in zip(question.entries, own, strict=True)
        ]
        for norm in NORMS
    }
    if question.mechanism == "discrete-laplace" and math.isfinite(own[0]):
        whole = whole_size(question, question.entries[0], question.mechanism, p_a, p_b)
        exact = Context(prec=6, rounding=ROUND_FLOOR)
        found["l1"] = [float(exact.divide(Decimal(round(whole * 255)), Decimal(255)))]
    mine = found[question.norm]
    best = question.entries[mine.index(max(mine))]
    return {norm: max(of) for norm, of in found.items()}, question.method(best)


def paper_size(question: Question, p_a: float, p_b: float) -> float:
    """Return what the paper's own condition makes of the same bounds."""
    first = question.entries[0].target
    return max(
        round_to(
            convert(
                entry_size(question, entry, question.paper, p_a, p_b),
                entry.source,
                question.norm,
                question.values,
            ),
            6,
        )
        for entry in question.entries
        if entry.target == first
    )


# The reachable size, and giving up ----------------------------------------------------------------


def size_by(
    question: Question, bound: str, pilot: Tally, counted: Tally, alone: bool, label: int = 0
) -> float:
    """Return the size that one bound gives."""
    p_a, p_b = bounds(question, bound, pilot, counted, label, question.parts(bound, alone))
    return sizes(question, p_a, p_b)[0][question.norm]


def best_size(question: Question, pilot: Tally, counted: Tally, alone: bool) -> float:
    """Return the largest size that any bound gives, label 0 leading."""
    both = pilot.combine(counted)
    return max(
        size_by(question, bound, pilot, counted, alone, both.order()[0] * (bound == "majority"))
        for bound in question.shares
    )


@lru_cache(maxsize=4096)
def reachable(question: Question) -> float:
    """Return R, the size where every draw gives one label all."""
    block = Steps.of(question.target).block
    pilot, counted = (Tally(n, (n, 0), (n, 0), 1) for n in (block, question.granted - block))
    return best_size(question, pilot, counted, alone=True)


def extrapolate(tally: Tally, labels: Sequence[int], end: int, votes: bool) -> Tally:
    """Return a label and its rival at the end, as the label would have it."""
    one, n = tally.denominator, tally.n
    errors = 3 if n < 128 else 2
    now = tally.take(labels)
    sums, squares = [], []
    for sign, s, ss in zip((1, -1), now.sums, now.squares, strict=True):
        m, q = s / one / n, ss / one / one / n
        error = math.sqrt(max(0.0, q - m * m) / n)
        z = clip(m + sign * errors * error) * (end - n) * one
        z = math.ceil(z) if sign > 0 else math.floor(z)
        ratio = min(q / m, 1.0) if m else 1.0
        sums.append(s + z)
        squares.append(ss + math.floor(z * ratio) * one)
    sums[0] = min(sums[0], end * one)
    squares[0] = min(squares[0], end * one**2)
    return Tally(end, tuple(sums), tuple(sums if votes else squares), one)


def hopeless(question: Question, pilot: Tally, counted: Tally, label: int) -> bool:
    """Say whether the target is out of reach at a look."""
    assert question.target is not None
    pair, votes = [label, counted.rival(label)], question.votes
    then = extrapolate(counted, pair, question.granted - pilot.n, votes)
    if best_size(question, pilot.take(pair), then, alone(pilot)) >= question.target:
        return False
    total = pilot.combine(counted)
    leader = total.order()[0]
    if leader == label or "majority" not in question.shares:
        return True
    then = extrapolate(total, [leader, total.rival(leader)], question.granted, votes)
    none = Tally(0, (0, 0), (0, 0), total.denominator)
    return size_by(question, "majority", none, then, False, then.order()[0]) < question.target


# Preprocessing ------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def axis_norm(n: int, resized: int, kept: int, norm: str) -> float:
    """Return the norm of an axis: resized from n, of which the middle is kept."""
    if n == resized == kept:
        return 1.0
    step = n / resized
    reach = max(1.0, step)
    first = (resized - kept) // 2
    centres = (first + np.arange(kept) + 0.5) * step
    width = math.ceil(2 * reach) + 3
    columns = np.floor(centres - reach - 1).astype(int)[:, None] + np.arange(width)
    weights = np.maximum(0, 1 - np.abs(columns + 0.5 - centres[:, None]) / reach)
    weights[(columns < 0) | (columns >= n)] = 0
    weights /= weights.sum(1, keepdims=True)
    rows = np.repeat(np.arange(kept), width)
    there = weights.ravel() > 0
    matrix = csr_array(
        (weights.ravel()[there], (rows[there], columns.ravel()[there])), shape=(kept, n)
    )
    column_sum, row_sum = float(matrix.sum(axis=0).max()), float(matrix.sum(axis=1).max())
    if norm != "l2":
        return column_sum if norm == "l1" else row_sum
    if min(kept, n) > 1024:
        return math.sqrt(row_sum * column_sum)
    square = matrix @ matrix.T if kept <= n else matrix.T @ matrix
    return math.sqrt(float(np.linalg.eigvalsh(square.toarray())[-1]))


def preprocessing(picture: dict[str, Any], shape: Sequence[int], norm: str) -> tuple[Any, float]:
    """Return the steps and the sensitivity."""
    steps, colours, axes = way(picture, shape)
    order = {"l1": 1, "l2": 2, "linf": np.inf}[norm]
    product = float(np.linalg.norm(colours, order))
    for axis in axes:
        product *= axis_norm(*axis, norm)
    return steps, 1.0 if product == 1 else round_to(product * (1 + 1e-10), 12, up=True)


def way(
    picture: dict[str, Any], shape: Sequence[int]
) -> tuple[list[str], Any, list[tuple[int, int, int]]]:
    """Return the steps, the matrix of the colours, and each axis: from, resized to, kept."""
    width, height = int(picture["width"]), int(picture["height"])
    mode = 1 if picture["mode"] == "L" else 3
    channels, h, w = (int(side) for side in shape)
    if channels not in (1, 3):
        impossible("evidence.input_shape", "1 or 3 channels")
    if h * width >= w * height:
        new_h, new_w = h, (2 * width * h + height) // (2 * height)
    else:
        new_h, new_w = (2 * height * w + width) // (2 * width), w
    if new_h > 64 * height or new_w > 64 * width:
        impossible("picture", "a picture that is not enlarged more than 64 times")
    steps = []
    colours = np.ones((1, 1))
    if (mode, channels) == (3, 1):
        steps, colours = ["greyscale"], np.array([[0.299, 0.587, 0.114]])
    elif (mode, channels) == (1, 3):
        steps, colours = ["grey to RGB"], np.ones((3, 1))
    if (new_w, new_h) != (width, height):
        steps.append(f"resize {width}x{height} to {new_w}x{new_h}")
    if (new_w, new_h) != (w, h):
        steps.append(f"crop to {w}x{h}")
    return steps, colours, [(height, new_h, h), (width, new_w, w)]


# What an attacker can reach -----------------------------------------------------------------------


def attack_in(size: float, norm: str, source: str, values: int) -> float:
    """Return an attack's size in the norm of an entry."""
    if source in (norm, "linf"):
        return size
    if norm == "l1":
        whole = math.floor(size)
        return size if size <= 1 else math.sqrt(whole + (size - whole) ** 2)
    return size * values if (norm, source) == ("linf", "l1") else size * math.sqrt(values)


def moved(method: str, lower: float, upper: float, mu: float, scale: float) -> tuple[float, float]:
    """Return what a move of the noise by mu scales can make of scores between bounds."""
    if method == "exponential":
        return exponential_moves(lower, upper, mu)
    if method == "discrete-laplace":
        return step_moves(lower, upper, mu, 255 * scale)
    law, quantile = LAWS[method]
    return law(quantile(lower) - mu), law(quantile(upper) + mu)


def attacked(question: Question, size: float, lower: float, upper: float) -> tuple[float, float]:
    """Return where an attack of a size can move an expected score between bounds."""
    low, high, tau = 0.0, 1.0, question.tau
    for entry in question.entries:
        method = question.method(entry)
        t = attack_in(size, question.norm, entry.source, question.values)
        mu = (entry.value * t * (1 + 1e-14) + entry.rho) / question.scale
        if method == "laplace-l2":
            mu *= math.sqrt(math.pi / 2)
        down, up = moved(method, clip(lower - tau), clip(upper + tau), mu, question.scale)
        down, up = clip(down - tau) * (1 - 1e-13), min(1.0, clip(up + tau) * (1 + 1e-13))
        low, high = max(low, down), min(high, up)
    return low, high


Interval = tuple[float, float]


def six_digits(interval: Interval) -> Interval:
    """Round to six significant digits."""
    return digits(interval, 6)


def six_decimals(interval: Interval) -> Interval:
    """Round to six decimals."""
    low, high = interval
    return math.floor(1e6 * low) / 1e6, min(1.0, math.ceil(1e6 * high) / 1e6)


def digits(interval: Interval, count: int) -> Interval:
    """Round to significant digits, outwards."""
    return round_to(interval[0], count), min(1.0, round_to(interval[1], count, up=True))


def stated(
    intervals: list[Interval], certified: bool, rounding: Callable[[Interval], Interval]
) -> list[Interval]:
    """Round the intervals of one size, the label's first, so that it exceeds all others."""
    rounded = [rounding(interval) for interval in intervals]
    for count in (9, 12, 15):
        if not certified or rounded[0][0] > max((high for _, high in rounded[1:]), default=0):
            break
        rounded = [digits(interval, count) for interval in intervals]
    return rounded


# The answer, computed again -----------------------------------------------------------------------


class Answer:
    """An answer with evidence, and what follows from it.

    Raises:
        ImpossibleError: When its evidence cannot be.
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        evidence, noise, picture = answer["evidence"], answer["noise"], answer["picture"]
        self.votes = noise["scoring"] == "votes"
        self.one = 1 if self.votes else 2**20
        self.granted = int(answer["budget"]["granted"])
        if answer["budget"]["asked"] < self.granted:
            impossible("budget.granted", "at most budget.asked")
        if answer["confidence"] == 1 or evidence["votes"] is not None:
            impossible(
                "confidence or evidence.votes", "certainty and votes by split or interval only"
            )
        self.read_tallies(evidence)
        self.first = Entry(
            noise["norm"],
            "l2" if noise["mechanism"] == "gaussian" else "l1",
            noise["sensitivity"] * answer["preprocessing"]["sensitivity"],
            evidence["rho"],
        )
        further = [Entry(**entry) for entry in evidence["sensitivities"][1:]]
        entries = (self.first, *further)
        self.question = Question(
            norm=answer["norm"],
            target=None if answer["target"] is None else float(answer["target"]),
            confidence=float(answer["confidence"]),
            restarts=evidence["restarts"],
            granted=self.granted,
            labels=self.labels,
            votes=self.votes,
            mechanism=noise["mechanism"],
            scale=float(noise["scale"]),
            tau=float(evidence["tau"]),
            values=picture["width"] * picture["height"] * (1 if picture["mode"] == "L" else 3),
            entries=entries,
        )
        self.target = self.question.target
        self.check_sensitivities(entries)
        if noise["mechanism"] == "discrete-laplace":
            self.check_pixels()
        self.check_shown()

    def read_tallies(self, evidence: dict[str, Any]) -> None:
        """Read the tallies and refuse those that cannot be."""
        members = {"pilot": evidence["pilot"], "counted": evidence, "total": evidence["total"]}
        self.labels = len(evidence["sums"])
        if self.labels < 2:
            impossible("evidence.sums", "two labels or more")
        for name, member in members.items():
            for kind in ("sums", "sums_of_squares"):
                if len(member[kind]) != self.labels:
                    impossible(f"evidence, {name}: {kind}", f"{self.labels} labels")
        self.pilot, self.counted, self.total = (
            Tally.of(member, self.one) for member in members.values()
        )
        self.after = self.total.combine(self.pilot, -1)
        rest = self.after.combine(self.counted, -1)
        for name, tally in zip(
            ("pilot", "counted", "total", "rest"),
            (self.pilot, self.counted, self.total, rest),
            strict=True,
        ):
            tally.check(f"evidence, {name}", self.votes)
        steps = Steps.of(self.answer["target"])
        pilots = range(steps.block, steps.longest + 1, steps.block)
        if self.pilot.n not in pilots or not steps.pilot_ended(self.pilot, self.granted):
            impossible("evidence.pilot", "a pilot that ended")
        if self.total.n > self.granted:
            impossible("evidence.total.draws", "at most budget.granted")
        self.looks = steps.looks(self.granted - self.pilot.n)
        self.bound = evidence["bound"]
        if self.bound in ("counting", "interval"):
            impossible("evidence.bound", f"{self.bound} not with this noise")
        self.between = self.bound == "majority" and rest.n == 0
        if self.counted.n not in self.looks and not self.between:
            impossible("evidence.draws", "a look")
        if self.bound == "clopper-pearson" and not (
            self.votes and self.counted.n == self.looks[-1]
        ):
            impossible("evidence.bound", "clopper-pearson at the last look of votes only")
        if self.bound == "majority" and not (self.votes and self.answer["target"] is not None):
            impossible("evidence.bound", "majority for votes with a target only")
        self.chosen = self.pilot.order()[0]
        most = self.pilot.combine(self.counted).order()[0]
        self.label = most if self.bound == "majority" else self.chosen
        self.leads = self.total.order()[0] == self.label

    def check_sensitivities(self, entries: tuple[Entry, ...]) -> None:
        """Refuse entries that no model has."""
        if len({(entry.source, entry.target) for entry in entries}) < len(entries):
            impossible("evidence.sensitivities", "one entry for each source and target")
        for entry in entries[1:]:
            others = ("l2",) if self.question.mechanism == "laplace" else ()
            if entry.target not in (*others, self.first.target):
                impossible(
                    "evidence.sensitivities", "a target that the noise has a certificate for"
                )
            if entry.target == entries[0].target and entry.rho != entries[0].rho:
                impossible("evidence.sensitivities", "the rho of the first entry")

    def check_pixels(self) -> None:
        """Refuse all but whole steps of 8-bit pixels as they are."""
        noise, picture = self.answer["noise"], self.answer["picture"]
        shape = self.answer["evidence"]["input_shape"]
        steps, gain = preprocessing(picture, shape, noise["norm"])
        if any(not step.startswith("crop") for step in steps) or picture["bits"] != 8:
            impossible("picture", "8 bits, and one of the model's colours and size, or cropped")
        if (noise["placement"], noise["norm"]) != ("image", "l1"):
            impossible("noise", "noise of the image, in l1")
        if (noise["sensitivity"], gain, self.first.value, self.first.rho) != (1, 1, 1, 0):
            impossible("noise or evidence", "a sensitivity of 1, and a rho of 0")
        if len(self.question.entries) > 1:
            impossible("evidence.sensitivities", "one entry")

    def check_shown(self) -> None:
        """Refuse lists of labels and sizes that cannot be."""
        allow = self.answer["evidence"]["allow"]
        if allow is not None and allow[-1] >= self.labels:
            impossible("evidence.allow", "labels that there are")
        shown = self.answer["scores"]
        if not 1 <= len(shown) <= self.labels:
            impossible("scores", "one label or more, but no more than there are")
        if len({score["name"] for score in shown}) < len(shown):
            impossible("scores", "different names")
        attacks = self.answer["attacks"]
        if attacks is None:
            return
        if not 2 <= len(attacks["sizes"]) <= 200:
            impossible("attacks.sizes", "from 2 to 200 sizes")

    def again(self) -> dict[str, Any]:
        """Return all members that follow, by their paths."""
        question, evidence = self.question, self.answer["evidence"]
        noise = self.answer["noise"]
        steps, moved = preprocessing(self.answer["picture"], evidence["input_shape"], noise["norm"])
        claimed = float(self.answer["preprocessing"]["sensitivity"])
        mine, theirs = parts = question.parts(self.bound, alone(self.pilot))
        p_a, p_b = 0.0, 1.0
        if self.leads:
            p_a, p_b = bounds(question, self.bound, self.pilot, self.counted, self.label, parts)
            certified, method = sizes(question, p_a, p_b)
        else:
            certified, method = dict.fromkeys(NORMS, 0.0), question.method(question.entries[0])
        self.size = certified[question.norm]
        self.bounds = p_a, p_b
        target = question.target
        reach = reachable(question)
        found = {
            "label": {"index": self.total.order()[0], "name": self.answer["scores"][0]["name"]},
            "robust": None if target is None else self.size > 0 and self.size >= target,
            "certain": self.certain(),
            "certified_size": self.size,
            "draws": self.total.n,
            "budget.reachable": reach > 0 if target is None else reach >= target,
            "stopped": self.stopped(),
            "certificate": {
                "method": method,
                "lower": round_to(p_a, 6),
                "upper": round_to(p_b, 6, up=True),
                "sizes": certified,
                "paper": {
                    "method": question.paper,
                    "size": paper_size(question, p_a, p_b) if self.size else 0.0,
                },
            },
            "preprocessing.steps": steps,
            "preprocessing.sensitivity": claimed if abs(claimed - moved) <= 1e-9 * moved else moved,
            "evidence.label": self.label,
            "evidence.pilot_draws": self.pilot.n,
            "evidence.alpha_certificate": 2 * mine if self.bound == "majority" else mine + theirs,
            "evidence.alpha_label": mine,
            "evidence.alpha_rival": theirs,
            "evidence.alpha_scores": question.alpha_scores,
            "evidence.denominator": self.one,
            "evidence.sensitivities": [vars(entry) for entry in question.entries],
        }
        found["scores"], found["attacks"] = self.scores(reach)
        return found

    def found(
        self, method: str, certified: dict[str, float], reach: float, steps: list[str], moved: float
    ) -> dict[str, Any]:
        """Return the members that follow in one way for split noise and for intervals.

        Args:
            method: the certificate, which is the paper's, too.
            certified: the certified size in each norm.
            reach: the reachable size.
            steps: of preprocessing.
            moved: by how much it can enlarge a change.
        """
        target = self.target
        return {
            "label": {"index": self.total.order()[0], "name": self.answer["scores"][0]["name"]},
            "robust": None if target is None else self.size > 0 and self.size >= target,
            "certain": self.certain(),
            "certified_size": self.size,
            "draws": self.total.n,
            "budget.reachable": target is None or reach >= target,
            "stopped": self.stopped(),
            "certificate": {
                "method": method,
                "lower": round_to(self.bounds[0], 6),
                "upper": round_to(self.bounds[1], 6, up=True),
                "sizes": certified,
                "paper": {"method": method, "size": self.size},
            },
            "preprocessing.steps": steps,
            "preprocessing.sensitivity": moved,
            "evidence.alpha_scores": 0.0,
            "evidence.denominator": 1,
        }

    def certain(self) -> dict[str, Any] | None:
        """Return the labels that may be first up to the target."""
        if self.target is None:
            return None
        names = {score["index"]: score["name"] for score in self.answer["scores"]}
        order = self.total.order()
        if self.size > 0 and self.size >= self.target:
            order = order[:1]
        else:
            met = self.meet(self.intervals(order))
            reach = [self.attacked(self.target, interval) for interval in met]
            least = max(low for low, _ in reach)
            # Excluded by less than rounding errors may make up is not excluded.
            order = [i for i, (_, high) in zip(order, reach, strict=True) if high >= least - 1e-9]
        allow = self.answer["evidence"]["allow"]
        return {
            "labels": [{"index": i} | ({"name": names[i]} if i in names else {}) for i in order],
            "within_allowed": None if allow is None else {*order} <= {*allow},
        }

    def within(self) -> bool:
        """Say whether only labels that are allowed may be first."""
        certain = self.certain()
        return certain is not None and certain["within_allowed"] is True

    def stopped(self) -> str:
        """Return why the draws ended."""
        target, allow = self.question.target, self.answer["evidence"]["allow"]
        certified = target is not None and self.size > 0 and self.size >= target
        if self.after.n not in self.looks and not (self.between and certified):
            return "deadline"
        if certified or self.within():
            return "target_certified"
        if self.total.n == self.granted:
            return "max_draws"
        if allow is not None:
            return "deadline"
        if target is not None and hopeless(self.question, self.pilot, self.after, self.chosen):
            return "target_out_of_reach"
        return "deadline"

    def scores(self, reach: float) -> tuple[list[Any], dict[str, Any] | None]:
        """Return the labels shown, and the attacks on them."""
        labels = self.total.order()[: len(self.answer["scores"])]
        raw = self.intervals(labels)
        reached = self.meet(raw)
        if len(labels) < self.labels:
            reached.append((0.0, self.bounds[1]))

        def at(size: float, rounding: Callable[[Interval], Interval]) -> list[Interval]:
            certified = self.size > 0 and size <= self.size
            return stated([self.attacked(size, i) for i in reached], certified, rounding)

        hit: list[Interval] | None = None
        if self.target is not None:
            hit = at(self.target, six_digits)
        scores = [
            {
                "index": i,
                "name": self.answer["scores"][k]["name"],
                "expected": self.expected(i),
                "lower": round_to(raw[k][0], 6),
                "upper": round_to(raw[k][1], 6, up=True),
                "attacked": None if hit is None else dict(zip(INTERVAL, hit[k], strict=True)),
            }
            for k, i in enumerate(labels)
        ]
        if self.answer["attacks"] is None:
            return scores, None
        count = len(self.answer["attacks"]["sizes"])
        step = Context(prec=2, rounding=ROUND_CEILING).create_decimal(
            Decimal(1.25 * reach / (count - 1))
        )
        asked = [float(k * step) for k in range(count)]
        table = [at(size, six_decimals) for size in asked]
        return scores, {
            "sizes": asked,
            "scores": [
                {"index": i, "lower": [r[k][0] for r in table], "upper": [r[k][1] for r in table]}
                for k, i in enumerate(labels)
            ],
            "others": [r[-1][1] for r in table] if len(labels) < self.labels else None,
        }

    def expected(self, label: int) -> float:
        """Return the estimate of a label's expected score."""
        return round(self.total.sums[label] / (self.total.n * self.one), 6)

    def intervals(self, labels: Sequence[int]) -> list[Interval]:
        """Return the bounds on the labels' expected scores."""
        chance = self.question.alpha_scores / (2 * self.labels)
        found = []
        for i in labels:
            args = self.total.n, self.total.sums[i], self.total.squares[i], self.one, chance
            found.append((lower_bound("betting", *args), upper_bound("betting", *args)))
        return found

    def attacked(self, size: float, interval: Interval) -> Interval:
        """Return where an attack of a size can move an expected score."""
        return attacked(self.question, size, *interval)

    def meet(self, raw: list[Interval]) -> list[Interval]:
        """Return the intervals met with what the certificate rests on."""
        if not self.leads:
            return list(raw)
        p_a, p_b = self.bounds
        low = max(raw[0][0], p_a)
        met = [(low, max(raw[0][1], low))]
        for lower, upper in raw[1:]:
            upper = min(upper, p_b)
            met.append((min(lower, upper), upper))
        return met


# Split noise: all draws counted ------------------------------------------------------------------


def least(total: int, n: int, found: int, chance: float) -> int:
    """Return a lower bound on how many of all draws vote as ``found`` of n do."""
    if found == 0 or chance == 0:
        return found
    counts = np.arange(found, total - (n - found) + 1)
    tails = hypergeom.sf(found - 1, total, counts, n)
    return int(counts[np.argmax(tails > chance * (1 - 1e-6))])


class SplitAnswer(Answer):
    """An answer by split noise, and what follows from it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        evidence, noise, budget = answer["evidence"], answer["noise"], answer["budget"]
        self.all = round(510 * noise["scale"])
        if noise["scale"] < 0.5 or abs(self.all - 510 * noise["scale"]) > 1e-9:
            impossible("noise.scale", "at least 0.5, and 510 times as much whole")
        if budget["asked"] != self.all or budget["granted"] != self.all:
            impossible("budget", "all draws that there are")
        stated = noise["sensitivity"], answer["preprocessing"]["sensitivity"], evidence["tau"]
        own = {"source": "l1", "target": "l1", "value": 1.0, "rho": 0.0}
        if stated != (1, 1, 0) or evidence["rho"] != 0 or evidence["sensitivities"] != [own]:
            impossible("evidence.sensitivities", "1 from l1 to l1, without tau and rho")
        if (noise["norm"], noise["placement"], noise["scoring"]) != ("l1", "image", "votes"):
            impossible("noise", "votes, in the image and in l1")
        if answer["picture"]["bits"] != 8:
            impossible("picture.bits", "8")
        self.one, self.bound = 1, evidence["bound"]
        self.read_tallies(evidence)
        self.target = None if answer["target"] is None else float(answer["target"])
        self.norm = answer["norm"]
        picture = answer["picture"]
        self.values = picture["width"] * picture["height"] * (1 if picture["mode"] == "L" else 3)
        part = 2.0**-20
        run = 1 - part if not evidence["restarts"] else part / 7 * 2.0 ** -evidence["restarts"]
        self.alpha = run * (1 - float(answer["confidence"]))
        self.chance = self.alpha / (2 * self.labels * max(len(self.looks) - 1, 1))
        self.check_shown()

    def read_tallies(self, evidence: dict[str, Any]) -> None:
        """Read the tallies and votes and refuse those that cannot be."""
        self.labels = len(evidence["sums"])
        none = {"draws": 0, "sums": [0] * self.labels, "sums_of_squares": [0] * self.labels}
        members = {"counted": evidence, "total": evidence["total"]}
        if self.labels < 2 or evidence["pilot"] != none or evidence["pilot_draws"] != 0:
            impossible("evidence", "two labels or more, and no pilot")
        for name, member in members.items():
            if {len(member["sums"]), len(member["sums_of_squares"])} != {self.labels}:
                impossible(f"evidence, {name}", f"{self.labels} labels")
        self.counted, self.total = (Tally.of(member, 1) for member in members.values())
        rest = self.total.combine(self.counted, -1)
        for name, tally in (("counted", self.counted), ("total", self.total), ("rest", rest)):
            tally.check(f"evidence, {name}", True)
        self.looks = Steps(0, 0, 64, 16, 0.0625).looks(self.all)
        if self.counted.n not in self.looks or self.total.n > self.all:
            impossible("evidence.draws", "a look")
        votes = evidence["votes"]
        if votes is None or len(votes) != self.all:
            impossible("evidence.votes", "one for each draw that there is")
        made = [vote for vote in votes if vote is not None]
        found = tuple(made.count(label) for label in range(self.labels))
        if max(made, default=-1) >= self.labels or (len(made), found) != (
            self.total.n,
            self.total.sums,
        ):
            impossible("evidence.votes", "the votes of evidence.total")
        self.label = self.counted.order()[0]
        self.leads = self.total.order()[0] == self.label

    def sizes_of(self, own: int, most: int) -> dict[str, float]:
        """Return the certified size in every norm, from a label's votes and its rivals'."""
        steps = max((own - most - 1) // 2, 0)
        exact = Context(prec=6, rounding=ROUND_FLOOR).divide(Decimal(steps), Decimal(255))
        size = max(0.0, steps / 255 * (1 - 1e-9) - 1e-12)
        others = {n: round_to(convert(size, "l1", n, self.values), 6) for n in ("l2", "linf")}
        return {"l1": float(exact), **others}

    def again(self) -> dict[str, Any]:
        """Return all members that follow, by their paths."""
        evidence, noise = self.answer["evidence"], self.answer["noise"]
        steps, moved = preprocessing(self.answer["picture"], evidence["input_shape"], noise["norm"])
        if any(not step.startswith("crop") for step in steps):
            impossible("picture", "one of the model's colours and size, or larger along one side")
        given = self.all, self.counted.n
        rival = self.counted.sums[self.counted.rival(self.label)]
        own = least(*given, self.counted.sums[self.label], self.chance)
        most = self.all - max(own, least(*given, self.counted.n - rival, self.chance))
        pair = (own, most) if self.leads else (0, self.all)
        self.bounds = pair[0] / self.all, pair[1] / self.all
        certified = self.sizes_of(*pair)
        self.size = certified[self.norm]
        reach = self.sizes_of(self.all, 0)[self.norm]
        found = self.found("split", certified, reach, steps, moved) | {
            "evidence.label": self.label,
            "evidence.alpha_certificate": self.alpha,
            "evidence.alpha_label": self.chance,
            "evidence.alpha_rival": self.chance,
            "evidence.bound": "counting",
        }
        found["scores"], found["attacks"] = self.scores(reach)
        return found

    def stopped(self) -> str:
        """Return why the draws ended."""
        left = self.all - self.total.n
        if self.total.n not in self.looks:
            return "deadline"
        if self.target is not None and (self.size >= self.target or self.within()):
            return "target_certified"
        if left == 0:
            return "max_draws"
        if self.answer["evidence"]["allow"] is not None:
            return "deadline"
        first, second = self.total.order()[:2]
        best = self.sizes_of(self.total.sums[first] + left, self.total.sums[second])[self.norm]
        return "target_out_of_reach" if self.target and best < self.target else "deadline"

    def intervals(self, labels: Sequence[int]) -> list[Interval]:
        """Return the bounds on the labels' shares of all draws."""
        n, found = self.counted.n, self.counted.sums
        return [
            (
                least(self.all, n, found[i], self.chance) / self.all,
                (self.all - least(self.all, n, n - found[i], self.chance)) / self.all,
            )
            for i in labels
        ]

    def attacked(self, size: float, interval: Interval) -> Interval:
        """Return which shares of all draws an attack of a size can reach."""
        t = attack_in(size, self.norm, "l1", self.values)
        moved = math.floor(t * 255 * (1 + 1e-12) + 1e-6)
        low = max(math.floor(interval[0] * self.all + 1e-6) - moved, 0)
        high = min(math.ceil(interval[1] * self.all - 1e-6) + moved, self.all)
        return low / self.all, high / self.all


class IntervalAnswer(Answer):
    """An answer by intervals, and what follows from it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        evidence, noise, budget = answer["evidence"], answer["noise"], answer["budget"]
        self.largest = math.floor(noise["scale"] * 51000 * (1 + 1e-12))
        if not 1 <= self.largest <= 51000:
            impossible("noise.scale", "from 1/51000 to 1")
        if budget["asked"] != 64 or budget["granted"] != 64:
            impossible("budget", "64 boxes")
        stated = noise["sensitivity"], answer["preprocessing"]["sensitivity"], evidence["tau"]
        own = {"source": "linf", "target": "linf", "value": 1.0, "rho": 0.0}
        if stated != (1, 1, 0) or evidence["rho"] != 0 or evidence["sensitivities"] != [own]:
            impossible("evidence.sensitivities", "1 from linf to linf, without tau and rho")
        if (noise["norm"], noise["placement"], noise["scoring"]) != ("linf", "image", "votes"):
            impossible("noise", "votes, in the image and in linf")
        if answer["picture"]["bits"] != 8:
            impossible("picture.bits", "8")
        self.norm, self.bound = answer["norm"], evidence["bound"]
        self.target = None if answer["target"] is None else float(answer["target"])
        self.read_tallies(evidence)
        self.search()
        self.check_shown()

    def read_tallies(self, evidence: dict[str, Any]) -> None:
        """Read the votes, which must give the tallies."""
        self.labels = len(evidence["sums"])
        votes = evidence["votes"]
        if self.labels < 2 or votes is None or len(votes) != 64:
            impossible("evidence", "two labels or more, and 64 votes")
        self.made = [vote for vote in votes if vote is not None]
        if votes[len(self.made) :] != [None] * (64 - len(self.made)):
            impossible("evidence.votes", "null at the end only")
        if max(self.made, default=-1) >= self.labels or len(set(self.made) - {-1}) > 1:
            impossible("evidence.votes", "one label that there is, or none")
        sums = [self.made.count(label) for label in range(self.labels)]
        counted = {"draws": len(self.made), "sums": sums, "sums_of_squares": sums}
        none = dict.fromkeys(("sums", "sums_of_squares"), [0] * self.labels) | {"draws": 0}
        if evidence["total"] != counted or any(evidence[k] != v for k, v in counted.items()):
            impossible("evidence", "the tallies of its votes")
        if evidence["pilot"] != none or evidence["pilot_draws"] != 0:
            impossible("evidence.pilot", "no pilot")
        self.total = Tally.of(counted, 1)

    def stated(self, units: int) -> float:
        """Return a radius in pixel values, rounded down."""
        exact = Context(prec=6, rounding=ROUND_FLOOR).divide(Decimal(units), Decimal(51000))
        return float(exact)

    def search(self) -> None:
        """Follow the search through the votes."""
        needed = None
        if self.target is not None:
            # From 4 on even a quarter is no radius: all targets have the same search.
            target = min(self.target, 4.0)
            needed = max(math.ceil(target * 51000) - 1, 1)
            while self.stated(needed) < target:
                needed += 1
        spread = self.between(0, self.largest + 1, 15)
        if needed is not None:
            parts = [needed // 4, needed // 2, needed]
            spread = sorted({min(part, self.largest) for part in parts} - {0})
        tried: dict[int, int] = {}
        radii, left, self.radius, self.ended = [0, *spread], self.made, 0, "deadline"
        if len(left) < len(radii):
            impossible("evidence.votes", "those of a whole round")
        while len(left) >= len(radii):
            tried |= dict(zip(radii, left, strict=False))
            left = left[len(radii) :]
            self.radius = max(r for r, vote in tried.items() if r == 0 or vote == tried[0] >= 0)
            above = min((r for r in tried if r > self.radius), default=self.largest + 1)
            radii = self.between(self.radius, above, 16)[: 64 - len(tried)]
            if needed is not None:
                missed = self.radius < needed
                self.ended = "target_out_of_reach" if missed else "target_certified"
                break
            if not radii or tried[0] < 0:
                self.ended = "max_draws"
                break
        if left and self.ended != "deadline":
            impossible("evidence.votes", "no more than the search has")
        self.label = tried[0]

    @staticmethod
    def between(low: int, high: int, most: int) -> list[int]:
        """Return up to so many whole numbers between two, evenly."""
        n = min(most, high - low - 1)
        return [low + (high - low) * i // (n + 1) for i in range(1, n + 1)]

    def again(self) -> dict[str, Any]:
        """Return all members that follow, by their paths."""
        evidence, noise = self.answer["evidence"], self.answer["noise"]
        steps, moved = preprocessing(self.answer["picture"], evidence["input_shape"], noise["norm"])
        if any(not step.startswith("crop") for step in steps):
            impossible("picture", "one of the model's colours and size, or larger along one side")
        self.bounds = (1.0, 0.0) if self.radius else (0.0, 1.0)
        self.leads = self.radius > 0
        self.size, reach = self.stated(self.radius), self.stated(self.largest)
        certified = dict.fromkeys(NORMS, self.size)
        found = self.found("interval", certified, reach, steps, moved) | {
            "evidence.label": max(self.label, 0),
            "evidence.alpha_certificate": 0.0,
            "evidence.alpha_label": 0.0,
            "evidence.alpha_rival": 0.0,
            "evidence.bound": "interval",
        }
        found["scores"], found["attacks"] = self.scores(reach)
        return found

    def stopped(self) -> str:
        """Return why there are no more boxes."""
        missed = self.ended == "target_out_of_reach"
        return "target_certified" if missed and self.within() else self.ended

    def expected(self, label: int) -> float:
        """Return the score of a label."""
        return float(label == self.label)

    def intervals(self, labels: Sequence[int]) -> list[Interval]:
        """Return the scores, which are known if the picture has a label."""
        if self.label < 0:
            return [(0.0, 1.0) for _ in labels]
        return [(float(i == self.label),) * 2 for i in labels]

    def attacked(self, size: float, interval: Interval) -> Interval:
        """Return which scores an attack of a size can reach."""
        return interval if size * 51000 <= self.radius + 1e-6 else (0.0, 1.0)


# Stickers -----------------------------------------------------------------------------------------


class StickerAnswer:
    """An answer about stickers, and what follows from it."""

    def __init__(self, answer: Any) -> None:
        self.answer, evidence = answer, answer["evidence"]
        self.side, self.labels = evidence["side"], evidence["labels"]
        self.steps, _, axes = way(answer["picture"], evidence["input_shape"])
        for name, axis in zip(("rows", "columns"), axes, strict=True):
            self.check_cover(evidence[name], *axis, f"evidence.{name}")
        count = len(evidence["rows"]) * len(evidence["columns"])
        pairs = [(i, i) for i in range(count)]
        pairs += [(i, j) for i in range(count) for j in range(i + 1, count)]
        votes = evidence["votes"]
        if len(votes) != len(pairs) or any(v is not None and v >= self.labels for v in votes):
            impossible("evidence.votes", "a label or null for each view")
        self.count, self.votes = count, votes
        self.of = dict(zip(pairs, votes, strict=True))
        shown = answer["scores"]
        if not 1 <= len(shown) <= self.labels:
            impossible("scores", "one entry for each label at most")
        if len({score["name"] for score in shown}) < len(shown):
            impossible("scores", "names that differ")

    def check_cover(self, spans: Any, size: int, resized: int, kept: int, path: str) -> None:
        """Refuse spans that leave open what a sticker reaches at some place."""
        if any(not 0 <= start < end <= kept for start, end in spans):
            impossible(path, "spans of the input")
        centres = (2 * ((resized - kept) // 2 + np.arange(kept)) + 1) * size
        far = 0 if size == resized else 2 * max(size, resized)
        for place in range(max(size - self.side, 0) + 1):
            first, last = (2 * place + 1) * resized, (2 * (place + self.side) - 1) * resized
            there = np.flatnonzero((first - centres <= far) & (last - centres >= -far))
            if len(there) and not any(a <= there[0] and there[-1] < b for a, b in spans):
                impossible(path, f"a span from {there[0]} to {there[-1]}")

    def label(self) -> int:
        """Return the label of the two rounds."""
        first = [self.of[mask, mask] for mask in range(self.count)]
        if None in first:
            impossible("evidence.votes", "every view of one mask")
        counts = [first.count(label) for label in range(self.labels)]
        most = counts.index(max(counts))
        for mask, own in enumerate(first):
            if own in (most, -1):
                continue
            views = [self.of[min(mask, j), max(mask, j)] for j in range(self.count)]
            if all(vote == own for vote in views):
                return int(own)
            if all(vote in (own, None) for vote in views):
                impossible("evidence.votes", f"all views of the mask {mask}")
        return most

    def again(self) -> dict[str, Any]:
        """Return all members that follow, by their paths."""
        evidence, views = self.answer["evidence"], len(self.votes)
        label = self.label()
        made = [vote for vote in self.votes if vote is not None]
        certified = len(made) == views and made[0] >= 0 and len(set(made)) == 1
        refuted = made[0] < 0 or len(set(made)) > 1
        counts = [made.count(one) for one in range(self.labels)]
        order = sorted(range(self.labels), key=lambda one: (-counts[one], one))
        names = {score["index"]: score["name"] for score in self.answer["scores"]}
        other = self.answer["label"]["name"]
        named = {"index": label, "name": names.get(label, other)}
        scores = [
            {
                "index": one,
                "expected": round(counts[one] / len(made), 6),
                "lower": round_to(counts[one] / views, 6),
                "upper": round_to((counts[one] + views - len(made)) / views, 6, up=True),
                "attacked": None,
            }
            for one in order[: len(self.answer["scores"])]
        ]
        return {
            "label": named,
            "robust": certified,
            "sticker": {"certified": certified, "label": named, "side": self.side},
            "target": self.side,
            "confidence": 1,
            "draws": len(made),
            "budget": {"asked": views, "granted": views, "reachable": True},
            "stopped": "target_certified"
            if certified
            else "target_out_of_reach"
            if refuted
            else "deadline",
            "scores": scores,
            "certificate.method": "two-masks",
            "certificate.masks": {name: evidence[name] for name in ("rows", "columns")},
            "certificate.views": views,
            "preprocessing.steps": self.steps,
        }


def member(answer: Any, path: str) -> Any:
    """Return the member at a path."""
    for name in path.split("."):
        answer = answer[name]
    return answer


def compare(claimed: Any, computed: Any, path: str) -> list[str]:
    """Return where two values differ."""
    if isinstance(computed, dict) and isinstance(claimed, dict):
        return [d for k, v in computed.items() for d in compare(claimed[k], v, f"{path}.{k}")]
    pair = isinstance(computed, list) and isinstance(claimed, list)
    if pair and len(claimed) == len(computed):
        return [
            difference
            for index, (one, other) in enumerate(zip(claimed, computed, strict=True))
            for difference in compare(one, other, f"{path}[{index}]")
        ]
    if isinstance(claimed, bool) == isinstance(computed, bool) and claimed == computed:
        return []
    return [f"{path}: it says {json.dumps(claimed)}, computed {json.dumps(computed)}"]


def parse(document: str | bytes) -> Any:
    """Read JSON.

    Raises:
        MalformedError: When it is none, or a name comes twice in an object.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise MalformedError("an object has a name twice")
        return dict(pairs)

    try:
        return json.loads(document, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"this is no JSON: {error}") from None


def verify(answer: Any) -> list[str]:
    """Compute an answer again and return where it differs.

    Raises:
        MalformedError: When this is no answer with evidence.
    """
    kind: type[Answer | StickerAnswer]
    if isinstance(answer, dict) and answer.get("threat") == "sticker":
        inspect(answer, STICKER_SCHEMA)
        kind = StickerAnswer
    else:
        inspect(answer, SCHEMA)
        allow = answer["evidence"]["allow"]
        in_order = allow is None or (allow and all(a < b for a, b in pairwise(allow)))
        if not in_order or (allow and answer["target"] is None):
            refuse("evidence.allow", "different labels in order, and a target")
        kinds: dict[str, type[Answer]] = {"split": SplitAnswer, "interval": IntervalAnswer}
        kind = kinds.get(answer["noise"]["mechanism"], Answer)
    try:
        again = kind(answer).again()
    except ImpossibleError as error:
        return [str(error)]
    return [
        difference
        for path, computed in again.items()
        for difference in compare(member(answer, path), computed, path)
    ]


def main(path: str) -> int:
    """Verify the answer in a file, print what was found, and return the exit status."""
    try:
        document = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        differences = verify(parse(document))
    except (OSError, MalformedError) as error:
        print(f"this is no answer with evidence: {error}", file=sys.stderr)
        return 2
    for difference in differences:
        print(difference)
    print("differs" if differences else "all that follows from the evidence is found again")
    print("only the service's word: " + "; ".join(WORD))
    return 1 if differences else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/second_verifier.py answer.json")
    sys.exit(main(sys.argv[1]))

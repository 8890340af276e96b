"""Every law of added noise compared with exact Neyman-Pearson bounds; the registry of laws."""

import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import special, stats

from models.certification.certificates import DEFAULT, attacked, size
from models.certification.laws import LAWS, REGISTRY
from models.certification.names import CONTINUOUS, MECHANISM_NORMS
from tests.names import ROOT

Floats = NDArray[np.float64]
IN_L1 = [name for name in CONTINUOUS if MECHANISM_NORMS[name] == "l1"]
SHARES = (0.02, 0.3, 0.6, 0.9, 0.999)


def cells(mechanism: str, edges: Floats, move: float) -> Floats:
    """The probabilities of cells between ``edges`` after a move; the outermost are infinite."""
    inner = LAWS[mechanism].module.cdf(edges - move)
    return np.diff(np.concatenate([[0.0], inner, [1.0]]))


def least(before: Floats, after: Floats, share: float) -> float:
    """The smallest expectation after a move of any f on these cells with E f = ``share`` before.

    Neyman and Pearson: f = 1 on the cells that lose most, and a part of one cell.
    """
    before, after = before.ravel(), after.ravel()
    free = before == 0  # cells that only the moved law has are free
    before, after = before[~free], after[~free]
    order = np.argsort(after / before, kind="stable")
    mass, moved = np.cumsum(before[order]), np.cumsum(after[order])
    whole = int(np.searchsorted(mass, share))
    done, left = (mass[whole - 1], moved[whole - 1]) if whole else (0.0, 0.0)
    if whole == len(order):
        return float(moved[-1])
    return float(left + (share - done) * after[order][whole] / before[order][whole])


def allowed(mechanism: str, share: float, move: float) -> float:
    """The least score that the certificate allows after a move of so many scales."""
    low, _ = attacked(DEFAULT[mechanism], share, share, move, 1.0, 1.0)
    return float(low)


@pytest.mark.parametrize("mechanism", CONTINUOUS)
@pytest.mark.parametrize("move", [0.05, 0.4, 1.1])
def test_in_one_coordinate_the_bound_is_attained(mechanism: str, move: float) -> None:
    for share in SHARES:
        edge = float(LAWS[mechanism].module.quantile(np.array(share)))
        edges = np.unique([*np.linspace(-12, 12, 4000), edge, -move, 0.0, move])
        here = cells(mechanism, edges, 0.0)
        found = min(least(here, cells(mechanism, edges, way), share) for way in (move, -move))
        bound = allowed(mechanism, share, move)
        assert found >= bound - 1e-12
        assert found <= bound + 1e-3


@pytest.mark.parametrize("mechanism", IN_L1)
@pytest.mark.parametrize("moves", [*product((-0.6, 0.3), repeat=2), (1.0, -0.05), (0.0, 0.7)])
def test_in_two_coordinates_the_shifts_add(mechanism: str, moves: tuple[float, float]) -> None:
    """Coordinates move in both directions; a sixtieth more than the bound would be wrong."""
    edges = np.linspace(-9, 9, 241)
    before = np.outer(*(cells(mechanism, edges, 0.0) for _ in moves))
    after = np.outer(*(cells(mechanism, edges, move) for move in moves))
    total = sum(map(abs, moves))
    for share in SHARES:
        found = least(before, after, share)
        assert found >= allowed(mechanism, share, total) - 1e-9


@pytest.mark.parametrize("mechanism", IN_L1)
def test_a_smaller_shift_would_be_wrong(mechanism: str) -> None:
    """A bound with a constant 3 % too small is caught."""
    edges = np.linspace(-9, 9, 2401)
    before, *after = (cells(mechanism, edges, move) for move in (0.0, 0.5, -0.5))
    assert any(
        min(least(before, one, share) for one in after) < allowed(mechanism, share, 0.97 * 0.5)
        for share in SHARES
    )


@pytest.mark.parametrize("mechanism", CONTINUOUS)
def test_quantiles_invert_distribution_functions(mechanism: str) -> None:
    law = LAWS[mechanism].module
    p = np.concatenate([2.0 ** -np.arange(1.0, 60), 1 - 2.0 ** -np.arange(1.0, 30)])
    assert law.cdf(law.quantile(p)) == pytest.approx(p, rel=1e-9)
    both = law.cdf(-np.linspace(0, 5, 50)) + law.cdf(np.linspace(0, 5, 50))
    assert (both == pytest.approx(1)) is LAWS[mechanism].symmetric
    tail = 2.0 ** -np.arange(1.0, 30)
    _, upper = LAWS[mechanism].quantiles(tail, 1.0)
    assert upper == pytest.approx(law.quantile(1 - tail), rel=1e-7)


def test_sizes_of_further_laws() -> None:
    assert float(size("uniform", 0.9, 0.1, 2.0, 1.0)) == pytest.approx(1.6)
    assert float(size("logistic", 0.9, 0.1, 2.0, 1.0)) == pytest.approx(2 * special.logit(0.9))
    assert float(size("pixeldp-logistic", 0.9, 0.1, 2.0, 1.0)) == pytest.approx(np.log(9))
    # At equal variance, uniform noise certifies more than Laplace below pA = 0.94, and less above.
    for score, ahead in ((0.93, True), (0.95, False)):
        uniform = float(size("uniform", score, 1 - score, np.sqrt(3), 1.0))
        laplace = float(size("laplace", score, 1 - score, np.sqrt(0.5), 1.0))
        assert (uniform > laplace) is ahead


def test_sizes_of_generalised_normal_noise_lie_between_those_of_its_neighbours() -> None:
    """At equal variance: Laplace (β = 1), Gaussian noise in L1 (2), β = 3, and uniform (∞)."""
    deviation = np.sqrt(special.gamma(1.0) / special.gamma(1 / 3))
    for score, order in ((0.7, 1), (0.9, 1), (0.97, -1), (0.999, -1)):
        laplace = float(size("laplace", score, 1 - score, np.sqrt(0.5), 1.0))
        own = float(size("generalised-normal", score, 1 - score, 1 / deviation, 1.0))
        uniform = float(size("uniform", score, 1 - score, np.sqrt(3), 1.0))
        assert np.array_equal(np.argsort([laplace, own, uniform]), [0, 1, 2][::order])
        exact = stats.gennorm.ppf(score, 3) / deviation
        assert own == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("moves", [(0.6, 0.0), (0.4, -0.2), (0.2, -0.4), (0.0, -0.6)])
def test_exponential_coordinates_that_move_both_ways_at_once(moves: tuple[float, float]) -> None:
    """The trade-off of the proof is exact for any mixture, and worst where all move one way."""
    edges = np.sort(np.append(np.linspace(-1, 9, 251), 1e-12))
    before, after = (
        np.outer(*(cells("exponential", edges, move) for move in both)) for both in ((0, 0), moves)
    )
    up, down = max(moves), -min(moves)
    for share in SHARES:
        proven = max(0.0, np.exp(-down) * (1 - np.exp(up) * (1 - share)))
        assert least(before, after, share) == pytest.approx(proven, abs=1e-9)
        assert allowed("exponential", share, up + down) <= proven + 1e-12


def test_sizes_of_exponential_noise() -> None:
    for own, rival in ((0.9, 0.1), (0.9, 0.05), (0.999, 0.0), (0.6, 0.4)):
        assert float(size("exponential", own, rival, 2.0, 1.0)) == pytest.approx(
            2 * np.log(1 + own - rival)
        )
    # At most ln 2: a move down shows itself.
    assert float(size("exponential", 1.0, 0.0, 2.0, 1.0)) == pytest.approx(2 * np.log(2))
    # One attack could not, but two can bring these labels' intervals together sooner.
    assert float(size("exponential", 0.5, 0.1, 1.0, 1.0)) == pytest.approx(np.log(0.9 / 0.5) / 2)
    assert np.log(0.9 / 0.5) / 2 < np.log(1.4)


@pytest.mark.parametrize("mechanism", IN_L1)
def test_the_grid_of_pixels_certifies_hardly_more(mechanism: str) -> None:
    """Noise that is rounded to pixel values, by sums over them: never less, and never 2/255 more.

    So a law that is defined on the grid buys next to nothing.
    """
    scale, most = 0.4 * 255, 2000
    edges = (np.arange(-most, most) + 0.5) / scale
    here = cells(mechanism, edges, 0.0)
    for lower, upper in ((0.8, 0.2), (0.9, 0.05), (0.97, 0.03)):
        continuous = float(size(mechanism, lower, upper, scale, 1.0))

        def clears(steps: int, lower: float = lower, upper: float = upper) -> bool:
            ways = [cells(mechanism, edges, way * steps / scale) for way in (1, -1)]
            return min(least(here, way, lower) for way in ways) > 1 - min(
                least(here, way, 1 - upper) for way in ways
            )

        assert clears(int(continuous))
        assert not clears(int(continuous) + 2)


# What a copy of the project with the law ``secant`` must do, in the folder of the copy.
KNOWS = """
import numpy as np
import models, torch
from models.certification.certificates import attacked, size
from models.certification.names import ADDITIVE, CERTIFICATES, MECHANISM_NORMS
from models.network import PixelDP
from models.verification import verify
from service.cli.main import main
from tests.models.test_verification import answer

assert models.__file__.startswith(FOLDER), models.__file__
assert "secant" in ADDITIVE and "secant" in CERTIFICATES and MECHANISM_NORMS["secant"] == "l1"
found = float(size("secant", 0.9, 0.1, 2.0, 1.0))
assert abs(found - 4 / np.pi * np.log(np.tan(np.pi / 2 * 0.9))) < 1e-9, found
assert attacked("secant", 0.9, 0.9, 0.1, 1.0, 1.0)[0] < 0.9
network = PixelDP(torch.nn.Identity(), torch.nn.Identity(), "secant", 1.0)
assert network.perturb(torch.zeros(2, 3)).shape == (2, 3)
told = answer(mechanism="secant", norm="l1")
assert told["certificate"]["method"] == "secant" and verify(told) == []
told["noise"]["mechanism"] = "logistic"
assert verify(told)
assert main(["plan", "--mechanism", "secant", "--scale", "0.5", "--target", "0.2"]) == 0
bounds = ["--lower", "0.9", "--upper", "0.1"]
raise SystemExit(main(["size", "--certificate", "secant", *bounds, "--scale", "2"]))
"""
SERVES = """
import json
from service.cli.main import main

noise = ["--mechanism", "secant", "--scale", "0.5"]
assert main(["train", "digits", *noise, "--epochs", "1", "--no-int8", "--out", "made"]) == 0
given = ["--input", "1x8x8", "--labels", "0,1"]
assert main(["import", "elsewhere:classifier", *given, *noise, "--out", "brought"]) == 0
for bundle in ("made", "brought"):
    stated = json.load(open(f"{bundle}/model.json"))
    assert stated["noise"]["mechanism"] == "secant"
    assert stated["sensitivity"]["noise_norm"] == "l1"
raise SystemExit(main(["predict", "black.png", "--model", "made", "--max-draws", "100"]))
"""
ELSEWHERE = """
from torch import nn
def classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
"""


def add_secant(folder: Path) -> None:
    """Copy the project to ``folder``, with the hyperbolic secant law by two files and one entry."""
    for part in ("models", "service"):
        shutil.copytree(
            ROOT / part, folder / part, ignore=shutil.ignore_patterns("zoo", "__pycache__")
        )
    law, drawn = "models/certification/laws", "models/mechanisms"
    text = (ROOT / law / "logistic.py").read_text(encoding="utf-8")
    (folder / law / "secant.py").write_text(
        text.replace('"logistic": logistic', '"secant": logistic')
        .replace("special.expit(x)", "2 / np.pi * np.arctan(np.exp(np.pi / 2 * x))")
        .replace("special.logit(p)", "2 / np.pi * np.log(np.tan(np.pi / 2 * p))"),
        encoding="utf-8",
    )
    shutil.copy(ROOT / drawn / "logistic.py", folder / drawn / "secant.py")
    registry = folder / law / "__init__.py"
    entry = '    Law("secant", {"l1": "secant"}, "secant"),\n    Law("split"'
    registry.write_text(
        registry.read_text(encoding="utf-8").replace('    Law("split"', entry), encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("script", "last"),
    [(KNOWS, r"2\.3"), pytest.param(SERVES, r"\d .*black\.png", marks=pytest.mark.slow)],
    ids=["known", "served"],
)
def test_a_law_is_one_entry_and_two_files(script: str, last: str, tmp_path: Path) -> None:
    """A copy of the project with a further law knows the law everywhere."""
    add_secant(tmp_path)
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE, encoding="utf-8")
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"FOLDER = {str(tmp_path)!r}\n{script}"],
        cwd=tmp_path,
        env={"PYTHONPATH": path, "PATH": "", "PIXELDP_BUILDERS": "elsewhere:classifier"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.match(last, done.stdout.splitlines()[-1])


def test_every_law_has_its_files_and_its_certificates() -> None:
    for law in REGISTRY:
        assert (ROOT / "models" / "mechanisms" / f"{law.module_name}.py").exists()
        assert law.module.__doc__
        if law.additive:
            assert set(law.module.SHIFTS) == set(law.certificates)

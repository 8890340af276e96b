"""The terms of a certificate are assembled in one place."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.picture_terms import assemble_terms
from models.preprocessing import plan
from tests.models.test_bundle import DESCRIPTION
from tests.models.test_predictor import make
from tests.names import modules


@pytest.mark.parametrize("noise", [{}, {"mechanism": "laplace"}, {"placement": "layer1"}])
@pytest.mark.parametrize(("shape", "bits"), [((8, 8, 1), 8), ((8, 8, 1), 16), ((20, 16, 3), 8)])
def test_a_worker_adds_only_rounding_and_further_bounds(
    noise: dict[str, str], shape: tuple[int, int, int], bits: int, tmp_path: Path
) -> None:
    predictor = make(tmp_path, **noise)
    kind = np.uint8 if bits == 8 else np.uint16
    served = predictor.encode(np.zeros(shape, kind)).terms
    told = assemble_terms(predictor.manifest, predictor.plan(shape, bits))
    assert replace(served, tau=0.0, rho=0.0, further=()) == told
    assert told.values == np.prod(shape)
    assert told.norm == predictor.manifest.sensitivity.input_norm


def test_a_picture_that_is_the_input_adds_nothing(tmp_path: Path) -> None:
    manifest = make(tmp_path).manifest
    terms = assemble_terms(manifest)
    assert terms == assemble_terms(manifest, plan(8, 8, "L", 8, manifest.input.shape))
    assert terms.sensitivity == DESCRIPTION["sensitivity"]["value"]
    assert (terms.values, terms.tau, terms.rho, terms.further) == (64, 0.0, 0.0, ())


def test_nothing_else_assembles_them() -> None:
    """Other code only reads them: the verifier from an answer, the command from its options."""
    found = {
        module.name
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "terms_kind"
    }
    readers = {"models.verification", "service.cli.calculate"}
    assert found == {"models.picture_terms", *readers}

"""What a worker loads, and that it is what the front process speaks of."""

from pathlib import Path

import pytest

from models.bundle import Bundle, BundleError, Manifest, read_bundle, write_manifest
from models.network import build_network, save_network
from service.engine import messages
from service.engine.worker import load
from tests.models.test_bundle import DESCRIPTION


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))
    return read_bundle(tmp_path)


def model(bundle: Bundle, ceiling: int | None = None) -> messages.Model:
    return messages.Model(
        number=0, path=str(bundle.path), digest=bundle.digest, precision="float32", ceiling=ceiling
    )


def test_a_model_is_loaded_as_told(bundle: Bundle) -> None:
    loaded, calibrated = load("cpu", 64, model(bundle))
    assert loaded.bundle.digest == bundle.digest
    assert (calibrated.precision, calibrated.pass_size) == ("float32", 64)


def test_a_successor_knows_what_did_not_fit_into_memory(bundle: Bundle) -> None:
    assert load("cpu", 64, model(bundle, ceiling=16))[1].pass_size == 16
    assert load("cpu", 8, model(bundle, ceiling=16))[1].pass_size == 8
    assert load("cpu", None, model(bundle, ceiling=32))[1].pass_size == 32


def test_a_bundle_that_changed_since_it_was_first_served_is_refused(bundle: Bundle) -> None:
    """Or the front would speak of one model and the worker draw from another."""
    labels = tuple(reversed(bundle.manifest.labels))
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"labels": labels}))
    with pytest.raises(BundleError, match="load again"):
        load("cpu", 64, model(bundle))

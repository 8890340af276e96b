"""What a worker loads, and that it is what the front process announces."""

from pathlib import Path

import pytest

from models.bundle import Bundle, BundleError, Manifest, read_bundle, write_manifest
from models.execution import Execution
from models.network import build_network, save_network
from models.predictor import Predictor
from models.trial import RowsError
from service.engine import messages
from service.engine.worker import PinError, load
from tests.models.test_bundle import DESCRIPTION


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    manifest = Manifest.model_validate(DESCRIPTION)
    save_network(tmp_path, manifest, build_network(manifest))
    return read_bundle(tmp_path)


def model(bundle: Bundle, pass_size: int | None = None) -> messages.Model:
    return messages.Model(
        number=0,
        path=str(bundle.path),
        digest=bundle.digest,
        precision="float32",
        provider="pytorch",
        pass_size=pass_size,
    )


def test_a_model_is_loaded_as_told(bundle: Bundle) -> None:
    loaded, calibrated = load("cpu", model(bundle, 64))
    assert loaded.bundle.digest == bundle.digest
    assert (calibrated.precision, calibrated.pass_size) == ("float32", 64)


def test_a_bundle_that_changed_since_it_was_first_served_is_refused(bundle: Bundle) -> None:
    """Otherwise the front would announce one model and the worker would run another."""
    labels = tuple(reversed(bundle.manifest.labels))
    write_manifest(bundle.path, bundle.manifest.model_copy(update={"labels": labels}))
    with pytest.raises(BundleError, match="load again"):
        load("cpu", model(bundle, 64))


def pinned(bundle: Bundle, *way: object, pass_size: int | None = None) -> messages.Model:
    return model(bundle, pass_size).model_copy(update={"pin": Execution(*way)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "way",
    [("pytorch", "float32", 24, False), ("openvino", "float32", 24, False)],
    ids=["pytorch", "openvino"],
)
def test_a_pinned_way_is_used(bundle: Bundle, way: tuple[object, ...]) -> None:
    """Whatever else is set or measured."""
    loaded, calibrated = load("cpu", pinned(bundle, *way))
    assert loaded.execution == calibrated.execution == Execution(*way)  # type: ignore[arg-type]


def test_a_pin_that_cannot_be_followed_stops_the_model(bundle: Bundle) -> None:
    asked = pinned(bundle, "pytorch", "float32", 32, False, pass_size=16)
    with pytest.raises(PinError, match="PIXELDP_PIN requires: passes of 32 do not fit"):
        load("cpu", asked)
    with pytest.raises(PinError, match=r"as PIXELDP_PIN requires: .* has no scales for int8"):
        load("cpu", pinned(bundle, "openvino", "int8", 32, False))
    assert load("cpu", pinned(bundle, "pytorch", "float32", 16, False, pass_size=16))


def test_a_pinned_network_that_mixes_rows_is_not_run(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Predictor, alone: int = 0) -> None:
        raise RowsError("its rows look at each other")

    monkeypatch.setattr(Predictor, "try_rows", refuse)
    with pytest.raises(PinError, match="in that way h is no function of one row: its rows look at"):
        load("cpu", pinned(bundle, "pytorch", "float32", 16, False))

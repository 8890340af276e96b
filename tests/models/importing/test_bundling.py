"""A classifier made elsewhere becomes a working bundle, or is refused with a reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.bundle import BundleError, ConstructionBound, read_bundle
from models.certification.question import Question
from models.execution import PRECISIONS
from models.importing.bundling import Imported, Noise, Wanted, import_classifier
from models.importing.sources import find_source
from models.network import load_network
from models.networks.foreign.python import ALLOWED
from models.source_names import ImportFailedError
from tests.models.importing import classifiers
from tests.models.importing.classifiers import LABELS, SHAPE, small

MODULE = classifiers.__name__
NORMALISATION = {"mean": (0.5,), "std": (0.25,)}


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, MODULE)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    state = {name: value + 0.01 for name, value in small().state_dict().items()}
    save_file(state, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def bring(
    out: Path,
    source: str,
    weights: Path | None = None,
    noise: Noise | None = None,
    **wanted: Any,
) -> Imported:
    found = find_source(source, weights)
    shape = wanted.get("shape") or found.shape or SHAPE
    wanted.setdefault("shape", shape)
    pixels = np.full((*shape[1:], shape[0]), 128, np.uint8)
    question = Question(0.95, 64, None, "l2")
    noise = noise or Noise(scale=0.25)
    return import_classifier(found, Wanted(**wanted), noise, out, pixels, question)


def python(name: str) -> str:
    return f"{MODULE}:{name}"


def test_a_python_function_with_weights(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "out"
    imported = bring(out, python("small"), weights, labels=("a", "b", "c", "d"), **NORMALISATION)
    assert imported.formats == PRECISIONS
    manifest = imported.bundle.manifest
    assert manifest.labels == ("a", "b", "c", "d")
    assert manifest.architecture.arguments["builder"] == python("small")
    assert manifest.training["imported"]["weights"]["file"] == weights.name
    h = load_network(read_bundle(out)).classifier
    network = small().eval()
    network.load_state_dict({key: value + 0.01 for key, value in network.state_dict().items()})
    pictures = torch.rand(3, *SHAPE)
    with torch.inference_mode():
        torch.testing.assert_close(h(pictures), network((pictures - 0.5) / 0.25))


@pytest.mark.slow
def test_a_program_and_its_function_are_one_classifier(tmp_path: Path, weights: Path) -> None:
    network = small().eval()
    network.load_state_dict({key: value + 0.01 for key, value in network.state_dict().items()})
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(network, (torch.rand(2, *SHAPE),), dynamic_shapes=(batch,))
    torch.export.save(program, tmp_path / "Own Net.pt2")
    imported = bring(tmp_path / "exported", str(tmp_path / "Own Net.pt2"), **NORMALISATION)
    bring(tmp_path / "python", python("small"), weights, **NORMALISATION)
    assert imported.formats == PRECISIONS
    assert imported.bundle.manifest.rows == "proven"
    assert read_bundle(tmp_path / "python").manifest.rows == "operator"
    assert imported.bundle.manifest.name == "own-net"
    assert imported.bundle.manifest.labels == tuple("0123")
    assert sorted(file.name for file in (tmp_path / "exported").iterdir()) == [
        "model.json",
        "program.json",
        "weights.safetensors",
    ]
    pictures = torch.rand(3, *SHAPE)
    one, other = (
        load_network(read_bundle(tmp_path / name)).classifier for name in ("exported", "python")
    )
    with torch.inference_mode():
        torch.testing.assert_close(one(pictures), other(pictures))


def test_a_program_in_a_bundle_is_held_to_its_digest(tmp_path: Path) -> None:
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(small().eval(), (torch.rand(2, *SHAPE),), dynamic_shapes=(batch,))
    torch.export.save(program, tmp_path / "net.pt2")
    out = tmp_path / "out"
    bring(out, str(tmp_path / "net.pt2"))
    bundle = read_bundle(out)
    content = (out / "program.json").read_bytes()
    (out / "program.json").write_bytes(content.replace(b"relu", b"gelu"))
    with pytest.raises(BundleError, match=r"program\.json: sha256"):
        read_bundle(out)
    with pytest.raises(BundleError, match=r"but model\.json states"):
        load_network(bundle)
    (out / "program.json").unlink()
    with pytest.raises(BundleError, match=r"program\.json: file: cannot be read"):
        read_bundle(out)


def test_a_network_that_needs_the_contiguous_layout_gets_it(tmp_path: Path) -> None:
    imported = bring(tmp_path / "out", python("with_view"))
    assert imported.bundle.manifest.architecture.arguments["contiguous"] is True
    assert imported.formats == PRECISIONS


# PyTorch's own code uses what PyTorch calls deprecated.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_program_that_needs_the_contiguous_layout_gets_it(tmp_path: Path) -> None:
    """Decomposed programs need it, because flatten() has become view()."""
    network = small().eval()
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(network, (torch.rand(2, *SHAPE),), dynamic_shapes=(batch,))
    torch.export.save(program.run_decompositions(), tmp_path / "net.pt2")
    imported = bring(tmp_path / "out", str(tmp_path / "net.pt2"))
    assert imported.bundle.manifest.architecture.arguments["contiguous"] is True
    pictures = torch.rand(3, *SHAPE)
    with torch.inference_mode():
        served = load_network(read_bundle(tmp_path / "out")).classifier(pictures)
        torch.testing.assert_close(served, network(pictures))


@pytest.mark.slow
def test_a_network_for_float32_only_runs_in_float32(tmp_path: Path) -> None:
    assert bring(tmp_path / "out", python("float32_only")).formats == ("float32",)


@pytest.mark.parametrize(
    ("builder", "complaint"),
    [
        ("with_dropout", "different logits for the same noisy picture"),
        ("centred", "rows look at each other"),
        ("batch_statistics", "rows look at each other"),
        ("nan", "returns NaN or infinity"),
        ("pair", r"returns dict for 2 pictures; expected logits \[2, labels\]"),
        ("dynamically_quantised", r"is quantised .*return the float network"),
        ("statically_quantised", r"is quantised .*return the float network"),
        ("scripted", "is scripted or traced"),
        ("lazy", "without a shape yet; run it once"),
        ("parallel", r"is spread over devices \(DataParallel\)"),
        ("sparse", r"holds head\.weight, which is sparse"),
        ("complex_numbers", "holds turn, which is complex"),
        ("on_meta", "on the meta device"),
        ("uncopied", "cannot be copied and cast: TypeError"),
        ("more_state", "which is not a tensor"),
        ("failing", "failed: OSError: the data base is down"),
        ("nothing", r"returned NoneType; expected an nn\.Module"),
        ("unknown", "cannot be imported .*unknown"),
    ],
)
def test_what_cannot_be_certified_is_refused(tmp_path: Path, builder: str, complaint: str) -> None:
    with pytest.raises(ImportFailedError, match=complaint):
        bring(tmp_path / "out", python(builder))
    assert not any(tmp_path.iterdir()), "something was left behind"


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"labels": ("a", "b")}, f"2 labels are given, but the network returns {LABELS} logits"),
        ({"labels": ("a", "b", "c", "c")}, "labels must differ"),
        ({"shape": (3, 8, 8)}, r"does not run on pictures \[3, 8, 8\]"),
        ({"mean": (0.5, 0.5)}, "expected one number for each of 1 channels"),
        ({"std": (0.0,)}, "must be above 0"),
        ({"name": "No Name"}, "name"),
    ],
)
def test_classifiers_that_do_not_match_are_refused(
    tmp_path: Path, wanted: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        bring(tmp_path / "out", python("small"), **wanted)
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    state["head.weight"] = state["head.weight"][:3]
    save_file({"more": torch.zeros(1), **state}, tmp_path / "net.safetensors")
    with pytest.raises(ImportFailedError, match=r"do not fit .*more.*head\.weight"):
        bring(tmp_path / "out", python("small"), tmp_path / "net.safetensors")


@pytest.mark.slow
def test_the_noise_is_given_by_a_scale_or_a_construction_bound(tmp_path: Path) -> None:
    bound = {"size": 0.1, "epsilon": 1.0, "delta": 0.05}
    with pytest.raises(ImportFailedError, match="either the noise's scale or a construction"):
        bring(tmp_path / "out", python("small"), noise=Noise())
    noise = Noise("gaussian", construction_bound=ConstructionBound.model_validate(bound))
    manifest = bring(tmp_path / "out", python("small"), noise=noise).bundle.manifest
    assert manifest.noise.scale == pytest.approx(0.1 * (2 * np.log(25)) ** 0.5)
    assert manifest.noise.construction_bound is not None
    for law in ("laplace", "exponential"):
        brought = bring(tmp_path / law, python("small"), noise=Noise(law, scale=0.2))
        manifest = brought.bundle.manifest
        assert (manifest.noise.mechanism, manifest.noise.scale) == (law, 0.2)
        assert (manifest.sensitivity.input_norm, manifest.sensitivity.value) == ("l1", 1.0)
    with pytest.raises(ImportFailedError, match="holds a bundle"):
        bring(tmp_path / "out", python("small"))


def test_a_bundle_runs_no_python_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(tmp_path / "out", python("small"))
    bundle = read_bundle(tmp_path / "out")
    for value in ("", "tests", f"{MODULE}.more"):
        monkeypatch.setenv(ALLOWED, value)
        with pytest.raises(BundleError, match=f"not run by default: set {ALLOWED}={MODULE}"):
            load_network(bundle)
    monkeypatch.setenv(ALLOWED, f"others,{MODULE}")
    load_network(bundle)


def test_an_unknown_source(tmp_path: Path) -> None:
    with pytest.raises(
        ImportFailedError, match="'resnet' is not a classifier: expected an archive"
    ):
        find_source("resnet", None)
    with pytest.raises(ImportFailedError, match="has its own weights"):
        find_source("net.pt2", tmp_path / "net.pth")

"""ONNX files and timm's classifiers become bundles that compute what they computed before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file
from torch import nn

from models import converted
from models.bundle import read_bundle
from models.certification.question import Question
from models.importing.bundling import Imported, import_classifier
from models.importing.onnx_graph import read_onnx
from models.importing.sources import Source, build_source, find_source
from models.importing.stated import read_labels, read_numbers
from models.importing.wanted import Noise, Wanted
from models.network import load_network
from models.networks.foreign.torchvision_operators import declare_missing_operators
from models.source_names import ImportFailedError, check_source
from tests.models.importing.onnx_files import classifier, saved

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def timm() -> Any:
    declare_missing_operators()
    import timm

    return timm


def bring(
    source: str, out: Path, weights: Path | None = None, shape: Any = None, **wanted: Any
) -> Imported:
    found = find_source(source, weights, shape)
    size = found.shape or shape
    pixels = np.full((*size[1:], size[0]), 128, np.uint8)
    question = Question(0.95, 64, None, "l2")
    return import_classifier(
        found, Wanted(shape=shape, **wanted), Noise(scale=0.25), out, pixels, question
    )


def built(source: Source) -> nn.Sequential:
    """Return the classifier behind its normalisation, with the source's weights."""
    assert source.shape
    channels = source.shape[0]
    mean, std = source.mean or [0.0] * channels, source.std or [1.0] * channels
    network, _ = build_source(source, source.shape, 0, mean, std)
    network.get_submodule("network").load_state_dict(source.tensors)
    return network.eval()


def test_an_onnx_file_with_labels_and_normalisation(tmp_path: Path) -> None:
    said = {"names": "{0: 'crow', 1: 'crane', 2: 'crane', 3: 'owl'}", "mean": "0.5, 0.4, 0.3"}
    made = classifier(metadata={**said, "std": json.dumps([0.25, 0.5, 0.75])})
    file = saved(made, tmp_path / "Own Net.onnx")
    source = find_source(str(file), None)
    assert source.network == "exported"
    assert source.name == "own-net"
    assert source.labels == ("crow", "crane (1)", "crane (2)", "owl")
    assert source.record["source"] == "Own Net.onnx"
    x = torch.rand(5, 3, 6, 6)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.5, 0.4, 0.3), (0.25, 0.5, 0.75)))
    expected = ReferenceEvaluator(made).run(None, {"x": ((x - mean) / std).numpy()})[0]
    torch.testing.assert_close(built(source)(x), torch.from_numpy(expected), **CLOSE)


@pytest.mark.filterwarnings("ignore")
def test_what_torch_writes_is_what_openvino_reads(tmp_path: Path) -> None:
    """OpenVINO reads ONNX by code of its own; the network has what people's have."""
    declare_missing_operators()
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(network.heads[0].weight)
    file = tmp_path / "net.onnx"
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, 32, 32),),
        str(file),
        dynamo=False,
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}},
    )
    source = find_source(str(file), None)
    assert source.shape == (3, 32, 32)
    x = torch.rand(3, 3, 32, 32)
    core = converted._openvino().Core()
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = torch.from_numpy(compiled(x.numpy())[0])
    found = built(source)(x)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(found, network(x).detach(), **CLOSE)


def test_a_file_with_channels_last(tmp_path: Path) -> None:
    """As converters from TensorFlow write them."""
    transposed = helper.make_node("Transpose", ["p"], ["x"], perm=[0, 3, 1, 2])
    made = classifier()
    made.graph.node.insert(0, transposed)
    made.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("p", TensorProto.FLOAT, ["batch", 6, 6, 3])
    )
    plain, last = (
        read_onnx(saved(one, tmp_path / f"{index}.onnx"))
        for index, one in enumerate((classifier(), made))
    )
    assert last.shape == (3, 6, 6)
    x = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(last.network(x), plain.network(x))


def two_outputs() -> Any:
    return classifier(
        last=[helper.make_node("Identity", ["logits"], [name]) for name in ("y", "z")],
        outputs=("y", "z"),
    )


def beside(place: str) -> Any:
    """Its weights are in another file."""
    made = classifier()
    for stored in made.graph.initializer:
        stored.ClearField("raw_data")
        stored.data_location = TensorProto.EXTERNAL
        entry = stored.external_data.add()
        entry.key, entry.value = "location", place
    return made


def ended(operator: str, domain: str = "") -> Any:
    return classifier(last=[helper.make_node(operator, ["logits"], ["y"], domain=domain)])


REFUSED = {
    "batch": (lambda: classifier(shape=(1, 3, 6, 6)), "exactly 1 pictures at a time"),
    "half": (lambda: classifier(kind=TensorProto.FLOAT16), "expected one float32 input"),
    "axes": (lambda: classifier(shape=("batch", 108)), "expected one float32 input"),
    "old": (lambda: classifier(opset=8), "operator set 8; expected 9 to 28"),
    "new": (lambda: classifier(opset=99), "operator set 99"),
    "outputs": (two_outputs, "returns y, z; expected only the logits"),
    "labels": (lambda: ended("ArgMax"), "without what follows them"),
    "quantised": (lambda: ended("DequantizeLinear"), "import the float network"),
    "domain": (lambda: ended("Relu", "com.microsoft"), r"calls com\.microsoft\.Relu"),
    "unknown": (lambda: ended("Det"), "calls Det, which is not accepted"),
    "outside": (lambda: beside("../secret"), "cannot be imported"),
    "absent": (lambda: beside("weights.bin"), "cannot be imported"),
    "order": (
        lambda: classifier(last=[helper.make_node("Relu", ["later"], ["y"])]),
        "uses later, which nothing computes before",
    ),
    "random": (
        lambda: classifier(last=[helper.make_node("RandomNormalLike", ["logits"], ["y"])]),
        "calls RandomNormalLike",
    ),
    "names": (lambda: classifier(metadata={"names": '{"1": "a"}'}), "expected the numbers 0 to 0"),
    "mean": (lambda: classifier(metadata={"mean": "none"}), "mean: expected a list of numbers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_are_not_accepted(case: str, tmp_path: Path) -> None:
    make, complaint = REFUSED[case]
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_bytes(bytes(2**16))
    file = saved(make(), tmp_path / "folder" / "net.onnx")
    with pytest.raises(ImportFailedError, match=complaint):
        find_source(str(file), None)


@pytest.mark.parametrize("content", [b"", b"not ONNX", b"\x08\x09" + bytes(99)])
def test_files_that_are_not_onnx(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ImportFailedError, match="cannot be imported"):
        find_source(str(tmp_path / "net.onnx"), None)


def test_rows_that_are_mixed_are_refused_by_the_proof(tmp_path: Path) -> None:
    last = [
        helper.make_node("ReduceMean", ["logits", "zero"], ["m"], keepdims=1),
        helper.make_node("Sub", ["logits", "m"], ["y"]),
    ]
    made = classifier(last=last, stored={"zero": np.array([0])})
    with pytest.raises(ImportFailedError, match=r"net\.onnx: .*mean"):
        find_source(str(saved(made, tmp_path / "net.onnx")), None)


def test_the_three_commonest_mistakes(tmp_path: Path) -> None:
    """Another size, softmax in the network, and labels of something else."""
    file = saved(classifier(), tmp_path / "net.onnx")
    with pytest.raises(ImportFailedError, match=r"takes pictures \[3, 6, 6\] .*omit --input"):
        bring(str(file), tmp_path / "out", shape=(3, 8, 8))
    softmax = [helper.make_node("Softmax", ["logits"], ["y"])]
    probable = saved(classifier(last=softmax), tmp_path / "probable.onnx")
    with pytest.raises(ImportFailedError, match=r"returns probabilities: .*its last softmax"):
        bring(str(probable), tmp_path / "out")
    with pytest.raises(ImportFailedError, match="3 labels are given, but the network returns 4"):
        bring(str(file), tmp_path / "out", labels=("a", "b", "c"))
    stated = saved(classifier(metadata={"labels": "a,b,c"}), tmp_path / "stated.onnx")
    with pytest.raises(ImportFailedError, match="3 labels are given, but the network returns 4"):
        bring(str(stated), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_bundle_of_an_onnx_file_needs_nothing_else(tmp_path: Path) -> None:
    logarithms = [helper.make_node("LogSoftmax", ["logits"], ["y"])]
    made = classifier(last=logarithms, metadata={"labels": "a,b,c,d", "mean": "0.5,0.5,0.5"})
    imported = bring(str(saved(made, tmp_path / "log.onnx")), tmp_path / "out")
    assert imported.bundle.manifest.rows == "proven"
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [
        *("model.json", "program.json", "weights.safetensors")
    ]
    x = torch.rand(5, 3, 6, 6)
    expected = ReferenceEvaluator(made).run(None, {"x": (x - 0.5).numpy()})[0]
    with torch.inference_mode():
        found = load_network(read_bundle(tmp_path / "out")).classifier(x)
    torch.testing.assert_close(found, torch.from_numpy(expected), **CLOSE)


def test_a_timm_classifier_with_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm().create_model("test_byobnet", num_classes=3).eval()
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    shape = (3, 32, 32)
    source = find_source("timm:test_byobnet.r160_in1k", tmp_path / "net.safetensors", shape)
    assert source.network == "exported"
    assert (source.shape, source.labels) == (shape, None)  # ImageNet's are 1,000
    stated = timm().get_pretrained_cfg("test_byobnet.r160_in1k")
    assert (source.mean, source.std) == (stated.mean, stated.std)
    x = torch.rand(3, *shape)
    mean, std = (torch.tensor(one)[:, None, None] for one in (stated.mean, stated.std))
    with torch.inference_mode():
        torch.testing.assert_close(built(source)(x), network((x - mean) / std), **CLOSE)


def test_what_timm_states_of_a_classifier() -> None:
    source = find_source("timm:test_vit", None, (1, 32, 32))
    assert source.labels is not None
    assert (len(source.labels), len(set(source.labels))) == (1000, 1000)
    assert source.labels[0].startswith("tench")
    assert source.shape == (1, 32, 32)
    assert source.mean is None  # it is of three channels
    assert source.record["weights"] == "random"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("timm:resnet_18", r"no classifier 'resnet_18'; did you mean timm:\w*resnet\w*18"),
        ("timm:resnet18.absent", "Invalid pretrained tag|timm:resnet18.absent"),
        ("timm:hf-hub:someone/model", "no classifier 'hf-hub:someone/model'"),
    ],
)
def test_what_timm_does_not_have(text: str, complaint: str) -> None:
    with pytest.raises(ImportFailedError, match=complaint):
        find_source(text, None)


@pytest.mark.parametrize("text", ["timm:resnet18", "net.onnx", "hf:folder"])
def test_a_missing_package_is_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("models.source_names.find_spec", lambda name: None)
    with pytest.raises(
        ImportFailedError, match=r"not installed: .*pip install 'pixeldp\[formats\]'"
    ):
        check_source(text)


@pytest.mark.parametrize(
    ("stated", "labels"),
    [
        (["a", "b"], ("a", "b")),
        ({"1": "b", "0": "a"}, ("a", "b")),
        ('["a", "b"]', ("a", "b")),
        ("{0: 'a', 1: 'b'}", ("a", "b")),
        ("a\nb", ("a", "b")),
        ("a, b", ("a", "b")),
        (["a", "a", "b"], ("a (0)", "a (1)", "b")),
    ],
)
def test_labels_in_every_form(stated: Any, labels: tuple[str, ...]) -> None:
    assert read_labels(stated) == labels


@pytest.mark.parametrize("stated", [[1, 2], {"a": "b"}, {"1": "a"}, 3, "[1, 2]", "x" * 2**23])
def test_what_labels_cannot_be(stated: Any) -> None:
    with pytest.raises(ValueError, match=r"labels: expected|holds a list of more"):
        read_labels(stated)


def test_labels_nested_without_end_are_text() -> None:
    assert read_labels("[" * 10_000) == ("[" * 10_000,)


def test_numbers_in_every_form() -> None:
    assert read_numbers("mean", None) is None
    assert read_numbers("mean", "0.5,0.25") == (0.5, 0.25) == read_numbers("mean", [0.5, 0.25])
    assert read_numbers("mean", 0.5) == (0.5,)

"""Weights and archives are read without running anything in them."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.importing.files import read_archive, read_weights
from models.networks.foreign.exported import Exported
from models.source_names import ImportFailedError
from tests.models.importing.classifiers import SHAPE, Small, small

ANY = {0: torch.export.Dim.DYNAMIC}


def export(network: nn.Module, file: Path, batch: Any = ANY, shape: Any = SHAPE) -> Path:
    pictures = torch.rand(2, *shape)
    torch.export.save(torch.export.export(network, (pictures,), dynamic_shapes=(batch,)), file)
    return file


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(small().eval(), tmp_path_factory.mktemp("exported") / "net.pt2")


def altered(file: Path, other: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write the archive again with a changed graph."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (model,) = (name for name in members if name.endswith("models/model.json"))
    document = json.loads(members[model])
    change(document)
    members[model] = json.dumps(document).encode()
    with zipfile.ZipFile(other, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return other


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "executed")


WAYS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [1]}},
    "net": lambda state: {"net": state, "acc": 93.1},
    "ema": lambda state: {"ema": state, "step": 1},
    "both": lambda state: {
        "ema": {name: 0 * value for name, value in state.items()},
        "model": state,
    },
    "nested": lambda state: {"model": {"state_dict": state, "args": {}}},
    "unknown": lambda state: {"classifier": state, "epoch": 1},
}


@pytest.mark.parametrize("way", WAYS)
def test_state_dicts_of_every_kind_are_the_same(tmp_path: Path, way: str) -> None:
    state = dict(small().state_dict())
    save_file(state, tmp_path / "net.safetensors")
    torch.save(WAYS[way](state), tmp_path / "net.pth")
    for name in ("net.safetensors", "net.pth"):
        read = read_weights(tmp_path / name)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], value) for key, value in state.items())


def test_the_contents_of_other_files_are_listed(tmp_path: Path) -> None:
    state = dict(small().state_dict())
    torch.save({"generator": state, "critic": state, "step": 1}, tmp_path / "two.pth")
    with pytest.raises(ImportFailedError, match=r"generator \(dict\), critic \(dict\), step"):
        read_weights(tmp_path / "two.pth")
    torch.save({**state, "version": "1.0"}, tmp_path / "mixed.pth")
    with pytest.raises(ImportFailedError, match=r"mixed\.pth: .*than tensors: version \(str\)"):
        read_weights(tmp_path / "mixed.pth")


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"weight": torch.zeros(1), "more": Evil(trap)}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Evil(trap)))
    torch.save(small(), tmp_path / "whole.pth")
    for name in ("new.pth", "old.pth", "whole.pth"):
        with pytest.raises(ImportFailedError, match=f"{name}: holds more than tensors"):
            read_weights(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cannot be read as weights"),
        (b"nonsense", "cannot be read as weights|holds more than tensors"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: bytes, complaint: str) -> None:
    for name in ("net.pth", "net.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImportFailedError, match=complaint):
            read_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ImportFailedError, match="holds no state dict"):
        read_weights(tmp_path / "list.pth")
    torch.save({"lr": 0.1}, tmp_path / "other.pth")
    with pytest.raises(ImportFailedError, match="other things than tensors"):
        read_weights(tmp_path / "other.pth")
    with pytest.raises(ImportFailedError, match="cannot be read"):
        read_weights(tmp_path / "nowhere.pth")


class Rich(Small):
    """Uses much of what a graph can hold: sizes, slices, constants, devices, formats."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.arange(4.0), persistent=False)
        self.constant = torch.full((4,), 0.5)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits."""
        features = self.norm(self.features(pictures)).relu_()
        left, right = features.chunk(2, dim=1)
        tokens = torch.cat([right, left], dim=1).flatten(2).transpose(1, 2)
        tokens = tokens + torch.arange(4, device=pictures.device).to(tokens.dtype)
        tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        rows = pictures.shape[0]
        mixed = tokens.reshape(rows * 16, 4).view(rows, 16, 4).mean(1)
        top, _ = mixed.sort(dim=1)
        flat = features.new_zeros(rows, 4) + top
        return self.head(features.flatten(1)) + flat * self.constant + self.offsets


@pytest.mark.parametrize("network", [small(), Rich()], ids=["small", "rich"])
def test_a_program_computes_what_the_network_did(tmp_path: Path, network: nn.Module) -> None:
    archive = read_archive(export(network.eval(), tmp_path / "net.pt2"))
    assert archive.shape == SHAPE
    program = Exported(archive.program)
    program.graph.load_state_dict(archive.tensors)
    for rows in (1, 5):
        pictures = torch.rand(rows, *SHAPE)
        with torch.inference_mode():
            found, expected = program(pictures.clone()), network(pictures.clone())
        torch.testing.assert_close(found, expected)
    assert len(archive.program) < 100_000
    assert b"classifiers.py" not in archive.program, "traces of where it was exported"


def rename(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        nodes = document["graph_module"]["graph"]["nodes"]
        found = [node for node in nodes if old in node["target"]]
        assert found
        for node in found:
            node["target"] = new

    return change


def rewrite(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        part: Any = document
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = value

    return change


GRAPH = ("graph_module", "graph")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        # Functions that torch.export.load would have called.
        (rename("aten.relu", "torch.hub.load"), r"calls torch\.hub\.load; only operators"),
        (rename("aten.relu", "torch.load"), r"calls torch\.load"),
        (rename("aten.relu", "_operator.attrgetter"), r"calls _operator\.attrgetter"),
        (rename("aten.relu", "math.exp"), "calls math.exp"),
        (rename("aten.relu", "torch.ops.aten.relu.default.__init__"), "calls torch"),
        (rename("aten.relu", "torch.ops.prim.device.default"), "calls torch.ops.prim"),
        (rename("aten.relu", "torch.ops.aten.save.default"), "this PyTorch does not have"),
        (rename("aten.relu", "torch.ops.aten.from_file.default"), "is not accepted"),
        (rename("aten.relu", "torch.ops.aten.empty_like.default"), "is not accepted"),
        (rename("aten.relu", "torch.ops.aten.rand_like.default"), "draws random numbers"),
        (rename("aten.relu", "torch.ops.aten.bernoulli.default"), "draws random numbers"),
        (rename("aten.relu", "torch.ops.aten.item.default"), "does not return a tensor"),
        (rename("aten.relu", "torch.ops.aten.exp.out"), "writes into its arguments"),
        (rename("aten.relu", "torch.ops.aten._cudnn_rnn.default"), "is not accepted"),
        (rewrite("schema_version", "major", value=7), "schema version 7"),
        (rewrite(*GRAPH, "nodes", 0, "inputs", 0, "arg", value={"as_graph": {}}), "as_graph"),
        (rewrite(*GRAPH, "nodes", 0, "inputs", 0, "arg", value={}), "malformed|cannot be imported"),
        (rewrite(*GRAPH, "nodes", 0, "inputs", value=None), "malformed"),
        (rewrite(*GRAPH, "nodes", value=[]), "which nothing computes"),
        (rewrite("graph_module", "signature", value={}), "malformed"),
        (
            rewrite("graph_module", "signature", "output_specs", value=[]),
            "expected only the logits",
        ),
    ],
)
def test_a_program_calls_only_what_a_classifier_needs(
    tmp_path: Path, exported: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    file = altered(exported, tmp_path / "altered.pt2", change)
    with pytest.raises(ImportFailedError, match=complaint):
        read_archive(file)


def test_names_in_a_program_are_never_run(tmp_path: Path, exported: Path) -> None:
    """fx writes Python and runs it; no name of the file may reach it."""
    trap = tmp_path / "trap"
    code = f'x"); __import__("pathlib").Path({str(trap)!r}).touch(); ("'

    def change(document: dict[str, Any]) -> None:
        text = json.dumps(document).replace('"relu"', json.dumps(code))
        text = text.replace('"pictures"', json.dumps(code + " "))
        document.update(json.loads(text))

    archive = read_archive(altered(exported, tmp_path / "altered.pt2", change))
    program = Exported(archive.program)
    program.graph.load_state_dict(archive.tensors)
    assert program(torch.rand(3, *SHAPE)).shape == (3, 4)
    assert not trap.exists()
    assert "__import__" not in program.graph.code

    def keyword(document: dict[str, Any]) -> None:
        argument = document["graph_module"]["graph"]["nodes"][0]["inputs"][0]
        argument |= {"name": f"x={code}", "kind": 2}

    with pytest.raises(ImportFailedError, match=r"calls torch\.ops\.aten\.conv2d\.default with"):
        read_archive(altered(exported, tmp_path / "altered.pt2", keyword))


def test_programs_that_are_not_functions_of_one_row(tmp_path: Path) -> None:
    network = small().train()
    with pytest.raises(ImportFailedError, match=r"batch_norm\.default in training mode"):
        read_archive(export(network, tmp_path / "training.pt2"))
    with pytest.raises(ImportFailedError, match="exactly 2 pictures at a time; export it with"):
        read_archive(export(network.eval(), tmp_path / "fixed.pt2", batch=None))
    sized = {2: torch.export.Dim.DYNAMIC, 0: torch.export.Dim.DYNAMIC}
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ImportFailedError, match="all sizes fixed except the batch"):
        read_archive(export(convolution, tmp_path / "sized.pt2", batch=sized))


def test_malformed_archives(tmp_path: Path, exported: Path) -> None:
    file = tmp_path / "net.pt2"
    file.write_bytes(b"nothing")
    with pytest.raises(ImportFailedError, match=r"net\.pt2: cannot be imported"):
        read_archive(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/serialized_exported_program.json", "{}")
    with pytest.raises(ImportFailedError, match="holds 0 programs"):
        read_archive(file)
    with zipfile.ZipFile(exported) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (config,) = (name for name in members if name.endswith("weights_config.json"))
    for change, complaint in [
        (('"use_pickle": false', '"use_pickle": true'), "would have to be unpickled"),
        (('"storage_offset": {"as_int": 0}', '"storage_offset": {"as_int": 99999}'), "storage"),
        (('"dtype": 7', '"dtype": 9'), "of a type that is not accepted"),
        (('"head.weight"', '"tail.weight"'), "lacks head.weight"),
    ]:
        content = members[config].decode()
        assert change[0] in content
        with zipfile.ZipFile(file, "w") as archive:
            for name, old in members.items():
                archive.writestr(name, content.replace(*change) if name == config else old)
        with pytest.raises(ImportFailedError, match=complaint):
            read_archive(file)


def test_numbers_stored_once_and_repeated_by_strides_are_refused(
    exported: Path, tmp_path: Path
) -> None:
    """With strides of zero, four bytes stand for gigabytes."""
    with zipfile.ZipFile(exported) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in members if name.endswith("_weights_config.json"))
    config = json.loads(members[name])
    meta = next(iter(config["config"].values()))["tensor_meta"]
    meta["sizes"] = [{"as_int": 40_000}, {"as_int": 20_000}]
    meta["strides"] = [{"as_int": 0}, {"as_int": 0}]
    members[name] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        for one, content in members.items():
            archive.writestr(one, content)
    with pytest.raises(ImportFailedError, match="more than the"):
        read_archive(tmp_path / "net.pt2")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(exported: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "net.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        for one, content in members.items():
            archive.writestr(one, content + b" " * 2**24)
    with pytest.raises(ImportFailedError, match="packed into"):
        read_archive(tmp_path / "net.pt2")

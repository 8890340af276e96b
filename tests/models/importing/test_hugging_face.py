"""Folders of Hugging Face's libraries, with small networks that are made here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.importing.hugging_face import _normalisation, read_folder
from models.importing.sources import build_source, find_source
from models.networks.foreign.torchvision_operators import declare_missing_operators
from models.source_names import ImportFailedError

# transformers takes long to import.
pytestmark = pytest.mark.slow

NAMES = {0: "heron", 1: "crane", 2: "crane"}
SMALL: dict[str, dict[str, Any]] = {
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "ViT": {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "patch_size": 8},
    "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "Swin": {"patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
    "Dinov2": {"hidden_size": 16, "num_hidden_layers": 1, "patch_size": 8},
}
SMALL["Swin"]["window_size"] = 4
for _name in ("ViT", "Dinov2"):
    SMALL[_name]["num_attention_heads"] = 2
PREPARED = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.25, 0.5, 0.75],
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_resize": True,
    "size": {"height": 32, "width": 32},
}


EFFICIENT = {"image_processor_type": "EfficientNetImageProcessor"}


def column(values: Any) -> torch.Tensor:
    return torch.tensor(values)[:, None, None]


def library() -> Any:
    declare_missing_operators()
    import transformers

    return transformers


def made(kind: str, folder: Path) -> Any:
    """Save a network with its preparation, and return it."""
    torch.manual_seed(0)
    config = getattr(library(), f"{kind}Config")(id2label=NAMES, image_size=32, **SMALL[kind])
    network = getattr(library(), f"{kind}ForImageClassification")(config).eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARED))
    return network


@pytest.mark.parametrize("kind", SMALL)
def test_a_folder_is_the_network_that_was_saved(kind: str, tmp_path: Path) -> None:
    network = made(kind, tmp_path / "Net")
    source = find_source(f"hf:{tmp_path / 'Net'}", None)
    assert source.labels == ("heron", "crane (1)", "crane (2)")
    assert source.shape == (3, 32, 32)
    assert source.name == "net"
    assert source.network == "exported"  # its rows are proven
    assert source.mean is not None
    assert source.std is not None
    assert source.tensors is not None
    built, _ = build_source(source, source.shape, 3, source.mean, source.std)
    built.get_submodule("network").load_state_dict(source.tensors)
    x = torch.rand(3, 3, 32, 32)
    mean, std = (
        torch.tensor(PREPARED[name])[:, None, None] for name in ("image_mean", "image_std")
    )
    with torch.inference_mode():
        expected = network(pixel_values=(x - mean) / std).logits
        torch.testing.assert_close(built(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "do_normalize": False},
        {
            "image_processor_type": "EfficientNetImageProcessor",
            "rescale_offset": False,
            "include_top": True,
        },
        {
            "image_processor_type": "EfficientNetImageProcessor",
            "rescale_offset": True,
            "include_top": False,
            "rescale_factor": 1 / 127.5,
        },
    ],
)
def test_pictures_are_normalised_as_the_processor_does(changes: dict[str, Any]) -> None:
    stated = {**PREPARED, **changes}
    processor = getattr(library(), stated["image_processor_type"])(
        **{key: value for key, value in stated.items() if key != "image_processor_type"}
    )
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    expected = processor(pixels, return_tensors="pt", do_resize=False)["pixel_values"][0]
    mean, std = _normalisation(stated)
    x = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    given = (
        torch.tensor(mean or [0.0] * 3)[:, None, None],
        torch.tensor(std or [1.0] * 3)[:, None, None],
    )
    torch.testing.assert_close((x - given[0]) / given[1], expected, rtol=1e-4, atol=1e-4)


def test_a_folder_of_timm(tmp_path: Path) -> None:
    declare_missing_operators()
    import timm

    network = timm.create_model("test_resnet", num_classes=3).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    stated = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "classifier": "fc"}
    config = {"architecture": "test_resnet", "num_classes": 3, "label_names": ["a", "b", "c"]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": stated}))
    built = read_folder(tmp_path)
    assert (built.labels, built.shape, built.mean) == (("a", "b", "c"), (3, 32, 32), (0.5,) * 3)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(built.network(x), network(x))


def changed(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_nothing_of_a_folder_is_run_or_fetched(tmp_path: Path) -> None:
    network = made("ViT", tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    changed(
        tmp_path,
        auto_map=dict.fromkeys(("AutoConfig", "AutoModelForImageClassification"), "evil.Evil"),
        attn_implementation="someone/kernel",
        _attn_implementation="someone/kernel",
        quantization_config={"quant_method": "bitsandbytes"},
    )
    x = torch.rand(2, 3, 32, 32)
    built = read_folder(tmp_path)
    torch.testing.assert_close(built.network(x), network(pixel_values=x).logits)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "absent"}, "model_type 'absent', which transformers lacks"),
        ({"model_type": "bert"}, "bert is not an image classifier"),
        ({"hidden_size": 2**40}, r"has the number 1,?099"),
        ({"hidden_size": 2**19}, "far more weights than"),
        ({"num_hidden_layers": 2**19}, "far more weights than"),
        ({"num_hidden_layers": 3}, "do not fit config.json: missing keys"),
        ({"num_hidden_layers": 1}, "do not fit config.json: unexpected keys"),
        ({"id2label": {"0": "a", "1": "b"}}, "mismatched keys classifier.bias, classifier.weight"),
        ({"id2label": {"0": "a", "1": "b", "7": "c"}}, "expected the numbers 0 to 2"),
        ({"patch_size": "x"}, "cannot be imported"),
    ],
)
def test_descriptions_that_are_not_accepted(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    made("ViT", tmp_path)
    changed(tmp_path, **changes)
    with pytest.raises(ImportFailedError, match=complaint):
        read_folder(tmp_path)


def test_files_that_are_not_accepted(tmp_path: Path) -> None:
    with pytest.raises(ImportFailedError, match=r"there is no config\.json"):
        read_folder(tmp_path)
    made("ResNet", tmp_path)
    with pytest.raises(ImportFailedError, match=r"does not run on pictures .*--input says"):
        find_source(f"hf:{tmp_path}", None, (1, 32, 32))
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ImportFailedError, match=r"there is no model\.safetensors"):
        read_folder(tmp_path)
    save_file(state, tmp_path / "other.safetensors")
    read_folder(tmp_path, tmp_path / "other.safetensors")
    for content in ("[", "[]", "{" + '"a":' * 10_000):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ImportFailedError, match=r"config\.json is not"):
            read_folder(tmp_path)

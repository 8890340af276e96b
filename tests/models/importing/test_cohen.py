"""Checkpoints of Cohen et al.'s code become bundles with the logits of that code.

The oracle uses neither the project's networks nor PyTorch's modules: it makes state dicts with the
names of that code's ``archs/cifar_resnet.py`` and of torchvision's ``resnet50``, and computes with
nothing but their tensors.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.bundle import read_bundle
from models.importing.fitting import fit
from models.importing.sources import build_source, find_source
from models.network import load_network
from models.source_names import ImportFailedError
from service.cli.main import main

State = dict[str, Tensor]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def convolution(state: State, name: str, before: int, after: int, size: int) -> None:
    state[f"{name}.weight"] = torch.randn(after, before, size, size) / (before * size**2) ** 0.5


def normalisation(state: State, name: str, channels: int) -> None:
    state[f"{name}.weight"] = torch.rand(channels) + 0.5
    state[f"{name}.bias"] = torch.randn(channels) * 0.1
    state[f"{name}.running_mean"] = torch.randn(channels) * 0.1
    state[f"{name}.running_var"] = torch.rand(channels) + 0.5
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def cifar_state(depth: int, prefix: str = "1.", labels: int = 10) -> State:
    """The state dict of Sequential(NormalizeLayer, ResNet(depth, 10)), with random weights."""
    torch.manual_seed(depth)
    state: State = {}
    convolution(state, f"{prefix}conv1", 3, 16, 3)
    normalisation(state, f"{prefix}bn1", 16)
    before = 16
    for stage, width in ((1, 16), (2, 32), (3, 64)):
        for block in range((depth - 2) // 6):
            name = f"{prefix}layer{stage}.{block}"
            convolution(state, f"{name}.conv1", before, width, 3)
            normalisation(state, f"{name}.bn1", width)
            convolution(state, f"{name}.conv2", width, width, 3)
            normalisation(state, f"{name}.bn2", width)
            state[f"{name}.bn2.weight"] *= 0.1  # keeps the logits of deep networks of order 1
            if before != width:
                convolution(state, f"{name}.downsample.0", before, width, 1)
                normalisation(state, f"{name}.downsample.1", width)
            before = width
    state[f"{prefix}fc.weight"] = torch.randn(labels, 64) * 0.1
    state[f"{prefix}fc.bias"] = torch.randn(labels) * 0.1
    return state


def normalised(state: State, name: str, x: Tensor) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])


def cifar_logits(
    state: State, depth: int, x: Tensor, mean: Any = MEAN, std: Any = STD, prefix: str = "1."
) -> Tensor:
    """What ``archs/cifar_resnet.py`` computes behind its normalisation, in evaluation mode."""
    x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    x = F.conv2d(x, state[f"{prefix}conv1.weight"], padding=1)
    x = normalised(state, f"{prefix}bn1", x).relu()
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            name = f"{prefix}layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = normalised(state, f"{name}.bn1", y).relu()
            y = F.conv2d(y, state[f"{name}.conv2.weight"], padding=1)
            y = normalised(state, f"{name}.bn2", y)
            if f"{name}.downsample.0.weight" in state:
                x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = normalised(state, f"{name}.downsample.1", x)
            x = (x + y).relu()
    x = F.avg_pool2d(x, 8).flatten(1)
    return F.linear(x, state[f"{prefix}fc.weight"], state[f"{prefix}fc.bias"])


def resnet50_state(prefix: str = "1.module.") -> State:
    torch.manual_seed(50)
    state: State = {}
    convolution(state, f"{prefix}conv1", 3, 64, 7)
    normalisation(state, f"{prefix}bn1", 64)
    before = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            name = f"{prefix}layer{stage}.{block}"
            sizes = ((before, width, 1), (width, width, 3), (width, 4 * width, 1))
            for index, (inside, after, size) in enumerate(sizes, 1):
                convolution(state, f"{name}.conv{index}", inside, after, size)
                normalisation(state, f"{name}.bn{index}", after)
            if block == 0:
                convolution(state, f"{name}.downsample.0", before, 4 * width, 1)
                normalisation(state, f"{name}.downsample.1", 4 * width)
            before = 4 * width
    state[f"{prefix}fc.weight"] = torch.randn(1000, 2048) * 0.02
    state[f"{prefix}fc.bias"] = torch.randn(1000) * 0.1
    return state


def resnet50_logits(state: State, x: Tensor, prefix: str = "1.module.") -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    x = F.conv2d(x, state[f"{prefix}conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(normalised(state, f"{prefix}bn1", x).relu(), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            name = f"{prefix}layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"])
            y = normalised(state, f"{name}.bn1", y).relu()
            y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            y = normalised(state, f"{name}.bn2", y).relu()
            y = normalised(state, f"{name}.bn3", F.conv2d(y, state[f"{name}.conv3.weight"]))
            if block == 0:
                x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = normalised(state, f"{name}.downsample.1", x)
            x = (x + y).relu()
    x = x.mean((2, 3))
    return F.linear(x, state[f"{prefix}fc.weight"], state[f"{prefix}fc.bias"])


def save(file: Path, arch: str, state: State) -> Path:
    """Save a checkpoint as the code's ``train.py`` does."""
    weights = [torch.nn.Parameter(torch.zeros(2))]
    optimiser = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=1e-4)
    weights[0].sum().backward()
    optimiser.step()
    content = {"epoch": 90, "arch": arch, "state_dict": state, "optimizer": optimiser.state_dict()}
    torch.save(content, file)
    return file


def bring(file: Path, pictures: Tensor) -> Tensor:
    """Return the logits of a checkpoint's network, built and loaded as an import does."""
    source = find_source(f"cohen:{file}", None)
    assert source.shape
    assert source.labels
    assert source.mean
    assert source.std
    assert source.tensors
    network, _ = build_source(source, source.shape, len(source.labels), source.mean, source.std)
    inner = network.get_submodule("network")
    fitted = fit(source.tensors, inner.state_dict(), source.text)
    assert fitted.left_out == ()
    inner.load_state_dict(fitted.tensors)
    with torch.inference_mode():
        found: Tensor = network.eval()(pictures)
    return found


def close(found: Tensor, wanted: Tensor) -> None:
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


NOISY = torch.rand(3, 3, 32, 32) + 0.5 * torch.randn(3, 3, 32, 32)


@pytest.mark.parametrize("prefix", ["1.", "1.module.", "module.1."])
def test_the_logits_are_those_of_the_code(tmp_path: Path, prefix: str) -> None:
    state = cifar_state(20, prefix)
    file = save(tmp_path / "checkpoint.pth.tar", "cifar_resnet20", state)
    close(bring(file, NOISY), cifar_logits(state, 20, NOISY, prefix=prefix))


def test_normalisation_is_taken_from_a_file_that_has_it(tmp_path: Path) -> None:
    state, mean = cifar_state(20), (0.5, 0.25, 0.125)
    centred = {**state, "0.means": torch.tensor(mean)}
    file = save(tmp_path / "a.tar", "cifar_resnet20", centred)
    close(bring(file, NOISY), cifar_logits(state, 20, NOISY, mean, (1, 1, 1)))
    file = save(tmp_path / "b.tar", "cifar_resnet20", {**centred, "0.sds": torch.tensor(STD)})
    close(bring(file, NOISY), cifar_logits(state, 20, NOISY, mean))


@pytest.mark.slow
def test_a_checkpoint_becomes_a_bundle(tmp_path: Path) -> None:
    """It was trained behind a layer that only subtracts the mean, as the options say."""
    state = cifar_state(20)
    file = save(tmp_path / "checkpoint.pth.tar", "cifar_resnet20", state)
    options = ["--scale", "0.5", "--std", "1,1,1", "--draws", "64"]
    assert main(["import", f"cohen:{file}", "--out", str(tmp_path / "out"), *options]) == 0
    bundle = read_bundle(tmp_path / "out")
    manifest = bundle.manifest
    assert (manifest.name, manifest.rows) == ("cifar_resnet20", "built-in")
    assert manifest.labels[:2] == ("airplane", "automobile")
    assert (manifest.noise.placement, manifest.noise.scale) == ("image", 0.5)
    assert manifest.training["imported"]["arch"] == "cifar_resnet20"
    with torch.inference_mode():
        found = load_network(bundle).classifier(NOISY)
    close(found, cifar_logits(state, 20, NOISY, MEAN, (1, 1, 1)))


def test_a_network_of_110_layers(tmp_path: Path) -> None:
    state = cifar_state(110)
    file = save(tmp_path / "checkpoint.pth.tar", "cifar_resnet110", state)
    x = torch.rand(2, 3, 32, 32)
    close(bring(file, x), cifar_logits(state, 110, x))


def test_a_resnet50_trained_in_parallel(tmp_path: Path) -> None:
    state = resnet50_state()
    file = save(tmp_path / "checkpoint.pth.tar", "resnet50", state)
    source = find_source(f"cohen:{file}", None)
    assert source.shape == (3, 224, 224)
    assert source.labels is not None
    assert (len(source.labels), source.labels[0]) == (1000, "tench")
    x = torch.rand(2, 3, 64, 64)
    close(bring(file, x), resnet50_logits(state, x))


def test_other_numbers_of_labels_are_numbered(tmp_path: Path) -> None:
    file = save(tmp_path / "a.tar", "cifar_resnet20", cifar_state(20, labels=4))
    assert find_source(f"cohen:{file}", None).labels == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"arch": "cifar_wrn40", "state_dict": cifar_state(20)}, "is 'cifar_wrn40'; expected resn"),
        ({"state_dict": cifar_state(20)}, "expected arch and state_dict, found state_dict"),
        ({"arch": "cifar_resnet20", "state_dict": {}}, "holds no state dict"),
        ({"arch": "cifar_resnet20"}, "holds no state dict"),
        ({"arch": Path, "state_dict": {}}, "holds more than tensors"),
        ([1], "no dictionary"),
        ({"arch": "cifar_resnet110", "state_dict": cifar_state(20)}, "the weights do not fit"),
        ({"arch": "cifar_resnet20", "state_dict": cifar_state(26)}, "which the network lacks"),
    ],
)
def test_checkpoints_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, complaint: str
) -> None:
    file = tmp_path / "checkpoint.pth.tar"
    torch.save(content, file)
    out = tmp_path / "out"
    assert main(["import", f"cohen:{file}", "--scale", "0.5", "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert complaint in said
    assert "checkpoint.pth.tar" in said
    assert not out.exists()


def test_its_noise_must_be_given_and_its_weights_may_not(tmp_path: Path) -> None:
    file = save(tmp_path / "a.tar", "cifar_resnet20", cifar_state(20))
    with pytest.raises(ImportFailedError, match="has its own weights; omit b"):
        find_source(f"cohen:{file}", Path("b.safetensors"))
    assert main(["import", f"cohen:{file}", "--out", str(tmp_path / "out")]) == 1

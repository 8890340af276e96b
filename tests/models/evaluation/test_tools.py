"""The tools of the field attack what a model computes, and stay within the sizes they are given."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.bundle import ZOO, read_bundle
from models.certification.names import Norm
from models.evaluation.attacks import noisy_scores
from models.evaluation.tools import ExpectedScores, attackable, autoattack
from models.images.decoding import decode
from models.network import load_network

ROOT = Path(__file__).parents[3]
SHAPE = (1, 16, 16)


def linear(pictures: Tensor) -> Tensor:
    """Log scores of three labels, by the mean of all pixels: the first leads above one half."""
    mean = pictures.flatten(1).mean(dim=1)
    return torch.stack([8 * (mean - 0.5), 0 * mean, 0 * mean - 1], dim=1).log_softmax(dim=1)


@pytest.mark.parametrize(("norm", "margin"), [("linf", 0.1), ("l2", 1.6), ("l1", 25.6)])
def test_autoattack_turns_what_can_be_turned_and_nothing_else(norm: Norm, margin: float) -> None:
    """All pixels are 0.6, so a change of 0.1 in each turns the label: margins are known."""
    torch.manual_seed(0)
    pictures = torch.full((4, *SHAPE), 0.6)
    labels = torch.zeros(4, dtype=torch.long)
    sizes = torch.tensor([0.9, 0.9, 1.5, 1.5]) * margin
    found = autoattack(linear, pictures, labels, sizes, norm, 20)
    assert found.min() >= 0
    assert found.max() <= 1
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    lengths = (found - pictures).flatten(1).norm(order, dim=1)
    assert (lengths <= sizes * (1 + 1e-5)).all()
    assert (linear(found).argmax(dim=1) != labels).tolist() == [False, False, True, True]


def test_a_model_for_tools_returns_log_expected_scores_with_gradients() -> None:
    bundle = read_bundle(ZOO / "mnist-cnn")
    model = attackable(bundle, draws=64)
    assert isinstance(model, ExpectedScores)
    picture = torch.rand(1, *bundle.manifest.input.shape, requires_grad=True)
    scores = model(picture)
    torch.testing.assert_close(scores.exp().sum(), torch.tensor(1.0))
    other = noisy_scores(load_network(bundle), 64)(picture)
    assert not torch.equal(scores, other), "each call draws its noise"
    torch.testing.assert_close(scores.exp(), other.exp(), rtol=0, atol=0.5)
    (gradient,) = torch.autograd.grad(scores[0, 0], picture)
    assert gradient.abs().sum() > 0


# Foolbox imports a part of SciPy by its former name.
@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.slow
def test_foolbox_attacks_a_shipped_model() -> None:
    """No change within the certified size of 0.5 turns the label, and one far beyond it does."""
    import foolbox

    torch.manual_seed(0)
    model = attackable(read_bundle(ZOO / "mnist-cnn"))
    attacked = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    pixels = decode((ROOT / "examples" / "7.png").read_bytes()).array()
    picture = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
    attack = foolbox.attacks.L2PGD(steps=20)
    sizes = [0.3, 5.0]
    _, found, turned = attack(attacked, picture, torch.tensor([7]), epsilons=sizes)
    assert turned[:, 0].tolist() == [False, True]
    for size, one in zip(sizes, found, strict=True):
        assert 0 < float((one - picture).norm()) <= size * (1 + 1e-5)


@pytest.mark.slow
def test_the_example_attacks_a_shipped_model() -> None:
    done = subprocess.run(
        [sys.executable, "examples/attack_with_art.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = done.stdout.splitlines()
    assert before.startswith("examples/7.png: 7, certified up to L2 0.")
    assert after.endswith(": 7"), "within the certified size"

from pathlib import Path

import numpy as np
import pytest
import torch

from models.answering import repeatable_key
from models.bundle import read_bundle
from models.certification.names import NORMS, Norm
from models.data.datasets import DataSet
from models.evaluation.alteration import Attack, alter
from models.evaluation.asked import ATTACK_NAMES, AttackName
from models.evaluation.attacks import noisy_scores
from models.loaded import load_model
from models.network import load_network
from models.predictor import Predictor


@pytest.mark.parametrize("name", ATTACK_NAMES)
@pytest.mark.parametrize("norm", NORMS)
def test_no_picture_is_altered_beyond_its_size(
    bundle: Path, digits: DataSet, name: AttackName, norm: Norm
) -> None:
    torch.manual_seed(0)
    scores = noisy_scores(load_network(read_bundle(bundle)), 4)
    some = digits.every(3)
    sizes = np.linspace(0.001, 1.0, len(some)) * {"l1": 1.0, "l2": 1.0, "linf": 0.2}[norm]
    attack = Attack(name, norm, steps=5)
    batches = list(alter(attack, scores, some.images, some.labels, sizes, batch=8))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    altered = np.concatenate(batches)
    assert altered.dtype == np.uint16
    assert altered.shape == some.images.shape
    moved = (altered / 65535 - some.images / 255).reshape(len(some), -1)
    by_hand = np.linalg.norm(moved, {"l1": 1, "l2": 2, "linf": np.inf}[norm], axis=1)
    assert (by_hand <= sizes).all()
    # Sixteen bits are fine enough to use nearly the whole size; AutoAttack ends once it succeeds.
    assert name == "autoattack" or (by_hand[1:] > 0.8 * sizes[1:]).mean() > 0.8


def test_sixteen_bits_of_the_same_picture_draw_the_same(bundle: Path, digits: DataSet) -> None:
    """A certificate for 8-bit pixels also holds for 16 bits: the function is the same."""
    rows = np.arange(96) % 4
    scores = []
    for images in (digits.images[:4], digits.images[:4].astype(np.uint16) * 257):
        predictor = Predictor(load_model(bundle), 96, key=repeatable_key(0))
        scores.append(predictor.run([predictor.encode(image).features for image in images], rows))
    assert (scores[0] == scores[1]).all()

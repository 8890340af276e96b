from pathlib import Path

import numpy as np
import torch

from models.answering import answer_all, repeatable_key
from models.bundle import read_bundle
from models.certification.question import Question
from models.data.datasets import DataSet
from models.loaded import load_model
from models.network import load_network
from models.predictor import Predictor

DRAWS = 200
QUESTION = Question(confidence=0.999, max_draws=DRAWS, target=None, norm="l2")


def predictor(bundle: Path, seed: int = 0) -> Predictor:
    return Predictor(load_model(bundle), 96, key=repeatable_key(seed))


def test_every_picture_gets_its_own_draws(bundle: Path, digits: DataSet) -> None:
    """Shares of votes agree with those under float noise, drawn picture by picture."""
    network = load_network(read_bundle(bundle))
    generator = torch.Generator().manual_seed(1)
    seen = set()
    for index, inquiry in answer_all(predictor(bundle), digits.images, QUESTION):
        seen.add(index)
        assert inquiry.stopped == "max_draws"
        picture = torch.from_numpy(digits.images[index]).permute(2, 0, 1).float() / 255
        noise = torch.randn(1000, *picture.shape, generator=generator) * network.scale
        with torch.inference_mode():
            votes = network.score(picture + noise).argmax(1)
        shares = np.bincount(votes.numpy(), minlength=10) / 1000
        # Six standard errors of the difference between two estimates of a share.
        allowed = 6 * np.sqrt((shares * (1 - shares) + 0.01) * (1 / 1000 + 1 / DRAWS))
        assert (abs(inquiry.total.means - shares) < allowed).all()
    assert seen == set(range(len(digits)))


def test_a_seed_repeats_the_noise_and_another_does_not(bundle: Path, digits: DataSet) -> None:
    def sums(seed: int) -> list[list[int]]:
        found = answer_all(predictor(bundle, seed), digits.images[:9], QUESTION)
        return [inquiry.total.sums.tolist() for _, inquiry in sorted(found, key=lambda one: one[0])]

    assert sums(1) == sums(1)
    assert sums(1) != sums(2)


def test_keys_differ_from_each_other() -> None:
    one, other = repeatable_key(3), repeatable_key(4)
    keys = [one() for _ in range(50)] + [other() for _ in range(50)]
    assert len(set(keys)) == 100
    assert {len(key) for key in keys} == {32}

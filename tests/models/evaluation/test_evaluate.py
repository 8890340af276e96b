import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import BundleError, read_bundle
from models.certification.procedure import Question
from models.evaluation.evaluate import Evaluation, answers, evaluate, record, share
from models.noise import Key
from models.pixeldp import load_network
from models.predictor import Predictor
from models.training.datasets import DataSet, load
from models.training.loop import train
from models.training.recipe import find_recipe

DRAWS = 200


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is right about most digits and certifies some."""
    folder = tmp_path_factory.mktemp("bundles") / "digits"
    train(find_recipe("digits").changed(epochs=8), load("digits", None, "train"), folder)
    return folder


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", None, "test").every(5)


def known_keys() -> Key:
    numbers = itertools.count()
    return lambda: next(numbers).to_bytes(32, "little")


def predictor(bundle: Path, pass_size: int = 96) -> Predictor:
    return Predictor(read_bundle(bundle), pass_size, key=known_keys())


def test_the_figures_are_those_of_a_plain_recount(bundle: Path, digits: DataSet) -> None:
    radii = (0.05, 0.15, 0.3)
    evaluation = evaluate(
        predictor(bundle), digits, max_draws=DRAWS, radii=radii, dataset="digits", progress=False
    )
    question = Question(confidence=0.999, max_draws=DRAWS, target=None, norm="l2")
    right, uncertified, sizes, draws = 0, 0, [], 0
    reached = dict.fromkeys(radii, 0)
    seen = set()
    for index, inquiry in answers(predictor(bundle), digits.images, question):
        seen.add(index)
        assert inquiry.stopped == "max_draws"
        means = list(inquiry.total.means)
        label = means.index(max(means))
        draws += inquiry.total.draws
        sizes.append(inquiry.size)
        uncertified += inquiry.size == 0
        if label == digits.labels[index]:
            right += 1
            for radius in radii:
                reached[radius] += inquiry.size >= radius
    count = len(digits)
    assert seen == set(range(count))
    assert evaluation.accuracy == right / count
    assert [(at.radius, at.accuracy) for at in evaluation.certified] == [
        (radius, reached[radius] / count) for radius in radii
    ]
    assert evaluation.uncertified == uncertified
    assert evaluation.mean_size == pytest.approx(sum(sizes) / count)
    assert evaluation.draws == draws == count * DRAWS
    assert (evaluation.pictures, evaluation.every) == (count, 1)
    assert (evaluation.model, evaluation.version, evaluation.dataset) == ("digits", "1", "digits")
    # The model is neither useless nor perfect, so that the counts above could differ.
    assert evaluation.accuracy > 0.5
    assert 0 < reached[0.3] < reached[0.05] < right


def test_every_picture_gets_its_own_draws(bundle: Path, digits: DataSet) -> None:
    """Shares of votes agree with those of float noise, drawn picture by picture."""
    question = Question(confidence=0.999, max_draws=DRAWS, target=None, norm="l2")
    network = load_network(read_bundle(bundle))
    generator = torch.Generator().manual_seed(1)
    for index, inquiry in answers(predictor(bundle), digits.images, question):
        picture = torch.from_numpy(digits.images[index]).permute(2, 0, 1).float() / 255
        noise = torch.randn(1000, *picture.shape, generator=generator) * network.scale
        with torch.inference_mode():
            votes = network.score(picture + noise).argmax(1)
        shares = np.bincount(votes.numpy(), minlength=10) / 1000
        # Six standard errors of the difference between two estimates of a share.
        allowed = 6 * np.sqrt((shares * (1 - shares) + 0.01) * (1 / 1000 + 1 / DRAWS))
        assert (abs(inquiry.total.means - shares) < allowed).all()


def test_wrong_and_uncertified_pictures_count_as_failures(bundle: Path, digits: DataSet) -> None:
    shifted = DataSet(digits.images, (digits.labels + 1) % 10, digits.names)
    evaluation = evaluate(predictor(bundle), shifted, max_draws=64, radii=(1e-6,), progress=False)
    assert evaluation.accuracy < 0.3
    assert evaluation.certified[0].accuracy <= evaluation.accuracy
    assert evaluation.mean_size > 0


def test_every_takes_some_pictures(bundle: Path, digits: DataSet) -> None:
    evaluation = evaluate(
        predictor(bundle), digits, every=20, max_draws=64, confidence=0.9, progress=False
    )
    assert (evaluation.pictures, evaluation.draws) == (3, 3 * 64)
    assert (evaluation.every, evaluation.confidence, evaluation.norm) == (20, 0.9, "l2")


def test_sizes_in_another_norm(bundle: Path, digits: DataSet) -> None:
    def certified(norm: str, radius: float) -> float:
        return (
            evaluate(
                predictor(bundle),
                digits,
                max_draws=DRAWS,
                radii=(radius,),
                norm=norm,  # type: ignore[arg-type]
                progress=False,
            )
            .certified[0]
            .accuracy
        )

    assert certified("linf", 0.1 / 8) == certified("l2", 0.1) > 0


def test_the_summary_is_kept_in_the_bundle(bundle: Path, digits: DataSet) -> None:
    evaluation = evaluate(bundle, digits, every=20, max_draws=64, progress=False)
    before = read_bundle(bundle).manifest
    record(bundle, evaluation)
    after = read_bundle(bundle).manifest
    assert Evaluation.model_validate(after.evaluation) == evaluation
    assert after.model_copy(update={"evaluation": before.evaluation}) == before


@pytest.mark.parametrize(
    ("remaining", "slots", "counts"),
    [
        ([100, 100, 100], 9, [3, 3, 3]),
        ([100, 1, 100], 9, [4, 1, 4]),
        ([2, 1], 9, [2, 1]),
        ([5], 9, [5]),
        ([50, 50, 50], 10, [3, 3, 4]),
    ],
)
def test_slots_are_shared_evenly_and_none_is_wasted(
    remaining: Sequence[int], slots: int, counts: list[int]
) -> None:
    assert share(remaining, slots) == counts


def test_what_cannot_be_evaluated_is_refused(bundle: Path, digits: DataSet, tmp_path: Path) -> None:
    other = DataSet(digits.images, digits.labels, tuple("abcdefghij"))
    with pytest.raises(ValueError, match=r"labels \(a, b, c, d, e, …; 10 in all\) are not"):
        evaluate(predictor(bundle), other, progress=False)
    with pytest.raises(ValueError, match="every must be at least 1"):
        evaluate(predictor(bundle), digits, every=0, progress=False)
    with pytest.raises(ValueError, match="radii must be above 0"):
        evaluate(predictor(bundle), digits, radii=(0.0, 1.0), progress=False)
    with pytest.raises(ValueError, match="max_draws must be at least 64"):
        evaluate(predictor(bundle), digits, max_draws=10, progress=False)
    with pytest.raises(BundleError, match="cannot be read"):
        evaluate(tmp_path, digits, progress=False)

from pathlib import Path
from typing import Any

import pytest

from models.answering import answer_all
from models.bundle import Bundle, BundleError, read_bundle
from models.certification.question import Question
from models.data.datasets import DataSet
from models.evaluation.evaluate import Attacks, Running, evaluate, record
from models.evaluation.figures import Evaluation
from models.loaded import load_model

DRAWS = 200
RUNNING = Running(precision="float32", pass_size=96, provider="pytorch")


def run(bundle: Path, data: DataSet, **options: Any) -> Evaluation:
    options = {"running": RUNNING, "max_draws": 64, **options}
    return evaluate(read_bundle(bundle), data, **options)


def test_the_figures_agree_with_a_plain_recount(bundle: Path, digits: DataSet) -> None:
    radii = (0.05, 0.15, 0.3)
    evaluation = run(bundle, digits, max_draws=DRAWS, radii=radii, dataset="digits")
    question = Question(confidence=0.999, max_draws=DRAWS, target=None, norm="l2")
    right, robust, uncertified, sizes, draws = 0, dict.fromkeys(radii, 0), 0, [], 0
    reached = dict.fromkeys(radii, 0)
    for index, inquiry in answer_all(RUNNING.load(load_model(bundle)), digits.images, question):
        means = list(inquiry.total.means)
        label = means.index(max(means))
        draws += inquiry.total.draws
        sizes.append(inquiry.size)
        uncertified += inquiry.size == 0
        right += label == digits.labels[index]
        for radius in radii:
            robust[radius] += inquiry.size >= radius
            reached[radius] += inquiry.size >= radius and label == digits.labels[index]
    count = len(digits)
    assert evaluation.accuracy == right / count
    assert [(at.radius, at.accuracy, at.precision, at.recall) for at in evaluation.certified] == [
        (radius, reached[radius] / count, reached[radius] / robust[radius], reached[radius] / right)
        for radius in radii
    ]
    assert evaluation.curve[0].fraction == 1 - uncertified / count
    assert evaluation.uncertified == uncertified
    assert evaluation.mean_size == pytest.approx(sum(sizes) / count)
    assert evaluation.largest_size is not None
    assert max(sizes) <= evaluation.largest_size < 1.5 * max(sizes)
    assert evaluation.draws == draws == count * DRAWS
    assert (evaluation.pictures, evaluation.every) == (count, 1)
    assert (evaluation.model, evaluation.version, evaluation.dataset) == ("digits", "1", "digits")
    # The model is neither useless nor perfect, so the counts above could differ.
    assert evaluation.accuracy > 0.5
    assert 0 < reached[0.3] < reached[0.05] < right


def test_wrong_and_uncertified_pictures_count_as_failures(bundle: Path, digits: DataSet) -> None:
    shifted = DataSet(digits.images, (digits.labels + 1) % 10, digits.names)
    evaluation = run(bundle, shifted, radii=(1e-6,))
    assert evaluation.accuracy < 0.3
    assert evaluation.certified[0].accuracy <= evaluation.accuracy
    assert evaluation.mean_size > 0


def test_every_nth_picture_is_evaluated(bundle: Path, digits: DataSet) -> None:
    evaluation = run(bundle, digits, every=20, confidence=0.9)
    assert (evaluation.pictures, evaluation.draws) == (3, 3 * 64)
    assert (evaluation.every, evaluation.confidence, evaluation.norm) == (20, 0.9, "l2")


def test_sizes_in_another_norm(bundle: Path, digits: DataSet) -> None:
    linf = run(bundle, digits, max_draws=DRAWS, norm="linf", radii=(0.1 / 8,)).certified[0]
    l2 = run(bundle, digits, max_draws=DRAWS, radii=(0.1,)).certified[0]
    assert linf.accuracy == l2.accuracy > 0
    usual = run(bundle, digits, norm="linf").certified
    assert [at.radius for at in usual] == [1 / 255, 2 / 255, 4 / 255, 8 / 255]


def test_the_same_seed_gives_the_same_figures(bundle: Path, digits: DataSet) -> None:
    attacks = Attacks(("pgd",), pictures=6, steps=3, draws=4)

    def figures(seed: int | None) -> dict[str, Any]:
        running = Running(precision="float32", pass_size=96, seed=seed, provider="pytorch")
        found = run(bundle, digits.every(3), attacks=attacks, running=running)
        assert found.seed == seed
        return found.model_dump(exclude={"seed", "seconds", "draws_per_second"})

    assert figures(7) == figures(7)
    assert figures(7)["mean_size"] != figures(8)["mean_size"]
    assert figures(None)["mean_size"] != figures(7)["mean_size"]


def test_the_number_format_is_the_fastest_unless_stated(bundle: Path, digits: DataSet) -> None:
    found = run(bundle, digits.every(20), running=Running(pass_size=64))
    assert found.precision in {"float32", "bfloat16"}
    assert (found.device, found.pass_size) == ("cpu", 64)
    told = run(bundle, digits.every(20), running=Running(precision="bfloat16", pass_size=64))
    assert told.precision == "bfloat16"


@pytest.mark.slow
def test_accuracy_under_attack_lies_between_certified_and_clean_accuracy(
    bundle: Path, undefended: Path, digits: DataSet
) -> None:
    attacks = Attacks(("pgd", "carlini-wagner"), 30, steps=10, draws=8, thresholds=(0.1, 9.0))
    radii = (0.2, 3.0)
    found = run(bundle, digits, max_draws=DRAWS, radii=radii, attacks=attacks, baseline=undefended)
    assert [one.attack for one in found.attacks] == ["pgd", "carlini-wagner"]
    part = DataSet(digits.images[::2][:30], digits.labels[::2][:30], digits.names)
    certified = run(bundle, part, max_draws=DRAWS, radii=radii).certified[0].accuracy
    beside = found.baseline
    assert beside is not None
    assert beside.model == "digits-undefended"
    for one, other in zip(found.attacks, beside.attacks, strict=True):
        assert (one.pictures, one.draws, other.draws, one.norm) == (30, 8, 1, "l2")
        for attack in (one, other):
            assert [at.radius for at in attack.accuracies] == [0, 0.2, 3.0]
            clean, near, far = (at.accuracy for at in attack.accuracies)
            assert clean > 0.6
            # The noise may decide one picture either way.
            assert near <= clean + 1 / 30
            assert far < 0.15
        for at in one.accuracies:
            robust, none = at.robust
            assert robust.accuracy <= at.accuracy
            assert none.fraction == 0
            assert none.precision is None
        assert not any(at.robust for at in other.accuracies)
        # Far from the picture, what is robust is another label.
        assert (one.accuracies[0].robust[0].precision or 0) > 0.8
        assert (one.accuracies[2].robust[0].precision or 0) < 0.2
        # No attack breaks a certificate; two pictures may lose theirs through the noise alone.
        assert one.accuracies[1].accuracy >= certified - 2 / 30


def test_the_summary_is_kept_in_the_bundle_without_its_curve(bundle: Path, digits: DataSet) -> None:
    evaluation = run(bundle, digits, every=20)
    assert len(evaluation.curve) > 20
    before = read_bundle(bundle).manifest
    record(bundle, evaluation)
    after = read_bundle(bundle).manifest
    kept = Evaluation.model_validate(after.evaluation)
    assert kept == evaluation.model_copy(update={"curve": ()})
    assert after.model_copy(update={"evaluation": before.evaluation}) == before


def test_what_cannot_be_evaluated_is_refused(bundle: Path, digits: DataSet, tmp_path: Path) -> None:
    other = DataSet(digits.images, digits.labels, tuple("abcdefghij"))
    with pytest.raises(ValueError, match=r"labels \(a, b, c, d, e, …; 10 in all\) are not"):
        run(bundle, other)
    with pytest.raises(ValueError, match="every must be at least 1"):
        run(bundle, digits, every=0)
    with pytest.raises(ValueError, match="radii must be above 0"):
        run(bundle, digits, radii=(0.0, 1.0))
    with pytest.raises(ValueError, match="max_draws must be at least 64"):
        run(bundle, digits, max_draws=10)
    with pytest.raises(BundleError, match="cannot be read"):
        run(bundle, digits, baseline=tmp_path)
    larger = DataSet(digits.images.repeat(2, axis=1).repeat(2, axis=2), digits.labels, digits.names)
    assert run(bundle, larger.every(30)).pictures == 2
    with pytest.raises(ValueError, match=r"an attack needs .* \[1, 8, 8\]; .* \[1, 16, 16\]"):
        run(bundle, larger, attacks=Attacks(("pgd",)))
    with pytest.raises(ValueError, match="a baseline needs pictures of the model's own"):
        run(bundle, larger, baseline=bundle)


def test_an_undefended_bundle_itself_cannot_be_certified(undefended: Path, digits: DataSet) -> None:
    bundle: Bundle = read_bundle(undefended)
    with pytest.raises(ValueError, match="does not suit noise of scale 1e-06"):
        evaluate(bundle, digits, running=RUNNING)

import numpy as np
import pytest
from PIL import Image, ImageDraw

from models.bundle import ZOO, Bundle, read_bundle
from models.certification.procedure import Inquiry, Question
from models.evaluation.evaluate import Evaluation
from models.predictor import Predictor
from models.training.recipe import Recipe, find_recipe


@pytest.fixture(scope="module")
def mnist() -> Bundle:
    return read_bundle(ZOO / "mnist-cnn")


def test_it_is_small_and_was_trained_by_the_recipe_of_its_name(mnist: Bundle) -> None:
    assert sum(file.stat().st_size for file in mnist.path.iterdir()) <= 8_000_000
    manifest = mnist.manifest
    assert manifest.name == "mnist-cnn"
    assert Recipe.model_validate(manifest.training["recipe"]) == find_recipe("mnist-cnn")
    assert manifest.training["data"]["pictures"] == 60_000
    assert manifest.noise.mechanism == "gaussian"


def test_it_reached_what_was_asked_of_it(mnist: Bundle) -> None:
    evaluation = Evaluation.model_validate(mnist.manifest.evaluation)
    assert (evaluation.pictures, evaluation.max_draws, evaluation.confidence) == (1000, 1000, 0.999)
    certified = {at.radius: at.accuracy for at in evaluation.certified}
    assert evaluation.accuracy >= 0.98
    assert certified[0.5] >= 0.95
    assert certified[1.0] >= 0.85


def test_its_card_tells_how_to_make_it_again_and_gives_the_recorded_figures(mnist: Bundle) -> None:
    assert "pixeldp train mnist-cnn --data " in mnist.card
    assert "pixeldp evaluate models/zoo/mnist-cnn --data mnist --root " in mnist.card
    evaluation = Evaluation.model_validate(mnist.manifest.evaluation)
    assert f"{evaluation.accuracy:.1%}" in mnist.card
    for at in evaluation.certified:
        assert f"{at.accuracy:.1%}" in mnist.card


@pytest.mark.parametrize(
    ("digit", "strokes"),
    [
        (1, [[(14, 4), (14, 23)]]),
        (4, [[(9, 5), (8, 14), (19, 14)], [(18, 5), (18, 23)]]),
        (7, [[(8, 6), (19, 6), (12, 23)]]),
    ],
)
def test_it_certifies_a_drawn_digit(
    mnist: Bundle, digit: int, strokes: list[list[tuple[int, int]]]
) -> None:
    picture = Image.new("L", (28, 28))
    for stroke in strokes:
        ImageDraw.Draw(picture).line(stroke, fill=255, width=3, joint="curve")
    predictor = Predictor(mnist, 256)
    encoded = predictor.encode(np.asarray(picture)[..., None])
    question = Question(confidence=0.999, max_draws=512, target=None, norm="l2")
    inquiry = Inquiry(question, encoded.terms, 10, mnist.manifest.scoring)
    while not inquiry.stopped:
        inquiry.add(predictor.run([encoded.features], np.zeros(256, dtype=np.intp)))
    assert inquiry.label == digit
    assert inquiry.size > 0.3

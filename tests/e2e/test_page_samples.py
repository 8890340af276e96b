"""The samples of the zoo's models are the project's own, and are seen as what their names say."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.draw_samples import FOLDER, SAMPLES, small
from models.answering import answer_all
from models.bundle import MANIFEST, ZOO
from models.certification.question import Question
from models.images.decoding import decode
from models.loaded import load_model
from models.predictor import Predictor

MODELS = sorted(one.parent.name for one in ZOO.glob(f"*/{MANIFEST}"))


def shows(file: str, labels: tuple[str, ...]) -> list[str]:
    """Return the labels that a sample's name allows: both, if it is almost another."""
    return [word for word in Path(file).stem.split("-")[1:] if word in labels]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_each_sample_is_certified_as_what_it_shows(model: str) -> None:
    predictor = Predictor(load_model(ZOO / model), 64)
    bundle, labels = predictor.bundle, predictor.manifest.labels
    assert len(bundle.samples) >= 3
    pictures = (decode(bundle.sample(name)).array() for name in bundle.samples)
    answers = dict(answer_all(predictor, pictures, Question(0.99, 256, None, "l2")))
    for index, name in enumerate(bundle.samples):
        assert labels[answers[index].total.leader] in shows(name, labels), name


@pytest.mark.parametrize("name", SAMPLES)
def test_each_sample_is_what_its_program_draws(name: str) -> None:
    drawn = np.asarray(small(SAMPLES[name]()), dtype=int)
    kept = np.asarray(Image.open(FOLDER / name), dtype=int)
    assert np.abs(drawn - kept).max() <= 8, "run python -m docs.draw_samples"

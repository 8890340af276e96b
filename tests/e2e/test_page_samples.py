"""The page's samples for colour models: drawn by this project, and seen as what they show."""

import numpy as np
import pytest
from PIL import Image

from docs.draw_samples import FOLDER, SAMPLES, small
from models.bundle import ZOO
from models.certification.procedure import Inquiry, Question
from models.loaded import load_model
from models.predictor import Predictor


@pytest.mark.parametrize("name", SAMPLES)
def test_each_is_certified_as_what_it_shows(name: str) -> None:
    pixels = np.asarray(Image.open(FOLDER / f"drawn-{name}.png"))
    predictor = Predictor(load_model(ZOO / "cifar10-resnet"), 64)
    labels = predictor.manifest.labels
    encoded = predictor.encode(pixels)
    inquiry = Inquiry(Question(0.99, 256, None, "l2"), encoded.terms, len(labels), "votes")
    while not inquiry.stopped:
        inquiry.add(predictor.run([encoded.features], np.zeros(64, dtype=np.intp)))
    assert labels[inquiry.total.leader] == name
    assert inquiry.size > 0.25


@pytest.mark.parametrize("name", SAMPLES)
def test_each_is_what_its_program_draws(name: str) -> None:
    drawn = np.asarray(small(SAMPLES[name]()), dtype=int)
    kept = np.asarray(Image.open(FOLDER / f"drawn-{name}.png"), dtype=int)
    assert np.abs(drawn - kept).max() <= 8, "run python -m docs.draw_samples"

"""Masks hide all that a sticker on the picture as sent can reach, and certified labels stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.answering import answer_about_stickers, repeatable_key
from models.asking import ask_about_stickers
from models.batcher import Batcher, Ticket
from models.bundle import Manifest
from models.certification.answer import conclude
from models.data.datasets import DataSet
from models.loaded import load_model
from models.masking import MaskedViews, masks_for, reached
from models.network import build_network, save_network
from models.predictor import Predictor
from models.preprocessing import CannotCertify, plan
from tests.models.test_bundle import DESCRIPTION

# width, height, shape of the input, side of the sticker: shrunk a little and a lot, by a whole
# number, enlarged, cropped on either axis, and as it is.
WAYS = [
    (9, 9, (1, 9, 9), 3),
    (11, 9, (1, 7, 7), 2),
    (24, 24, (3, 8, 8), 5),
    (30, 21, (1, 8, 8), 4),
    (5, 6, (1, 16, 16), 1),
    (12, 40, (3, 10, 10), 3),
    (13, 9, (1, 9, 9), 2),
    (20, 14, (1, 7, 11), 3),
]


def places(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    for top in range(height - side + 1):
        for left in range(width - side + 1):
            yield slice(top, top + side), slice(left, left + side)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("width", "height", "shape", "side"), WAYS)
def test_a_mask_hides_every_sticker(
    width: int, height: int, shape: tuple[int, int, int], side: int, bits: int
) -> None:
    """Under the mask for its place, the input is the same bit for bit, whatever the sticker is."""
    rng = np.random.default_rng(width)
    preparation = plan(width, height, "RGB", bits, shape)
    masks = masks_for(preparation, side, 3)
    kind = np.uint8 if bits == 8 else np.uint16
    picture = rng.integers(0, 2**bits, (height, width, 3)).astype(kind)
    before = preparation.apply(picture)
    for rows, columns in places(height, width, side):
        altered = picture.copy()
        altered[rows, columns] = rng.choice([0, 2**bits - 1], (side, side, 3))
        changed = (preparation.apply(altered) != before).any(axis=0)
        hidden = []
        for mask in range(masks.count):
            left = changed.copy()
            tall, wide = masks.rectangle(mask)
            left[slice(*tall), slice(*wide)] = False
            hidden.append(not left.any())
        assert any(hidden)


@pytest.mark.parametrize(
    "axis", [(9, 7, 7), (24, 8, 8), (30, 11, 8), (5, 16, 16), (9, 9, 5), (448, 224, 224)]
)
def test_reach_is_no_wider_than_it_must_be(axis: tuple[int, int, int]) -> None:
    """The outputs with a weight above 0, and at most those with a weight of exactly 0 beside."""
    size, resized, kept = axis
    ratio = size / resized
    outputs = np.arange(kept) + (resized - kept) // 2
    away = np.abs(np.arange(size)[:, None] + 0.5 - (outputs + 0.5) * ratio)
    support = max(1.0, ratio) if size != resized else 0.5
    for side in (1, 2, 4):
        for place, (start, stop) in enumerate(reached(*axis, side)):
            own = away[place : place + side]
            touched = np.flatnonzero((own < support - 1e-9).any(axis=0))
            if len(touched):
                assert start <= touched[0]
                assert touched[-1] < stop
            near = np.flatnonzero((own <= support + 1e-9).any(axis=0))
            assert stop - start == len(near)


def test_the_masks_of_a_photograph() -> None:
    """3 x 3 masks for 32 pixels of 224, as published: 96 wide; far smaller for a large picture."""
    small = masks_for(plan(224, 224, "RGB", 8, (3, 224, 224)), 32, 3)
    assert small.rows == small.columns == ((0, 96), (65, 161), (130, 224))
    large = masks_for(plan(4000, 3000, "RGB", 8, (3, 224, 224)), 32, 6)
    assert max(end - start for start, end in large.rows) == 41
    for side in (28, 29, 2**63, 10**50):
        with pytest.raises(CannotCertify, match="hides the whole of a picture of 28x28"):
            masks_for(plan(28, 28, "L", 8, (1, 28, 28)), side, 3)


def test_views_hide_what_their_masks_hide() -> None:
    masks = masks_for(plan(9, 9, "L", 8, (1, 9, 9)), 2, 3)
    picture = np.arange(81, dtype=np.int32).reshape(1, 9, 9)
    views = MaskedViews(masks, picture, 200, np.ravel)
    for number, view in enumerate(views.steps(np.arange(len(masks.pairs)))):
        expected = picture[0].copy()
        for mask in masks.pairs[number]:
            rows, columns = masks.rectangle(mask)
            for row in range(*rows):
                for column in range(*columns):
                    expected[row, column] = 200
        assert np.array_equal(view.reshape(9, 9), expected)


def after_a_layer(folder: Path) -> Predictor:
    """An untrained network with its noise after a convolution."""
    description: dict[str, Any] = {
        **DESCRIPTION,
        "noise": {**DESCRIPTION["noise"], "placement": "layer1"},
        "sensitivity": {**DESCRIPTION["sensitivity"], "value": 10.0},
    }
    manifest = Manifest.model_validate(description)
    save_network(folder, manifest, build_network(manifest))
    return Predictor(load_model(folder), 64, key=repeatable_key(0))


def label_of(predictor: Predictor, picture: np.ndarray, side: int) -> tuple[int, bool]:
    question = ask_about_stickers(predictor.manifest, side, 2)
    [(_, inquiry)] = answer_about_stickers(predictor, [picture], question)
    found = conclude(inquiry, 1)
    return found.label, found.certified


def test_no_sticker_changes_a_certified_label(bundle: Path, digits: DataSet) -> None:
    """Random stickers at every place, on pictures of the model's size and on larger ones."""
    predictor = Predictor(load_model(bundle), 32, key=repeatable_key(0))
    rng = np.random.default_rng(0)
    tried = 0
    for picture in digits.images[:12]:
        for factor in (1, 2):
            sent = picture.repeat(factor, axis=0).repeat(factor, axis=1)
            label, certified = label_of(predictor, sent, factor)
            if not certified:
                continue
            for place in places(*sent.shape[:2], factor):
                if rng.random() < 0.25:
                    altered = sent.copy()
                    altered[place] = rng.choice([0, 255], altered[place].shape)
                    assert label_of(predictor, altered, factor)[0] == label
                    tried += 1
    assert tried > 50


def test_g_runs_for_each_view(tmp_path: Path, digits: DataSet) -> None:
    """After a layer, what h sees of a view is g of the masked picture, rounded to the grid."""
    predictor = after_a_layer(tmp_path)
    _, height, width = predictor.manifest.input.shape
    picture = digits.images[0][:height, :width]
    preparation = predictor.plan((height, width, 1), 8)
    question = ask_about_stickers(predictor.manifest, 2, 2)
    features, inquiry = predictor.against_stickers(
        question, preparation.apply(picture), preparation
    )
    assert features.views is not None
    seen = features.views(np.array([0, 4]))
    for number, steps in zip((0, 4), seen, strict=True):
        masked = preparation.apply(picture)
        for mask in inquiry.masks.pairs[number]:
            rows, columns = inquiry.masks.rectangle(mask)
            masked[:, slice(*rows), slice(*columns)] = 127 / 255
        g = predictor.encode_prepared(masked, preparation).features
        assert np.array_equal(steps, np.floor(g.substeps / 4112 + 0.5))


def test_views_have_no_noise_beside_pictures_that_have(bundle: Path, digits: DataSet) -> None:
    """In one pass: a view's row is the same by every key, and the others' rows are not."""
    predictor = Predictor(load_model(bundle), 16)
    image = digits.images[0]
    preparation = predictor.plan(image.shape, 8)
    question = ask_about_stickers(predictor.manifest, 2, 2)
    features, inquiry = predictor.against_stickers(question, preparation.apply(image), preparation)
    batcher = Batcher(16)
    batcher.admit(Ticket(0, features, inquiry, deadline=1e9))
    planned = batcher.plan(0.0)
    assert planned is not None
    plain = predictor.encode(image).features
    rows = np.array([0] * 8 + [1] * 8)
    passes = [predictor.noisy([*planned.features, plain], rows).numpy() for _ in range(2)]
    assert np.array_equal(passes[0][:8], passes[1][:8])
    assert not np.array_equal(passes[0][8:], passes[1][8:])
    assert planned.features[0].numbers is not None
    expected = features.views and features.views(planned.features[0].numbers[:8])
    assert expected is not None
    assert np.array_equal(passes[0][:8].reshape(8, -1), np.float32(expected) * np.float32(1 / 255))


@pytest.mark.parametrize(("side", "said"), [(None, "missing"), (2.5, "2.5"), (0.5, "0.5")])
def test_a_side_is_a_whole_number_of_pixels(bundle: Path, side: float | None, said: str) -> None:
    manifest = load_model(bundle).manifest
    with pytest.raises(ValueError, match=f"target is {said}; against stickers"):
        ask_about_stickers(manifest, side, 3)
    with pytest.raises(ValueError, match="masks must lie between 2 and 8, not 9"):
        ask_about_stickers(manifest, 3, 9)

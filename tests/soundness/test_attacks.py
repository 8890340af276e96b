"""No attack within a certified size flips a certified label.

Every model of the zoo certifies pictures as the service does, at a confidence so high that no
certificate should be wrong. Then each attack alters each picture by up to the size certified in
each norm. The altered picture goes back to the same network in 16 bits, and draws are made until
its label is beyond doubt.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.answering import answer_all
from models.bundle import ZOO, Bundle, read_bundle
from models.certification.arrays import Floats, Integers
from models.certification.inquiry import Inquiry
from models.certification.names import NORMS, Norm
from models.certification.question import Question
from models.certification.tally import Tally
from models.evaluation.alteration import Attack, alter
from models.evaluation.asked import AttackName
from models.evaluation.attacks import ATTACKS, noisy_scores
from models.network import load_network
from models.predictor import Predictor
from tests.soundness.forms import ATTACKED, LONG, fastest
from tests.soundness.pictures import Picture, pictures_for

SLOTS = 512
CONFIDENCE = 1 - 1e-7
DRAWS = 1000
STEPS, GRADIENT_DRAWS = 10, 8
# The number of ways in which each certified picture is attacked.
WAYS = len(NORMS) * len(ATTACKS)
# Models of colour pictures take ten times as long: this many attacked pictures are enough for each.
COLOUR = 1200 if LONG else 2 * WAYS
# The most draws for a label that stays in doubt.
MOST = 200_000


def zoo() -> list[Bundle]:
    """The models that estimate expected scores; those that count draws are in test_split.py."""
    bundles = [read_bundle(path.parent) for path in sorted(ZOO.glob("*/model.json"))]
    return [bundle for bundle in bundles if bundle.manifest.noise.draws is None]


def wanted(bundles: Sequence[Bundle]) -> list[int]:
    """How many pictures of each model to attack, for a total of ``ATTACKED``."""
    colour = [bundle.manifest.input.channels > 1 for bundle in bundles]
    costly = min(COLOUR, ATTACKED / len(bundles))
    others = (ATTACKED - costly * sum(colour)) / max(1, colour.count(False))
    return [ceil((costly if is_colour else others) / WAYS) for is_colour in colour]


def certify(
    predictor: Predictor, pictures: Iterator[Picture], count: int
) -> tuple[NDArray[np.uint8], list[Inquiry]]:
    """Take pictures until ``count`` of them have a certified label."""
    norm = predictor.manifest.sensitivity.input_norm
    question = Question(CONFIDENCE, DRAWS, None, norm)
    images: list[Picture] = []
    inquiries: list[Inquiry] = []
    while len(images) < count:
        block = list(islice(pictures, count - len(images)))
        assert block, f"only {len(images)} pictures could be certified, of {count} wanted"
        for index, inquiry in answer_all(predictor, np.stack(block), question):
            if inquiry.size > 0:
                images.append(block[index])
                inquiries.append(inquiry)
    return np.stack(images), inquiries


def leads(predictor: Predictor, pixels: NDArray[np.uint16], labels: Integers) -> Floats:
    """By what share of all draws each label leads its nearest rival; negative if it is flipped.

    Draws go on until the lead is six standard errors in either direction: (a − b)² ≤ a + b for
    scores a and b in [0, 1], so the variance of the lead is at most the sum of the two labels'
    scores.
    """
    found = np.zeros(len(pixels))
    features = [predictor.encode(picture).features for picture in pixels]
    scoring = predictor.manifest.scoring
    totals = np.zeros((len(pixels), len(predictor.manifest.labels)))
    draws = np.zeros(len(pixels))
    waiting = np.arange(len(pixels))
    while len(waiting):
        # At most four pictures share a pass: 128 draws settle most of them.
        now = waiting[:4]
        rows = np.resize(np.arange(len(now)), SLOTS)
        drawn = predictor.run([features[index] for index in now], rows)
        for place, index in enumerate(now):
            tally = Tally.of_draws(drawn[rows == place], totals.shape[1], scoring)
            totals[index] += tally.sums / tally.denominator
            draws[index] += (rows == place).sum()
            own = totals[index, labels[index]]
            rival = np.delete(totals[index], labels[index]).max()
            found[index] = (own - rival) / draws[index]
            if abs(own - rival) > 6 * np.sqrt(own + rival) or draws[index] >= MOST:
                waiting = waiting[waiting != index]
    return found


def attack(
    bundle: Bundle,
    predictor: Predictor,
    name: AttackName,
    norm: Norm,
    images: NDArray[np.uint8],
    labels: Integers,
    sizes: Floats,
) -> Floats:
    """Attack pictures up to ``sizes``; return by how much each label still leads."""
    found = []
    scores = noisy_scores(load_network(bundle), GRADIENT_DRAWS)
    plan = Attack(name, norm, STEPS)
    at = 0
    for altered in alter(plan, scores, images, labels, sizes):
        part = slice(at, at + len(altered))
        change = (altered / 65535 - images[part] / 255).reshape(len(altered), -1)
        moved = np.linalg.norm(change, {"l1": 1, "l2": 2, "linf": np.inf}[norm], axis=1)
        assert (moved <= sizes[part]).all(), "an attack went beyond its size"
        assert (moved > 0.5 * sizes[part]).mean() > 0.5, "an attack did not use its size"
        found.append(leads(predictor, altered, labels[part]))
        at = part.stop
    return np.concatenate(found)


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_no_attack_inside_a_certified_size_flips_a_label() -> None:
    bundles = zoo()
    attacked = flipped = 0
    for bundle, count in zip(bundles, wanted(bundles), strict=True):
        predictor = fastest(bundle, SLOTS)
        what, pictures = pictures_for(bundle)
        images, inquiries = certify(predictor, pictures, count)
        labels = np.array([inquiry.total.leader for inquiry in inquiries])
        for norm in NORMS:
            sizes = np.array(
                [
                    inquiry.findings.size_in(norm) if inquiry.findings else 0.0
                    for inquiry in inquiries
                ]
            )
            for name in ATTACKS:
                left = attack(bundle, predictor, name, norm, images, labels, sizes)
                attacked += len(left)
                flipped += int((left <= 0).sum())
                print(
                    f"{bundle.manifest.name}, {what}: {len(left)} attacked by {name} within "
                    f"certified {norm} sizes of {sizes.mean():.4g} in the mean: "
                    f"{(left <= 0).sum()} labels flipped, least lead {left.min():.1%}",
                    flush=True,
                )
    print(f"{attacked} pictures attacked within their certified sizes: {flipped} labels flipped")
    assert attacked >= ATTACKED
    assert flipped == 0


def test_the_same_attacks_beyond_the_certified_size_do_flip_labels() -> None:
    """Otherwise the experiment above could not fail."""
    bundle = read_bundle(ZOO / "mnist-cnn")
    predictor = fastest(bundle, SLOTS)
    images, inquiries = certify(predictor, pictures_for(bundle)[1], 5)
    labels = np.array([inquiry.total.leader for inquiry in inquiries])
    sizes = np.array([4 * inquiry.size for inquiry in inquiries])
    for name in ATTACKS:
        left = attack(bundle, predictor, name, "l2", images, labels, sizes)
        assert (left < 0).sum() >= 3

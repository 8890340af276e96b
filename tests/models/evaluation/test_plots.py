import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.evaluation.figures import (
    AttackFigures,
    BaselineFigures,
    Evaluation,
    attacked_accuracy,
    certified_at,
    certified_curve,
    interval,
)
from models.evaluation.plots import BLUE, GREEN, ORANGE, plot

SVG = "{http://www.w3.org/2000/svg}"


def without_thresholds(attack: AttackFigures) -> AttackFigures:
    """As of a baseline, which certifies nothing."""
    plain = tuple(at.model_copy(update={"robust": ()}) for at in attack.accuracies)
    return attack.model_copy(update={"accuracies": plain})


def evaluation(attacked: bool, thresholds: tuple[float, ...] = ()) -> Evaluation:
    rng = np.random.default_rng(0)
    right, sizes = rng.random(200) < 0.8, np.maximum(rng.normal(0.5, 0.3, 200), 0)
    radii = (0.0, 0.25, 0.5)
    hit = [rng.random(200) < share for share in (0.8, 0.7, 0.5)]
    attacks = tuple(
        AttackFigures(
            attack=name,
            norm="l2",
            steps=5,
            draws=4,
            pictures=200,
            accuracies=tuple(
                attacked_accuracy(radius, one, sizes, thresholds)
                for radius, one in zip(radii, hit, strict=True)
            ),
        )
        for name in ("pgd", "carlini-wagner")
    )
    beside = BaselineFigures(
        model="plain-net",
        version="1",
        accuracy=0.9,
        accuracy_interval=interval(180, 200),
        attacks=tuple(without_thresholds(one) for one in attacks),
    )
    return Evaluation(
        model="drawn-net",
        version="1",
        dataset="test pictures",
        pictures=200,
        every=1,
        max_draws=1000,
        confidence=0.999,
        norm="l2",
        accuracy=0.8,
        accuracy_interval=interval(160, 200),
        certified=tuple(certified_at(radius, right, sizes) for radius in (0.25, 0.5)),
        curve=certified_curve(right, sizes),
        mean_size=0.5,
        largest_size=0.9,
        uncertified=1,
        attacks=attacks if attacked else (),
        baseline=beside if attacked else None,
        draws=200_000,
        seconds=1.0,
        draws_per_second=200_000.0,
        seed=0,
        device="cpu",
        precision="float32",
        pass_size=256,
        threads=1,
    )


def texts(file: Path) -> str:
    """All text in an SVG."""
    return " ".join("".join(part.itertext()) for part in ET.parse(file).iter() if part.text)


def colours(file: Path) -> set[tuple[int, ...]]:
    with Image.open(file) as picture:
        assert picture.size[0] >= 1000
        found = picture.convert("RGB").getcolors(2**24)
    return {colour for count, colour in found or () if count > 20}


def markers(file: Path, colour: str) -> int:
    """How many points an SVG marks inside its axes in this colour."""
    inside = ET.parse(file).iterfind(f".//{SVG}g[@clip-path]/{SVG}use")
    return sum(f"stroke: {colour}" in use.get("style", "") for use in inside)


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("attacked", [True, False])
def test_the_plots_show_and_name_what_was_measured(tmp_path: Path, attacked: bool) -> None:
    files = plot(evaluation(attacked), tmp_path / "new" / "plots")
    assert [file.name for file in files] == [
        "certified-accuracy.png",
        "certified-accuracy.svg",
        "precision-recall.png",
        "precision-recall.svg",
    ]
    certified, precision = texts(files[1]), texts(files[3])
    for text in (certified, precision):
        assert "drawn-net on test pictures: 200 pictures, 1,000 draws each" in text
        assert "L2 size" in text
    assert "certified accuracy (accuracy 80.0%)" in certified
    assert ("drawn-net: accuracy under pgd" in certified) == attacked
    assert ("plain-net: accuracy under carlini-wagner" in certified) == attacked
    assert "precision: right among the robust" in precision
    assert "recall: robust among the right" in precision
    seen = colours(files[0])
    assert rgb(BLUE) in seen
    assert (rgb(GREEN) in seen) == (rgb(ORANGE) in seen) == attacked


def test_precision_and_recall_under_attack_are_drawn(tmp_path: Path) -> None:
    files = plot(evaluation(True, thresholds=(0.5, 9.0)), tmp_path)
    assert [file.name for file in files[4:]] == ["under-attack.png", "under-attack.svg"]
    told = texts(files[5])
    for threshold in ("0.5", "9"):
        assert f"drawn-net, certified to {threshold}" in told
    for part in ("pgd", "carlini-wagner", "precision", "recall", "L2 size of the attack"):
        assert part in told
    assert "plain-net: accuracy, any prediction" in told
    # In a column for each of two attacks, three attacked sizes: of a threshold that nothing reaches
    # there is a recall, but no precision.
    assert [markers(files[5], colour) for colour in (BLUE, ORANGE)] == [2 * 9, 2 * 3]


def test_the_same_figures_make_the_same_files(tmp_path: Path) -> None:
    first = plot(evaluation(True), tmp_path / "first")
    second = plot(evaluation(True), tmp_path / "second")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_model_that_certifies_nothing_can_be_drawn(tmp_path: Path) -> None:
    nothing = evaluation(False).model_copy(
        update={"curve": certified_curve(np.ones(9, dtype=bool), np.zeros(9))}
    )
    assert len(plot(nothing, tmp_path)) == 4

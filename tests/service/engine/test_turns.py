"""Whose pass comes next: models one after another, and a model's runners as they have pictures."""

from collections import Counter

import pytest

from models.batcher import Ticket
from models.predictor import Predictor
from service.engine.pass_runner import PassRunner
from service.engine.turns import Turns
from tests.service.engine.test_loop import load

SMALL, LARGE = 8, 64


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load(tmp_path_factory.mktemp("turns"))


def runner(predictor: Predictor, model: int, slots: int, pictures: int) -> PassRunner:
    made = PassRunner(model, predictor.resized(slots))
    have(made, pictures)
    return made


def have(made: PassRunner, pictures: int) -> None:
    features, inquiry = None, None  # who has turns does not look at what is asked
    for number in range(pictures):
        made.batcher.admit(Ticket(number, features, inquiry, 0.0))  # type: ignore[arg-type]


def slots_of(turns: Turns, runners: list[PassRunner], passes: int) -> Counter[PassRunner]:
    """Return how many slots each has in so many passes."""
    slots: Counter[PassRunner] = Counter()
    for _ in range(passes):
        first = turns.order(runners)[0]
        turns.took(first)
        slots[first] += first.batcher.slots
    return slots


@pytest.mark.parametrize(("few", "many"), [(1, 1), (3, 5), (1, 16), (12, 2)])
def test_runners_of_a_model_share_in_proportion_to_their_pictures(
    predictor: Predictor, few: int, many: int
) -> None:
    """If passes took turns, small ones would have an eighth of what large ones have."""
    small, large = runner(predictor, 0, SMALL, few), runner(predictor, 0, LARGE, many)
    slots = slots_of(Turns(), [small, large], 2000)
    assert slots[small] / slots[large] == pytest.approx(few / many, rel=0.02)


def test_models_have_their_turns_whatever_they_have(predictor: Predictor) -> None:
    one = runner(predictor, 1, LARGE, 1)
    others = [runner(predictor, 0, SMALL, 40), runner(predictor, 0, LARGE, 40)]
    slots = slots_of(Turns(), [*others, one], 1000)
    assert slots[one] == 500 * LARGE
    assert min(slots[other] for other in others) > 0


def test_time_without_pictures_earns_nothing(predictor: Predictor) -> None:
    """Nor does it cost anything: who begins is as far as the others."""
    small, large = runner(predictor, 0, SMALL, 0), runner(predictor, 0, LARGE, 4)
    turns = Turns()
    assert turns.order([small, large]) == [large]
    slots_of(turns, [small, large], 100)
    have(small, 4)
    slots = slots_of(turns, [small, large], 9)
    assert slots == {small: SMALL * 8, large: LARGE}


def test_who_has_nothing_to_draw_leaves_its_turn(predictor: Predictor) -> None:
    """The next takes it, and is asked later for that."""
    small, large = runner(predictor, 0, SMALL, 1), runner(predictor, 0, LARGE, 1)
    turns = Turns()
    for _ in range(3):
        assert {*turns.order([small, large])} == {small, large}
        turns.took(large)
    assert slots_of(turns, [small, large], 3 * LARGE // SMALL) == {small: 3 * LARGE}

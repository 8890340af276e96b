import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from models.bundle import ZOO
from models.certification.division import LEAST_DRAWS
from service.catalogue import Catalogue
from service.engine.engine import Engine
from service.engine.pace import MARGIN
from service.http.slowness import first_answer_ms, warn_of_slow_models
from service.settings import Settings

pytestmark = pytest.mark.slow


class Speeds:
    """The part of an engine that is used: it becomes ready, and has measured each model."""

    def __init__(self, speeds: Sequence[float]) -> None:
        self._speeds, self._asked = speeds, 0

    @property
    def ready(self) -> bool:
        self._asked += 1
        return self._asked > 2

    def speed(self, model: int) -> float:
        return self._speeds[model]


def logged(speeds: Sequence[float], *models: str) -> list[Any]:
    catalogue = Catalogue([ZOO / model for model in models])
    engine = cast(Engine, Speeds(speeds))
    with capture_logs() as lines:
        asyncio.run(warn_of_slow_models(engine, catalogue, Settings(timeout_ms=30_000)))
    return list(lines)


def warnings(*speeds: float) -> list[Any]:
    lines = logged(speeds, "mnist-cnn", "cifar10-resnet")
    return [(line["log_level"], line["model"], line["timeout_ms_needed"]) for line in lines]


def test_models_whose_first_answer_comes_too_late_are_named() -> None:
    enough = LEAST_DRAWS / 10
    assert warnings(enough, enough) == []
    needed = first_answer_ms(1.0, LEAST_DRAWS)
    assert needed > 1000 * LEAST_DRAWS
    assert warnings(enough, 1.0) == [("warning", "cifar10-resnet:1", needed)]
    assert warnings(1.0, 0.0) == [("warning", "mnist-cnn:1", needed)], "0: not measured"


@pytest.mark.parametrize(
    ("model", "look", "draws"), [("mnist-split", 64, 1020), ("mnist-linf", 16, 64)]
)
def test_what_needs_all_its_draws_is_named_with_another_warning(
    model: str, look: int, draws: int
) -> None:
    """It answers in time, but with a size that is smaller than it could be, or 0."""
    enough, no_look = MARGIN * draws / 30, MARGIN * look / 30
    assert logged([1.01 * enough], model) == []
    for speed, said in (
        (0.99 * enough, "too slow for all its draws within the default time-out"),
        (1.01 * no_look, "too slow for all its draws within the default time-out"),
        (0.99 * no_look, "requests that name none may end in 504"),
    ):
        [line] = logged([speed], model)
        assert said in line["event"]
        assert line["timeout_ms_needed"] == first_answer_ms(speed, draws) > 30_000

import numpy as np
import pytest

from models.certification.division import LEAST_DRAWS
from models.certification.inquiry import Inquiry
from models.certification.question import Question
from models.certification.terms import Terms
from service.engine.pace import MARGIN, SURE_DRAWS, fitting


@pytest.mark.parametrize("speed", [0.0, 0.1, 1.0, 7.3, 10.0, 1e4])
@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.5, 9.0, 30.0])
@pytest.mark.parametrize("asked", [LEAST_DRAWS, 100, 1000, 10**6])
def test_a_budget_is_as_asked_or_as_time_allows(speed: float, seconds: float, asked: int) -> None:
    granted = fitting(asked, speed, seconds)
    assert LEAST_DRAWS <= granted <= asked
    if granted < asked:
        assert granted < SURE_DRAWS
        assert granted == LEAST_DRAWS or granted * MARGIN <= speed * seconds
    else:
        enough = speed * seconds >= MARGIN * SURE_DRAWS
        assert enough or asked == LEAST_DRAWS or asked * MARGIN <= speed * seconds


@pytest.mark.parametrize("budget", range(LEAST_DRAWS, SURE_DRAWS + 1))
def test_every_such_budget_reaches_a_look(budget: int) -> None:
    """Whatever the votes: with two tied labels, the pilot is as long as possible."""
    terms = Terms("gaussian", 1.0, 1.0, "l2", 1)
    inquiry = Inquiry(Question(0.95, budget, None, "l2"), terms, 2, "votes")
    while inquiry.look == 0:
        inquiry.add_to_look(np.tile(np.eye(2, dtype=np.int64), (16, 1)))
        assert inquiry.total.draws <= budget
    assert inquiry.findings is not None

"""Every option at every extreme value, of models with every kind of certificate."""

from collections.abc import Iterator
from itertools import product

import httpx
import pytest

from service.http.api.options import Options
from tests.e2e.conftest import PLAIN, ROOT, Start
from tests.e2e.hostile.conftest import PNG, Watched
from tests.e2e.hostile.fuzzer import NUMBERS, WORDS
from tests.e2e.hostile.test_fuzz import DOCUMENTED

pytestmark = pytest.mark.slow

MODELS = ("mnist-cnn", "mnist-cnn-l1", "mnist-split", "mnist-linf")
FAMILY = ROOT / "models" / "zoo" / "mnist.family.json"
# What else is asked: some options matter only beside others.
BESIDE: tuple[dict[str, str], ...] = (
    {},
    {"target": "0.5", "attacks": "3"},
    {"target": "0.5", "allow": "0,7", "norm": "l1"},
    {"target": "2", "threat": "sticker"},
    {"norm": "linf", "confidence": "0.9"},
)


@pytest.fixture(scope="module")
def every_kind(start: Start) -> Iterator[Watched]:
    running = start(*MODELS, FAMILY, environment=PLAIN)
    yield Watched(running)
    assert running.stop() == 0, running.log


@pytest.mark.parametrize("model", [*MODELS, "mnist"])
def test_no_value_of_an_option_is_a_failure(every_kind: Watched, seven: bytes, model: str) -> None:
    workers = every_kind.children()
    asked = 0
    with httpx.Client(base_url=every_kind.address, headers=PNG, timeout=300) as client:
        for beside, option in product(BESIDE, Options.model_fields):
            if beside.get(option):
                continue
            for value in (*NUMBERS, *WORDS):
                options = {"model": model, "max_draws": "64", **beside, option: str(value)}
                response = client.post("/predict", content=seven, params=options)
                assert response.status_code in DOCUMENTED, (options, response.text)
                asked += response.status_code == 200
    assert asked > 50
    every_kind.check_sound(workers)

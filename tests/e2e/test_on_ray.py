"""Each test of a service runs on Ray, too, or is listed as exempt, with the reason."""

import pytest

from tests.conftest import COLLECTED
from tests.e2e.conftest import ROOT
from tests.e2e.on_ray import EXEMPT, is_exempt

FOLDERS = ("tests/e2e/", "tests/client/")


def test_every_test_runs_on_ray_or_is_exempt(pytestconfig: pytest.Config) -> None:
    """Of what this run has collected, which in ``make test`` is everything."""
    collected = pytestconfig.stash[COLLECTED]
    neither = [
        name
        for name, asks in collected.items()
        if name.startswith(FOLDERS) and not asks and not is_exempt(name)
    ]
    assert not neither, (
        f"{len(neither)} tests neither ask for the fixture start, so that `--on ray` runs them, "
        f"nor are among EXEMPT in tests/e2e/on_ray.py: {neither[:20]}"
    )


def test_what_is_exempt_exists() -> None:
    named = [one for tests in EXEMPT.values() for one in tests]
    assert len(set(named)) == len(named)
    for one in named:
        file, _, test = one.partition("::")
        text = (ROOT / file).read_text()
        assert not test or f"def {test.split('[')[0]}(" in text, one

"""What benchmarks ask of a running service, and how they count the outcomes."""

from typing import Any

from benchmarks.outcomes import outcomes
from benchmarks.service import CORES, Service


def test_pictures_that_the_service_gives_up_are_counted(service: Any, seven: bytes) -> None:
    class Hurried(Service):
        def query(self, n: int) -> str:
            return f"max_draws={n}&timeout_ms=1"

    port = int(service.address.rpartition(":")[2])
    hurried = Hurried(port, 0.999, [seven] * 8)
    once = iter([True] * 2 * CORES + [False] * 1000)
    replies, _ = hurried.saturate_batches(100_000, lambda: next(once))
    found = outcomes(replies, 8)
    assert sum(found.failed.values()) > 0
    assert found.told()
    patient = Service(port, 0.999, [seven] * 8)
    once = iter([True] * 2 * CORES + [False] * 1000)
    replies, _ = patient.saturate(128, None, lambda: next(once))
    found = outcomes(replies)
    assert (found.answered, found.failed) == (len(replies), {})
    assert found.draws == 128 * len(replies)
    assert patient.speed() > 0
    assert "passes of" in patient.how()

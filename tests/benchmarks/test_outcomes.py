"""Benchmarks count failures, and ask for no more than the machine can do."""

import asyncio
import json
import socket
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from benchmarks.http import Connection, Reply, closed_loop, lasting, open_loop
from benchmarks.networks import in_turns
from benchmarks.outcomes import Outcomes, latencies, outcomes
from benchmarks.report import Figures
from benchmarks.roofline import LEAST_PASSES, TURN_SECONDS, Roofline, turns
from benchmarks.service import ANSWER_SECONDS, BATCH, CLIENTS, CORES, bearable


def reply(document: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(document).encode(), 0.1)


LATE = {"error": {"type": "/problems/deadline-exceeded", "status": 504}}
BUSY = {"type": "/problems/overloaded", "status": 503}


def test_pictures_of_a_batch_that_failed_are_counted() -> None:
    """A batch is answered with 200 even if some of its pictures missed their deadline."""
    found = outcomes([reply({"predictions": [{"draws": 100}, LATE, {"draws": 50}, LATE]})])
    assert (found.answered, found.draws) == (2, 150)
    assert found.failed == {"deadline-exceeded": 2}
    assert found.mean_draws == 75
    assert found.told() == "2 of 4 pictures failed (deadline-exceeded 2)"


def test_requests_that_failed_are_counted() -> None:
    replies = [
        reply({"draws": 64}),
        reply(BUSY, 503),
        Reply(502, b"<html>", 0.1),
        Reply(500, b"[]", 0.1),
        Reply(0, b"ConnectionResetError", 0.1),
        reply({"label": 3, "size": 0.1}),  # a peer's
    ]
    found = outcomes(replies)
    assert (found.answered, found.draws) == (2, 64)
    assert found.failed == {"overloaded": 1, "status 502": 1, "status 500": 1} | {
        "ConnectionResetError": 1
    }
    assert outcomes([reply(BUSY, 503)], pictures=8).failed == {"overloaded": 8}


def test_without_answers_there_is_no_figure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nothing = outcomes([reply(BUSY, 503)])
    assert isnan(nothing.mean_draws)
    assert latencies([reply(BUSY, 503)], (50, 99)) == {}
    assert outcomes([]).told() == ""
    figures = Figures()
    figures.note("speed", 2.0)
    figures.note("mean draws", nothing.mean_draws)
    figures.ratio("ratio", 1.0, 0.0)
    figures.remark(nothing.told())
    figures.remark(nothing.told())
    figures.remark("")
    figures.report("title", tmp_path / "figures.json")
    said = capsys.readouterr().out
    assert "| speed | 2 | 2 |" in said
    assert "- mean draws: could not be measured" in said
    assert "- ratio: could not be measured" in said
    assert said.count("1 of 1 pictures failed (overloaded 1)") == 1
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["figures"] == {"speed": [2.0]}
    assert len(written["remarks"]) == 3


def test_latencies_count_answers_only() -> None:
    replies = [Reply(200, b"", 0.001 * number) for number in range(1, 102)]
    replies += [Reply(503, b"", 9.0)] * 100
    assert latencies(replies, (50, 99)) == pytest.approx({"p50": 51.0, "p99": 100.0})


@pytest.mark.parametrize("speed", [1.0, 22.0, 214.0, 1408.0, 14_000.0, 1e6])
@pytest.mark.parametrize("draws", [1000, 10_000])
def test_the_load_is_what_the_machine_can_do(speed: float, draws: int) -> None:
    clients, batch = bearable(speed, draws)
    assert 2 * CORES <= clients <= max(CLIENTS, 2 * CORES)
    assert 1 <= batch <= BATCH
    # Either nobody waits for long, or any less work would leave cores idle.
    wait = clients * batch * draws / speed
    assert wait <= ANSWER_SECONDS or (clients, batch) == (2 * CORES, 1)


def test_a_fast_machine_gets_the_whole_load() -> None:
    assert bearable(1e6, 1000) == (CLIENTS, BATCH)


def test_a_roofline_makes_enough_passes_even_if_they_are_slow() -> None:
    def way(speed: float) -> dict[str, Any]:
        return {"workers": 2, "pass_size": 256, "draws_per_second": speed}

    assert turns([way(20_000.0)], 8.0) * TURN_SECONDS == 8.0
    for speed in (20_000.0, 214.0, 22.0):
        passes = turns([way(1e6), way(speed)], 2.0) * TURN_SECONDS * speed / 2 / 256
        assert passes >= LEAST_PASSES


def test_an_impossible_ratio_is_reported_as_none() -> None:
    none = Outcomes(answered=1, draws=1, failed=outcomes([]).failed)
    assert "impossible" in Roofline(100.0, 120.0, none, 0.0).told()
    assert Roofline(100.0, 97.0, none, 0.0).told() == ""
    assert "in no answer" in Roofline(100.0, 97.0, none, 64.0).told()


def test_turns_are_short_and_alternate() -> None:
    asked: list[tuple[str, float]] = []

    def measure(name: str, speed: float) -> Any:
        return lambda seconds: asked.append((name, seconds)) or speed

    found = in_turns({"one": measure("one", 1.0), "other": measure("other", 2.0)}, 2.0)
    assert found == {"one": 1.0, "other": 2.0}
    assert asked == [("one", 0.5), ("other", 0.5)] * 4


def test_a_server_that_hangs_up_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # Nothing listens there any more.
    make = lambda: Connection("127.0.0.1", port, "/predict", "image/png")  # noqa: E731
    replies, _ = asyncio.run(closed_loop(make, [b""], 2, lasting(0.2)))
    replies += asyncio.run(open_loop(make, [b""], 100.0, 0.05))
    found = outcomes(replies)
    assert found.answered == 0
    assert set(found.failed) == {"ConnectionRefusedError"}

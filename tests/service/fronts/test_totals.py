"""Metrics of several processes, combined into those of one service."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.fronts.totals import Snapshot, Totals, snapshot
from service.http.metrics import Metrics

ROUTE = "/predict"


def count(metrics: Metrics, times: int, seconds: float) -> None:
    for _ in range(times):
        metrics.requests.answered.labels(ROUTE, "200", "ok").inc()
        metrics.requests.latency.labels(ROUTE).observe(seconds)


def values(text: bytes) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def taken(times: int, seconds: float) -> Snapshot:
    metrics = Metrics()
    count(metrics, times, seconds)
    return snapshot(metrics)


def test_counts_are_those_of_one_process() -> None:
    """Every counter and every bucket is what one process would have counted."""
    own, alone = Metrics(), Metrics()
    own.expect("1", ["worker0"], ["overloaded"], 9)
    alone.expect("1", ["worker0"], ["overloaded"], 9)
    count(alone, 3, 0.002)
    count(alone, 5, 2.0)
    found = values(Totals().render(own, [taken(3, 0.002), taken(5, 2.0)]))
    wanted = values(alone.render())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if not name.startswith("process_") and "_created" not in name:
            assert found[name] == pytest.approx(value), name


def test_buckets_come_in_order() -> None:
    text = Totals().render(Metrics(), [taken(1, 0.3)]).decode()
    bounds = [
        line.split('le="')[1].split('"')[0]
        for line in text.splitlines()
        if line.startswith("pixeldp_request_duration_seconds_bucket")
    ]
    assert bounds == sorted(bounds, key=float)
    assert bounds[-1] == "+Inf"


def test_counts_of_a_dead_front_are_kept() -> None:
    totals, own = Totals(), Metrics()
    name = "pixeldp_requests_total[('outcome', 'ok'), ('route', '/predict'), ('status', '200')]"
    counts = [values(totals.render(own, [taken(3, 1.0), taken(4, 1.0)]))]
    totals.end(taken(3, 1.0))
    counts.append(values(totals.render(own, [taken(4, 1.0)])))
    totals.end(taken(4, 1.0))
    counts.append(values(totals.render(own, [taken(0, 1.0), taken(1, 1.0)])))
    assert [one[name] for one in counts] == [7, 7, 8]
    assert counts[2]["process_resident_memory_bytes[]"] > 0

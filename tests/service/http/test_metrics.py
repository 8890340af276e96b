"""The metrics as Prometheus reads them: names, zeros at the start, no labels from strangers."""

from prometheus_client.parser import text_string_to_metric_families

from service.engine import messages as wire
from service.http.guards.budget import Budget
from service.http.metrics import Metrics


def started() -> Metrics:
    metrics = Metrics()
    metrics.expect("1.2", ["worker0", "worker1"], ["not-a-picture", "overloaded"], 1024)
    metrics.add_model("digits", "1", "sha256:00")
    metrics.watch(
        ready=lambda: True,
        queued=lambda: 3,
        decoding=lambda: 1,
        in_flight=lambda: 2,
        granted=lambda: 0.5,
        budget=Budget(2**20),
    )
    return metrics


def values(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.render().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def worker(name: str) -> tuple[tuple[str, str], ...]:
    return (("worker", name),)


def test_names_follow_the_conventions() -> None:
    families = list(text_string_to_metric_families(started().render().decode()))
    assert len(families) > 20
    for family in families:
        assert family.name.startswith(("pixeldp_", "process_")), family.name
        assert family.documentation.endswith("."), family.name
        assert "_milliseconds" not in family.name
        if family.type == "counter":
            samples = {sample.name for sample in family.samples}
            assert samples <= {f"{family.name}_total", f"{family.name}_created"}


def test_combinations_known_at_the_start_begin_at_zero() -> None:
    numbers = values(started())
    for name in ("passes_total", "slots_total", "draws_total", "restarts_total"):
        prefix = "pixeldp_worker_" if name == "restarts_total" else "pixeldp_"
        for one in ("worker0", "worker1"):
            assert numbers[prefix + name, worker(one)] == 0
    assert numbers["pixeldp_predictions_refused_total", (("reason", "overloaded"),)] == 0
    for threat in ("norm", "sticker"):
        about = {"model": "digits", "robust": "true", "stopped": "max_draws", "threat": threat}
        assert numbers["pixeldp_predictions_total", tuple(about.items())] == 0
    assert numbers["pixeldp_pictures_queue_limit", ()] == 1024
    assert numbers["pixeldp_build_info", (("version", "1.2"),)] == 1


def test_gauges_are_read_when_they_are_scraped() -> None:
    numbers = values(started())
    assert numbers["pixeldp_ready", ()] == 1
    assert numbers["pixeldp_pictures_queued", ()] == 3
    assert numbers["pixeldp_pictures_in_flight", ()] == 2
    assert numbers["pixeldp_budget_granted_ratio", ()] == 0.5


def test_numbers_of_workers_add_up_when_workers_restart() -> None:
    metrics = started()
    message = wire.Numbers(
        passes=3, slots=768, filled=700, busy_seconds=0.25, memory_used=10, memory=100
    )
    metrics.worker_up("worker0", True)
    metrics.numbers("worker0", message)
    metrics.numbers("worker0", message)
    numbers = values(metrics)
    assert numbers["pixeldp_passes_total", worker("worker0")] == 6
    assert numbers["pixeldp_draws_total", worker("worker0")] == 1400
    assert numbers["pixeldp_slots_total", worker("worker0")] == 1536
    assert numbers["pixeldp_worker_busy_seconds_total", worker("worker0")] == 0.5
    assert numbers["pixeldp_worker_passes_since_start", worker("worker0")] == 6
    assert numbers["pixeldp_device_memory_used_bytes", worker("worker0")] == 10
    metrics.worker_up("worker0", False)
    metrics.worker_died("worker0")
    numbers = values(metrics)
    assert numbers["pixeldp_worker_up", worker("worker0")] == 0
    assert numbers["pixeldp_worker_restarts_total", worker("worker0")] == 1
    assert numbers["pixeldp_worker_passes_since_start", worker("worker0")] == 0
    assert numbers["pixeldp_passes_total", worker("worker0")] == 6


def test_a_model_that_is_gone_is_named_no_longer() -> None:
    metrics = started()
    metrics.remove_model("digits", "1", "sha256:00")
    assert not [name for name, _ in values(metrics) if name == "pixeldp_model_info"]

"""Every metric of the service: name, help and buckets in one place.

Base units, ``_total`` for counters. Workers send numbers with their results; only the front process
holds metrics, in a registry of its own.
"""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.engine import wire

# From a cached probe to the default time-out of 30 s; a certified answer of a small network takes
# milliseconds, one of a large network seconds.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# The least budget, the default and the largest, and what lies between.
_DRAWS = (64, 96, 128, 256, 512, 1000, 2000, 5000, 10_000, 100_000)
# Sizes in pixel values: from one grey level of one pixel to the reach of 10⁵ draws at σ = 1.
_SIZES = (0.0, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The numbers of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("pixeldp_requests", "HTTP requests answered.", ["route", "status"])
        self.latency = histogram(
            "pixeldp_request_duration_seconds",
            "From the arrival of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
        )
        self.stage = histogram(
            "pixeldp_stage_duration_seconds",
            "Where the time of a prediction goes: decode, queue, compute.",
            ["stage"],
            buckets=_SECONDS,
        )
        self.predictions = counter(
            "pixeldp_predictions",
            "Pictures answered, by whether the answer is robust (unknown: none was asked).",
            ["model", "robust", "stopped"],
        )
        self.draws = histogram(
            "pixeldp_prediction_draws",
            "Draws used for a prediction.",
            ["model"],
            buckets=_DRAWS,
        )
        self.size = histogram(
            "pixeldp_certified_size",
            "Certified size, in the norm of the answer.",
            ["model", "norm"],
            buckets=_SIZES,
        )
        self.passes = counter("pixeldp_passes", "Forward passes made.", ["worker"])
        self.slots = counter(
            "pixeldp_slots", "Slots of those passes; one draw fits into each.", ["worker"]
        )
        self.filled = counter(
            "pixeldp_slots_filled", "Slots that held a draw of some picture.", ["worker"]
        )
        self.busy = counter(
            "pixeldp_worker_busy_seconds", "Time that a worker spent in passes.", ["worker"]
        )
        self.up = gauge("pixeldp_worker_up", "Whether a worker is ready.", ["worker"])
        self.deaths = counter("pixeldp_worker_deaths", "Times that a worker has died.", ["worker"])
        self.queued = gauge("pixeldp_pictures_queued", "Pictures that wait for a worker.")
        self.in_flight = gauge("pixeldp_pictures_in_flight", "Pictures that a worker has.")
        self.granted = gauge(
            "pixeldp_budget_granted_ratio",
            "Share of the draw budgets asked for that is granted; below 1 under overload.",
        )
        self.model = gauge(
            "pixeldp_model_info", "The models served; always 1.", ["model", "version", "digest"]
        )

    def watch(
        self,
        queued: Callable[[], int],
        in_flight: Callable[[], int],
        granted: Callable[[], float],
    ) -> None:
        """Read these gauges from the engine whenever they are scraped."""
        self.queued.set_function(queued)
        self.in_flight.set_function(in_flight)
        self.granted.set_function(granted)

    def numbers(self, worker: str, numbers: wire.Numbers) -> None:
        """Add what a worker has done."""
        self.passes.labels(worker).inc(numbers.passes)
        self.slots.labels(worker).inc(numbers.slots)
        self.filled.labels(worker).inc(numbers.filled)
        self.busy.labels(worker).inc(numbers.busy_seconds)

    def worker_up(self, worker: str, up: bool) -> None:
        """Note whether a worker is ready."""
        self.up.labels(worker).set(up)

    def worker_died(self, worker: str) -> None:
        """Count a death."""
        self.deaths.labels(worker).inc()

    def render(self) -> bytes:
        """Return the exposition in Prometheus's text format."""
        return generate_latest(self.registry)

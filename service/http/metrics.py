"""Every metric of the service: name, help and buckets in one place.

Metrics have base units, and counters end in ``_total``. Workers send numbers with their results;
only the front process has metrics, in its own registry. Every label has few values, all known to
the service: a client cannot create new ones. Values known at start begin at 0, so that the first
event shows as an increase.

Ratios of two counters are left to the query, which chooses the time span:

    share of robust answers
        sum by (threat) (rate(pixeldp_predictions_total{robust="true"}[5m]))
        / sum by (threat) (rate(pixeldp_predictions_total{robust=~"true|false"}[5m]))
    how full passes are       rate(pixeldp_draws_total[5m]) / rate(pixeldp_slots_total[5m])
    draws per prediction      rate(pixeldp_prediction_draws_sum[5m])
                              / rate(pixeldp_prediction_draws_count[5m])
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from typing import cast, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import Metric

from models.certification.names import Stopped, Threat
from service.engine import messages
from service.engine.check import CHECK_RESULTS, CheckResult
from service.http.api.answers import Answer, AnyAnswer
from service.http.guards.budget import Budget
from service.http.usage import Usage

# From a cached probe to the default time-out of 30 s; a certified answer of a small network takes
# milliseconds, one of a large network seconds.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# The least budget, the default and the largest, and values between.
_DRAWS = (64, 96, 128, 256, 512, 1000, 2000, 5000, 10_000, 100_000)
# Sizes in pixel values: from one grey level of one pixel to the reach of 10⁵ draws at σ = 1.
_SIZES = (0.0, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)

STAGES = ("decode", "queue", "compute", "total")
ROBUST = {True: "true", False: "false", None: "unknown"}

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Registry(CollectorRegistry):
    """Makes metrics of each kind, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = partial(Counter, registry=self)
        self.gauge = partial(Gauge, registry=self)
        self.histogram = partial(Histogram, registry=self)


class RequestMetrics:
    """Metrics of all requests."""

    def __init__(self, registry: _Registry) -> None:
        self.answered = registry.counter(
            "pixeldp_requests",
            "HTTP requests by outcome. outcome: robust or not-robust with a target, certified "
            "or not-certified without one, ok for requests that are not a single picture, "
            "client-left, or the name of the problem that refused it.",
            ["route", "status", "outcome"],
        )
        self.latency = registry.histogram(
            "pixeldp_request_duration_seconds",
            "Time from the arrival of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
        )
        self.ready = registry.gauge("pixeldp_ready", "Whether the service answers pictures now.")


class PictureMetrics:
    """Metrics of pictures, including those of batches and streams."""

    def __init__(self, registry: _Registry) -> None:
        self.answered = registry.counter(
            "pixeldp_predictions",
            "Pictures answered, by the threat (norm or sticker) and whether the answer is robust "
            "against it (unknown: without a target).",
            ["model", "threat", "robust", "stopped"],
        )
        self.refused = registry.counter(
            "pixeldp_predictions_refused",
            "Pictures that were not answered, by the name of the problem.",
            ["reason"],
        )
        self.stage = registry.histogram(
            "pixeldp_stage_duration_seconds",
            "Where the time of a prediction goes: decode, queue, compute; and total, which is "
            "measured from the request's arrival and is not their sum.",
            ["stage"],
            buckets=_SECONDS,
        )
        self.draws = registry.histogram(
            "pixeldp_prediction_draws",
            "Draws used for a prediction.",
            ["model"],
            buckets=_DRAWS,
        )
        self.size = registry.histogram(
            "pixeldp_certified_size",
            "Certified size, in the norm of the answer; answers about stickers have none.",
            ["model", "norm"],
            buckets=_SIZES,
        )
        self.queued = registry.gauge(
            "pixeldp_pictures_queued", "Pictures that wait, for a decoder or for a worker."
        )
        self.decoding = registry.gauge(
            "pixeldp_pictures_decoding", "Large pictures that a decoder has."
        )
        self.queue_limit = registry.gauge(
            "pixeldp_pictures_queue_limit", "Pictures that may wait; more are refused."
        )
        self.in_flight = registry.gauge("pixeldp_pictures_in_flight", "Pictures that a worker has.")
        self.requeued = registry.counter(
            "pixeldp_pictures_requeued", "Pictures returned to the queue because their worker died."
        )
        self.granted = registry.gauge(
            "pixeldp_budget_granted_ratio",
            "Share of the requested draw budgets that is granted; below 1 under overload.",
        )

    def count(self, answer: AnyAnswer, stages: Mapping[str, float]) -> None:
        """Count a picture that is answered.

        Args:
            answer: the answer.
            stages: seconds by the names in ``STAGES``.
        """
        model, robust = answer.model.name, ROBUST[answer.robust]
        threat = "norm" if isinstance(answer, Answer) else answer.threat
        self.answered.labels(model, threat, robust, answer.stopped).inc()
        self.draws.labels(model).observe(answer.draws)
        if isinstance(answer, Answer):
            self.size.labels(model, answer.norm).observe(answer.certified_size)
        for stage, seconds in stages.items():
            self.stage.labels(stage).observe(seconds)


class KeyMetrics:
    """What each key has used, by the keys' names in their file."""

    def __init__(self, registry: _Registry) -> None:
        self.requests = registry.counter(
            "pixeldp_key_requests", "Requests sent with a known key.", ["key", "status"]
        )
        self.predictions = registry.counter(
            "pixeldp_key_predictions", "Pictures answered for a key.", ["key"]
        )
        self.draws = registry.counter("pixeldp_key_draws", "Draws of a key's answers.", ["key"])
        self.charged = registry.counter(
            "pixeldp_key_charged_draws",
            "Draws that a key's rate was charged: those of its answers, whole budgets if the "
            "client left, and decoding and receiving as draws.",
            ["key"],
        )
        self.received = registry.counter(
            "pixeldp_key_received_bytes", "Bytes of the bodies sent with a key.", ["key"]
        )

    def count(self, usage: Usage, status: str) -> None:
        """Add what a request used to its key's numbers."""
        if usage.key is not None:
            self.requests.labels(usage.key, status).inc()
            for of_key, amount in self._amounts(usage):
                of_key.labels(usage.key).inc(amount)

    def begin(self, names: Iterable[str]) -> None:
        """Begin at 0 where nothing is counted yet for these keys."""
        for name, (of_key, _) in product(names, self._amounts(Usage())):
            of_key.labels(name)

    def _amounts(self, usage: Usage) -> list[tuple[Counter, float]]:
        return [
            (self.predictions, usage.answers),
            (self.draws, usage.draws),
            (self.charged, usage.charged),
            (self.received, usage.received),
        ]


class MemoryMetrics:
    """Bytes that the front process holds for clients."""

    def __init__(self, registry: _Registry) -> None:
        self.held = registry.gauge(
            "pixeldp_held_bytes",
            "Bytes that the front process holds for clients. by: large or small requests, or "
            "connections.",
            ["by"],
        )
        self.held_limit = registry.gauge(
            "pixeldp_held_limit_bytes", "Bytes that it may hold, not counting one large request."
        )

    def watch(self, budget: Budget) -> None:
        """Read them from ``budget`` at every scrape."""
        self.held_limit.set(budget.most)
        for holder in ("large", "small", "connections"):
            self.held.labels(holder).set_function(partial(getattr, budget, holder))


class WorkerMetrics:
    """Metrics of workers."""

    def __init__(self, registry: _Registry) -> None:
        self.draws = registry.counter(
            "pixeldp_draws", "Draws made: the slots that were filled.", ["worker"]
        )
        self.slots = registry.counter(
            "pixeldp_slots", "Slots of all passes; each has room for one draw.", ["worker"]
        )
        self.passes = registry.counter("pixeldp_passes", "Forward passes made.", ["worker"])
        self.busy = registry.counter(
            "pixeldp_worker_busy_seconds", "Time that a worker spent in passes.", ["worker"]
        )
        self.up = registry.gauge("pixeldp_worker_up", "Whether a worker is ready.", ["worker"])
        self.restarts = registry.counter(
            "pixeldp_worker_restarts", "How often a worker died and was started again.", ["worker"]
        )
        self.passes_since = registry.gauge(
            "pixeldp_worker_passes_since_start", "Passes since the worker last started.", ["worker"]
        )
        self.out_of_memory = registry.counter(
            "pixeldp_worker_out_of_memory", "Passes that did not fit into memory.", ["worker"]
        )
        self.self_checks = registry.counter(
            "pixeldp_self_checks",
            "Probe pictures that workers were given, while they serve or before they are ready, by "
            "whether the votes were as before (passed), were not (failed), or never came "
            "(unanswered).",
            ["worker", "model", "result"],
        )
        self.memory_used = registry.gauge(
            "pixeldp_device_memory_used_bytes",
            "Memory in use: of the whole device if it is a GPU, or else of the worker's process.",
            ["worker"],
        )
        self.memory = registry.gauge(
            "pixeldp_device_memory_bytes", "Memory of the worker's device.", ["worker"]
        )

    def begin(self, worker: str) -> None:
        """Begin a worker's counters at 0."""
        counted = (self.draws, self.slots, self.passes, self.busy, self.up)
        for of_worker in (*counted, self.restarts, self.passes_since, self.out_of_memory):
            of_worker.labels(worker)


class Metrics:
    """The metrics of one service; the engine's reports are added to them."""

    def __init__(self) -> None:
        self.registry = registry = _Registry()
        # process_…: resident memory, processor time, open files and start of the front process.
        ProcessCollector(registry=registry)
        self.requests = RequestMetrics(registry)
        self.pictures = PictureMetrics(registry)
        self.keys = KeyMetrics(registry)
        self.memory = MemoryMetrics(registry)
        self.workers = WorkerMetrics(registry)
        self._dropped = registry.counter(
            "pixeldp_log_lines_dropped",
            "Lines of the log, including the workers', that could not be written to standard "
            "error: its reader has stopped or ended, or its disk is full.",
        )
        # Called at each scrape: how many lines were dropped so far, and which keys there are, whose
        # counts begin at 0.
        self.read_dropped: Callable[[], int] = lambda: 0
        self.read_keys: Callable[[], Iterable[str]] = list
        self._counted_dropped = 0
        self.model = registry.gauge(
            "pixeldp_model_info", "The models served; always 1.", ["model", "version", "digest"]
        )
        self.build = registry.gauge(
            "pixeldp_build_info", "The running version; always 1.", ["version"]
        )
        self._worker_names: list[str] = []

    def expect(
        self, version: str, workers: Iterable[str], reasons: Iterable[str], queue_limit: int
    ) -> None:
        """Begin at 0 everything that is known at start.

        Args:
            version: of the project.
            workers: their names.
            reasons: the names of all problems.
            queue_limit: pictures that may wait.
        """
        self.build.labels(version).set(1)
        self.pictures.queue_limit.set(queue_limit)
        self._worker_names = list(workers)
        for worker in self._worker_names:
            self.workers.begin(worker)
        for reason in reasons:
            self.pictures.refused.labels(reason)
        for stage in STAGES:
            self.pictures.stage.labels(stage)

    def add_model(self, name: str, version: str, digest: str) -> None:
        """Show a model that is served."""
        self.model.labels(name, version, digest).set(1)
        for about in product(get_args(Threat), ROBUST.values(), get_args(Stopped)):
            self.pictures.answered.labels(name, *about)
        for worker, result in product(self._worker_names, CHECK_RESULTS):
            self.workers.self_checks.labels(worker, name, result)

    def remove_model(self, name: str, version: str, digest: str) -> None:
        """Show it no longer; its answers remain counted."""
        self.model.remove(name, version, digest)

    def watch(
        self,
        ready: Callable[[], bool],
        queued: Callable[[], int],
        decoding: Callable[[], int],
        in_flight: Callable[[], int],
        granted: Callable[[], float],
        budget: Budget,
    ) -> None:
        """Read these gauges at every scrape."""
        self.requests.ready.set_function(ready)
        self.pictures.queued.set_function(queued)
        self.pictures.decoding.set_function(decoding)
        self.pictures.in_flight.set_function(in_flight)
        self.pictures.granted.set_function(granted)
        self.memory.watch(budget)

    def numbers(self, worker: str, numbers: messages.Numbers) -> None:
        """Add what a worker has done."""
        self.workers.passes.labels(worker).inc(numbers.passes)
        self.workers.passes_since.labels(worker).inc(numbers.passes)
        self.workers.slots.labels(worker).inc(numbers.slots)
        self.workers.draws.labels(worker).inc(numbers.filled)
        self.workers.busy.labels(worker).inc(numbers.busy_seconds)
        self.workers.memory_used.labels(worker).set(numbers.memory_used)
        self.workers.memory.labels(worker).set(numbers.memory)

    def worker_up(self, worker: str, up: bool) -> None:
        """Note whether a worker is ready."""
        self.workers.up.labels(worker).set(up)
        if not up:
            self.workers.passes_since.labels(worker).set(0)

    def worker_died(self, worker: str) -> None:
        """Count a death, after which a worker is started again."""
        self.workers.restarts.labels(worker).inc()

    def worker_out_of_memory(self, worker: str) -> None:
        """Count a pass that did not fit into memory."""
        self.workers.out_of_memory.labels(worker).inc()

    def self_checked(self, worker: str, model: str, result: CheckResult) -> None:
        """Count the outcome of a probe picture."""
        self.workers.self_checks.labels(worker, model, result).inc()

    def picture_requeued(self) -> None:
        """Count a picture that waits again because its worker is gone."""
        self.pictures.requeued.inc()

    def render(self) -> bytes:
        """Return the exposition in Prometheus's text format."""
        return generate_latest(cast(CollectorRegistry, self))

    def collect(self) -> Iterable[Metric]:
        """Return all metrics as they are now."""
        dropped = self.read_dropped()
        self._dropped.inc(dropped - self._counted_dropped)
        self._counted_dropped = dropped
        self.keys.begin(self.read_keys())
        return self.registry.collect()

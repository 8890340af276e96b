"""Traces by OpenTelemetry, sent to a collector by OTLP over HTTP.

Off unless the extra is installed (``pip install pixeldp[tracing]``) and
``OTEL_EXPORTER_OTLP_ENDPOINT`` says where; the other ``OTEL_…`` variables have their usual meaning.
A trace has a span for the request, one for each of its pictures, and within that ``decode``,
``queue`` and every ``look``.

A picture's spans are made when it is answered, from times that are measured anyway, so tracing
costs nothing before that.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

log = structlog.get_logger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_LAST_SECONDS = 2.0


def start(version: str) -> "Tracing | None":
    """Return the tracing of requests, or None if it is not requested or not possible."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return None
    try:
        return Tracing(version)
    except ImportError:
        log.warning(f"no traces are sent: {sys.executable} -m pip install 'pixeldp[tracing]'")
        return None


class RequestSpan:
    """The span of a request while it is answered."""

    def __init__(self, span: "Span", token: "Token[Context]") -> None:
        self._span, self._token = span, token

    @property
    def traceparent(self) -> bytes:
        """The answer's header about its trace."""
        context = self._span.get_span_context()
        return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)

    def end(self, method: str, route: str, status: int, outcome: str, key: str | None) -> None:
        """End the span, with the outcome of the request and the name of its key."""
        from opentelemetry.context import detach
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "pixeldp.outcome": outcome,
            }
        )
        if key is not None:
            self._span.set_attribute("pixeldp.key", key)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR, outcome)
        self._span.end()
        detach(self._token)


class Tracing:
    """Makes spans and sends them.

    Args:
        version: of the project.

    Raises:
        ImportError: the extra is not installed.
    """

    def __init__(self, version: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_SERVICE_NAME", "pixeldp")
        resource = Resource.create({"service.name": name, "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer: Tracer = self._provider.get_tracer("pixeldp", version)

    def begin(self, parent: tuple[bytes, bytes, bytes] | None) -> RequestSpan:
        """Begin the span of a request; tasks started meanwhile put their spans under it.

        Args:
            parent: trace id, span id and flags of the caller, in hexadecimal.
        """
        from opentelemetry import trace
        from opentelemetry.context import Context, attach

        context = Context()
        if parent:
            trace_id, span_id, flags = (int(part, 16) for part in parent)
            remote = trace.SpanContext(trace_id, span_id, True, trace.TraceFlags(flags))
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote), context)
        span = self._tracer.start_span("request", context, trace.SpanKind.SERVER)
        return RequestSpan(span, attach(trace.set_span_in_context(span, context)))

    def prediction(
        self,
        attributes: dict[str, Any],
        begun: float,
        decoded: float,
        queued: float,
        looks: Sequence[tuple[int, float]],
    ) -> None:
        """Add the spans of a picture that has just been answered to the running request's.

        Args:
            attributes: those of the answer.
            begun: when decoding began, on the clock of ``time.monotonic``.
            decoded: when it ended.
            queued: the seconds from then to the picture's first pass.
            looks: for each look, the draws so far and the seconds since the first pass began.
        """
        from opentelemetry import trace

        epoch = time.time() - time.monotonic()

        def span(
            name: str, start: float, end: float, attributes: dict[str, Any], context: Any
        ) -> "Span":
            made = self._tracer.start_span(
                name, context, attributes=attributes, start_time=int(1e9 * (epoch + start))
            )
            made.end(int(1e9 * (epoch + end)))
            return made

        first = decoded + queued
        end = first + looks[-1][1] if looks else time.monotonic()
        whole = span("prediction", begun, end, attributes, None)
        inside = trace.set_span_in_context(whole)
        span("decode", begun, decoded, {}, inside)
        span("queue", decoded, first, {}, inside)
        start = first
        for number, (draws, seconds) in enumerate(looks, 1):
            span("look", start, first + seconds, {"look": number, "draws": draws}, inside)
            start = first + seconds

    def close(self) -> None:
        """Send the remaining spans, if the collector accepts them soon."""
        # Otherwise it would wait as long as the exporter does, and so would the process.
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(_LAST_SECONDS)

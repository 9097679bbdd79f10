"""Spans to an OpenTelemetry collector over OTLP/HTTP: the one module that imports OpenTelemetry.

Everything about the way there is a variable that OpenTelemetry specifies (OTEL_EXPORTER_OTLP_*,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*). A span is put in a
bounded queue, from which a thread sends; where the collector does not answer, the queue is full and
what is recorded is thrown away. Nothing that serves a request waits for it.
"""

import logging
import threading
import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from facilitator import __version__
from facilitator.telemetry import event, get_logger
from facilitator.tracing import Attribute, Place

_log = get_logger(__name__)

DRAIN_SECONDS = 3.0  # at the end, for what is still in the queue
TROUBLE_EVERY = 60.0  # seconds between two lines about a collector that takes nothing
MESSAGE_LIMIT = 300  # characters of what OpenTelemetry says about it

_NOWHERE = Context()


class _Ours(Place):
    """A span of ours as the place of others."""

    __slots__ = ("context",)

    def __init__(self, span: trace.Span) -> None:
        told = span.get_span_context()
        flags = f"{told.trace_flags:02x}"
        super().__init__(f"00-{told.trace_id:032x}-{told.span_id:016x}-{flags}")
        self.context = trace.set_span_in_context(span, _NOWHERE)


class OTLPSpan:
    """See `tracing.Span`."""

    __slots__ = ("_place", "_span")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._place: _Ours | None = None

    @property
    def place(self) -> Place:
        if self._place is None:
            self._place = _Ours(self._span)
        return self._place

    def set(self, attributes: Mapping[str, Attribute | None]) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, error: str) -> None:
        self._span.set_attribute("error.type", error)
        self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        self._span.end()


class OTLPTracer:
    """See `tracing.Tracer`. `close` sends what it holds, for DRAIN_SECONDS at most."""

    def __init__(self) -> None:
        _tell_trouble_once()
        # Not at exit: an exit waits for nobody. The sampler is the environment's.
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("facilitator", __version__)

    def start(
        self,
        name: str,
        parent: Place | None,
        attributes: Mapping[str, Attribute | None],
        *,
        serves: bool = False,
        started_ms: int | None = None,
    ) -> OTLPSpan:
        return OTLPSpan(
            self._tracer.start_span(
                name,
                context=_context(parent),
                kind=SpanKind.SERVER if serves else SpanKind.INTERNAL,
                attributes={name: value for name, value in attributes.items() if value is not None},
                start_time=None if started_ms is None else started_ms * 1_000_000,
                record_exception=False,
            )
        )

    def close(self) -> None:
        """Blocks for DRAIN_SECONDS at most; what was not sent by then is lost."""
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(DRAIN_SECONDS)


def _resource() -> Resource:
    """What the environment says of the service, its name where that says none."""
    told = Resource.create({SERVICE_VERSION: __version__})
    if str(told.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return told.merge(Resource({SERVICE_NAME: "facilitator"}))
    return told


def _context(parent: Place | None) -> Context:
    if isinstance(parent, _Ours):
        return parent.context
    if parent is None:
        return _NOWHERE
    _, trace_id, span_id, flags = parent.traceparent.split("-")
    told = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )
    return trace.set_span_in_context(NonRecordingSpan(told), _NOWHERE)


class _Trouble(logging.Handler):
    """What OpenTelemetry has to say, in our log, a line in TROUBLE_EVERY at most: it tells of every
    attempt to reach a collector that is not there.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told_at = -TROUBLE_EVERY
        self._untold = 0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._told_at < TROUBLE_EVERY:
            self._untold += 1
            return
        event(
            _log,
            logging.WARNING,
            "traces_not_exported",
            why=record.getMessage()[:MESSAGE_LIMIT],
            untold=self._untold,
        )
        self._told_at, self._untold = now, 0


def _tell_trouble_once() -> None:
    log = logging.getLogger("opentelemetry")
    log.handlers[:] = [_Trouble()]
    log.propagate = False
    # It warns of every span that a full queue throws away, at a tenth of what serving costs.
    logging.getLogger("opentelemetry.sdk").setLevel(logging.ERROR)
    # At DEBUG it tells of each POST, and where to.
    logging.getLogger("urllib3").setLevel(logging.INFO)

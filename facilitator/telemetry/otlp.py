"""Exports spans to an OpenTelemetry collector over OTLP/HTTP. Only this module imports
OpenTelemetry.

OpenTelemetry's own variables configure the export (OTEL_EXPORTER_OTLP_*, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES). A span that has ended goes into a bounded queue, which a thread sends.
While the collector accepts nothing the queue fills up, and further spans are dropped: no request
ever waits for the collector. Spans are recorded here and not by OpenTelemetry's SDK, whose spans
cost six times as much.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from facilitator import __version__
from facilitator.config.opentelemetry import Tracing
from facilitator.telemetry.logs import event, get_logger
from facilitator.telemetry.tracing import Attribute
from facilitator.telemetry.tracing import SpanContext as ParentContext

_log = get_logger(__name__)

DRAIN_SECONDS = 3.0  # for sending what is still queued when the process stops
TROUBLE_EVERY = 60.0  # seconds between two log lines about a failing collector
MESSAGE_LIMIT = 300  # characters of OpenTelemetry's message in such a line

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_FAILED = Status(StatusCode.ERROR)
_DONE = Status(StatusCode.UNSET)


@dataclass(slots=True, kw_only=True, eq=False)
class OTLPSpan:
    """Both a `tracing.Span` and its own `tracing.SpanContext`. `trace`, `number` and `parent` are
    the ids of the trace, of the span and of its parent; a span without a `queue` is not recorded.
    Times are in unix nanoseconds.
    """

    name: str
    trace: int
    number: int
    parent: int | None
    queue: "_Queue | None"
    serves: bool
    started: int
    ended: int = 0
    failed: bool = False
    attributes: dict[str, Attribute] = field(default_factory=dict)

    @property
    def recorded(self) -> bool:
        return self.queue is not None

    @property
    def context(self) -> ParentContext:
        return self

    @property
    def trace_id(self) -> str:
        return f"{self.trace:032x}"

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace:032x}-{self.number:016x}-{self.recorded:02x}"

    def set(self, attributes: Mapping[str, Attribute | None]) -> None:
        if self.recorded:
            for name, value in attributes.items():
                if value is not None:
                    self.attributes[name] = value

    def rename(self, name: str) -> None:
        self.name = name

    def fail(self, error: str) -> None:
        self.attributes["error.type"] = error
        self.failed = True

    def end(self) -> None:
        if self.queue is not None:
            self.ended = time.time_ns()
            self.queue.put(self)


class OTLPTracer:
    """A `tracing.Tracer` that exports its spans."""

    def __init__(self, settings: Tracing) -> None:
        self._sampler = _sampler(settings)
        self._queue = _Queue(settings)

    def start(
        self,
        name: str,
        parent: ParentContext | None,
        attributes: Mapping[str, Attribute | None],
        *,
        serves: bool = False,
        started_ms: int | None = None,
    ) -> OTLPSpan:
        if isinstance(parent, OTLPSpan):
            # As its parent is: the sampler decides once for a whole trace.
            trace, recorded = parent.trace, parent.recorded
            above: int | None = parent.number
        else:
            trace, above, recorded = self._begin(name, parent)
        span = OTLPSpan(
            name=name,
            trace=trace,
            number=random.getrandbits(64) or 1,
            parent=above,
            queue=self._queue if recorded else None,
            serves=serves,
            started=time.time_ns() if started_ms is None else started_ms * 1_000_000,
        )
        span.set(attributes)
        return span

    def _begin(self, name: str, parent: ParentContext | None) -> tuple[int, int | None, bool]:
        """Return (trace id, parent's id, recorded) of a span without a parent of ours."""
        if parent is None:
            context, trace, above = None, random.getrandbits(128) or 1, None
        else:
            _, trace_id, parent_id, flags = parent.traceparent.split("-")
            trace, above = int(trace_id, 16), int(parent_id, 16)
            remote = SpanContext(trace, above, True, TraceFlags(int(flags, 16)))
            context = set_span_in_context(NonRecordingSpan(remote))
        decided = self._sampler.should_sample(context, trace, name)
        return trace, above, decided.decision is Decision.RECORD_AND_SAMPLE

    def close(self) -> None:
        """Block until the queue is sent, for DRAIN_SECONDS at most; what is left then is lost."""
        self._queue.close()


class _Queue:
    """The spans that have ended, and the thread that sends them."""

    def __init__(self, settings: Tracing) -> None:
        _log_trouble_rarely()
        self._limit, self._batch = settings.queue_size, settings.batch_size
        self._delay = settings.delay_ms / 1000
        self._spans: deque[OTLPSpan] = deque()
        self._resource = _resource()
        self._scope = InstrumentationScope("facilitator", __version__)
        self._exporter = OTLPSpanExporter()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def put(self, span: OTLPSpan) -> None:
        """Queue a span, or drop it where the queue is full."""
        waiting = len(self._spans)
        if waiting < self._limit:
            self._spans.append(span)
            if waiting + 1 == self._batch:
                self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(DRAIN_SECONDS)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._delay)
            self._wake.clear()
            while self._spans and self._send():
                pass

    def _send(self) -> bool:
        """Send one batch; return whether the collector accepted it."""
        count = min(len(self._spans), self._batch)
        some = [self._spans.popleft() for _ in range(count)]
        result = self._exporter.export([self._readable(span) for span in some])
        return result is SpanExportResult.SUCCESS

    def _readable(self, span: OTLPSpan) -> ReadableSpan:
        parent = None
        if span.parent is not None:
            parent = SpanContext(span.trace, span.parent, False, _SAMPLED)
        return ReadableSpan(
            name=span.name,
            context=SpanContext(span.trace, span.number, False, _SAMPLED),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER if span.serves else SpanKind.INTERNAL,
            status=_FAILED if span.failed else _DONE,
            start_time=span.started,
            end_time=span.ended,
            instrumentation_scope=self._scope,
        )


def _sampler(settings: Tracing) -> Sampler:
    roots = {
        "always_on": ALWAYS_ON,
        "always_off": ALWAYS_OFF,
        "traceidratio": TraceIdRatioBased(settings.ratio),
    }
    root = roots[settings.sampler.removeprefix("parentbased_")]
    return ParentBased(root) if settings.sampler.startswith("parentbased_") else root


def _resource() -> Resource:
    """Return the resource that the environment describes, named "facilitator" by default."""
    resource = Resource.create({SERVICE_VERSION: __version__})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "facilitator"}))
    return resource


class _Trouble(logging.Handler):
    """Writes OpenTelemetry's warnings into our log, one line in TROUBLE_EVERY seconds at most:
    OpenTelemetry logs every failed attempt to reach the collector.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._logged_at = -TROUBLE_EVERY
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._logged_at < TROUBLE_EVERY:
            self._dropped += 1
            return
        event(
            _log,
            logging.WARNING,
            "traces_not_exported",
            why=record.getMessage()[:MESSAGE_LIMIT],
            untold=self._dropped,
        )
        self._logged_at, self._dropped = now, 0


def _log_trouble_rarely() -> None:
    log = logging.getLogger("opentelemetry")
    log.handlers[:] = [_Trouble()]
    log.propagate = False
    # At DEBUG it logs each POST with its URL, which may hold a key.
    logging.getLogger("urllib3").setLevel(logging.INFO)

"""Spans to an OpenTelemetry collector over OTLP/HTTP: the one module that imports OpenTelemetry.

Where to and how is what OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_*, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES). A span that has ended goes into a bounded queue, from which a thread
sends; where the collector takes nothing the queue is full, and what ends then is thrown away.
Nothing that serves a request waits for it. Recording is done here and not by OpenTelemetry's SDK,
whose spans cost six times as much.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Mapping

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
from facilitator.telemetry.tracing import Attribute, Place

_log = get_logger(__name__)

DRAIN_SECONDS = 3.0  # at the end, for what is still in the queue
TROUBLE_EVERY = 60.0  # seconds between two lines about a collector that takes nothing
MESSAGE_LIMIT = 300  # characters of what OpenTelemetry says about it

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_FAILED = Status(StatusCode.ERROR)
_DONE = Status(StatusCode.UNSET)


class OTLPSpan:
    """See `tracing.Span` and `tracing.Place`: it is both. Ids are integers, times nanoseconds."""

    __slots__ = (
        *("_queue", "attributes", "ended", "failed", "name", "number", "parent", "recorded"),
        *("serves", "started", "trace"),
    )

    def __init__(
        self,
        name: str,
        *,
        trace: int,
        number: int,
        parent: int | None,
        queue: "_Queue | None",
        serves: bool,
        started: int,
    ) -> None:
        self.name = name
        self.trace = trace
        self.number = number
        self.parent = parent
        self.recorded = queue is not None
        self.serves = serves
        self.started = started
        self.ended = started
        self.failed = False
        self.attributes: dict[str, Attribute] = {}
        self._queue = queue

    @property
    def place(self) -> Place:
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
        if self._queue is not None:
            self.ended = time.time_ns()
            self._queue.put(self)


class OTLPTracer:
    """See `tracing.Tracer`. `close` sends what it holds, for DRAIN_SECONDS at most."""

    def __init__(self, settings: Tracing) -> None:
        self._sampler = _sampler(settings)
        self._queue = _Queue(settings)

    def start(
        self,
        name: str,
        parent: Place | None,
        attributes: Mapping[str, Attribute | None],
        *,
        serves: bool = False,
        started_ms: int | None = None,
    ) -> OTLPSpan:
        if isinstance(parent, OTLPSpan):
            # As its parent: every sampler decides alike for all of a trace here.
            trace, recorded = parent.trace, parent.recorded
            above: int | None = parent.number
        else:
            trace, above, recorded = self._begin(name, parent)
        span = OTLPSpan(
            name,
            trace=trace,
            number=random.getrandbits(64) or 1,
            parent=above,
            queue=self._queue if recorded else None,
            serves=serves,
            started=time.time_ns() if started_ms is None else started_ms * 1_000_000,
        )
        span.set(attributes)
        return span

    def _begin(self, name: str, parent: Place | None) -> tuple[int, int | None, bool]:
        """The trace id, the parent's and whether to record, where no span of ours is above."""
        if parent is None:
            context, trace, above = None, random.getrandbits(128) or 1, None
        else:
            _, trace_id, parent_id, flags = parent.traceparent.split("-")
            trace, above = int(trace_id, 16), int(parent_id, 16)
            told = SpanContext(trace, above, True, TraceFlags(int(flags, 16)))
            context = set_span_in_context(NonRecordingSpan(told))
        decided = self._sampler.should_sample(context, trace, name)
        return trace, above, decided.decision is Decision.RECORD_AND_SAMPLE

    def close(self) -> None:
        """Blocks for DRAIN_SECONDS at most; what was not sent by then is lost."""
        self._queue.close()


class _Queue:
    """Spans that have ended, and the thread that sends them."""

    def __init__(self, settings: Tracing) -> None:
        _tell_trouble_once()
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
        """Have it sent some time, or forget it where too many wait."""
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
        """Whether the collector took some."""
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
    """What the environment says of the service, its name where that says none."""
    told = Resource.create({SERVICE_VERSION: __version__})
    if str(told.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return told.merge(Resource({SERVICE_NAME: "facilitator"}))
    return told


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
    # At DEBUG it tells of each POST, and where to.
    logging.getLogger("urllib3").setLevel(logging.INFO)

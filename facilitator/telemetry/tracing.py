"""Traces: which request a piece of work belongs to, and how long each part of it took.

`with span("verify", network="base"):` records a block. Without a tracer (`otlp` has the only one)
it records nothing and costs next to nothing. The context of a request's header (W3C traceparent) is
kept in either case: the log names it, and it is stored with the settlement, so that work after a
restart belongs to the same trace.

Only a request begins a trace; a loop's own work is not recorded. A span holds names, hashes and
numbers; of an exception it holds the class, since its text may quote anything.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

Attribute = str | int | bool

# Version, trace id, parent id, flags (https://www.w3.org/TR/trace-context/, 3.2). A later version
# may add more after a dash, and is parsed like this one.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class SpanContext(Protocol):
    """Identifies a span of this process or of another, as the parent of further spans."""

    @property
    def traceparent(self) -> str:
        """The context as W3C's header writes it."""

    @property
    def trace_id(self) -> str:
        """32 hex digits."""

    @property
    def recorded(self) -> bool:
        """Whether its children may be recorded: a span of ours that is not recorded has none."""


@dataclass(frozen=True, slots=True)
class RemoteContext:
    """The context of a span that another process recorded, from a header or from the journal.
    `traceparent` is as `parse` writes it.
    """

    traceparent: str
    recorded = True

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]


class Span(Protocol):
    """A timed part of a trace, recorded where the sampler says so."""

    @property
    def context(self) -> SpanContext:
        """The parent of the spans inside this one."""

    def set(self, attributes: Mapping[str, Attribute | None]) -> None:
        """Set attributes; those that are None are left out."""

    def rename(self, name: str) -> None:
        """Replace the name: a route is known only after the request began."""

    def fail(self, error: str) -> None:
        """Mark the span as failed. `error` is the name of an exception's class, never its text."""

    def end(self) -> None:
        """End the span now."""


class Tracer(Protocol):
    """Records spans."""

    def start(
        self,
        name: str,
        parent: SpanContext | None,
        attributes: Mapping[str, Attribute | None],
        *,
        serves: bool = False,
        started_ms: int | None = None,
    ) -> Span:
        """Start a span, now or at `started_ms` (unix milliseconds). Without a parent it begins a
        trace. `serves` marks the span of a request that this service answers.
        """


_OFF = nullcontext()  # what `span` returns where nothing is recorded
_current: ContextVar[SpanContext | None] = ContextVar("span_context", default=None)
_tracer: Tracer | None = None

Maybe = AbstractContextManager[Span | None]


@contextmanager
def _recording(span: Span) -> Iterator[Span]:
    """Make a span the current one inside the block, and end it with the block."""
    token = _current.set(span.context)
    try:
        yield span
    except BaseException as error:
        span.fail(type(error).__name__)
        raise
    finally:
        _current.reset(token)
        span.end()


def configure_tracing(tracer: Tracer | None) -> None:
    """Record spans with `tracer` from now on; with None, record none."""
    global _tracer  # noqa: PLW0603 - like the root logger, one a process
    _tracer = tracer


def current() -> SpanContext | None:
    """Return the context of the span that this code runs in; None outside of any."""
    return _current.get()


def current_traceparent() -> str | None:
    """Return the current context as W3C's header writes it; None outside of any."""
    context = _current.get()
    return None if context is None else context.traceparent


def span(name: str, **attributes: Attribute | None) -> Maybe:
    """Record the block as a child of the current span."""
    started = begin(name, **attributes)
    return _OFF if started is None else _recording(started)


def request(name: str, traceparent: str | None) -> Maybe:
    """Record the block as the answer to a request that came with the header `traceparent`
    (unparsed): in the caller's trace, or in a new one where there is no valid header.
    """
    parent = None if traceparent is None else parse(traceparent)
    if _tracer is not None:
        return _recording(_tracer.start(name, parent, {}, serves=True))
    return _OFF if parent is None else inside(parent)


def begin(name: str, **attributes: Attribute | None) -> Span | None:
    """Start a child of the current span, which the caller ends with `end`. Return None where
    nothing is recorded.
    """
    context = _current.get()
    if _tracer is None or context is None or not context.recorded:
        return None
    return _tracer.start(name, context, attributes)


def record(
    name: str, traceparent: str | None, started_ms: int, **attributes: Attribute | None
) -> None:
    """Record a span that began at `started_ms` (unix milliseconds) and ends now."""
    if _tracer is not None and traceparent is not None:
        context = RemoteContext(traceparent)
        _tracer.start(name, context, attributes, started_ms=started_ms).end()


@contextmanager
def inside(context: SpanContext | str | None) -> Iterator[None]:
    """Make `context` (or a traceparent) the current one inside the block; None changes nothing."""
    if context is None:
        yield
        return
    token = _current.set(RemoteContext(context) if isinstance(context, str) else context)
    try:
        yield
    finally:
        _current.reset(token)


def parse(traceparent: str) -> SpanContext | None:
    """Parse W3C's header. Return None for an invalid one, as where an id has only zeros."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more):
        return None
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return RemoteContext(f"00-{trace_id}-{parent_id}-{flags}")

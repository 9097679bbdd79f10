"""Traces: which request a piece of work belongs to, and how long each part of it took.

`with span("verify", network="base"):` is the one way to record. Without a tracer (`otlp` has the
only one) it does nothing and costs next to nothing; what stays is the place in the trace that a
request came with (W3C traceparent): it is named in the log, and stored with its settlement, so that
what happens after a restart belongs to the same trace.

Only a request begins a trace. Work without one, as that of a loop, is not recorded. A span holds
names, hashes and numbers; of an exception it holds the class, since its text may quote anything.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Protocol

Attribute = str | int | bool

# Version, trace id, parent id, flags (https://www.w3.org/TR/trace-context/, 3.2). A later version
# may add something behind a dash, and is read as this one.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Place(Protocol):
    """A place in a trace: somebody else's span, or one of ours."""

    @property
    def traceparent(self) -> str:
        """As W3C's header writes it."""

    @property
    def trace_id(self) -> str:
        """32 hex digits."""

    @property
    def recorded(self) -> bool:
        """Whether what happens there may be: not inside a span of ours that is not."""


class Told:
    """A place that we were told of, by a header or by the journal."""

    __slots__ = ("traceparent",)
    recorded = True

    def __init__(self, traceparent: str) -> None:
        """`traceparent` as `parse` gives it."""
        self.traceparent = traceparent

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]


class Span(Protocol):
    """A part of a trace, which is recorded where the sampler says so."""

    @property
    def place(self) -> Place:
        """What spans inside it are children of."""

    def set(self, attributes: Mapping[str, Attribute | None]) -> None:
        """Note attributes; what is None is left out."""

    def rename(self, name: str) -> None:
        """What it was is known only now."""

    def fail(self, error: str) -> None:
        """It did not do what it should: the name of what went wrong, no text."""

    def end(self) -> None:
        """It is over now."""


class Tracer(Protocol):
    """Records spans."""

    def start(
        self,
        name: str,
        parent: Place | None,
        attributes: Mapping[str, Attribute | None],
        *,
        serves: bool = False,
        started_ms: int | None = None,
    ) -> Span:
        """A span that begins now, or began at `started_ms` (unix milliseconds); without a parent it
        begins a trace. `serves` marks the answer to somebody else's request.
        """


class _Off:
    """What `span` gives where nothing is recorded: one object for all."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


class _Recording:
    """Makes a span the current one, and ends it."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        self._token: Token[Place | None] = _current.set(self._span.place)
        return self._span

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _current.reset(self._token)
        if kind is not None:
            self._span.fail(kind.__name__)
        self._span.end()


class _Inside:
    """Makes a place the current one."""

    __slots__ = ("_place", "_token")

    def __init__(self, place: Place | None) -> None:
        self._place = place

    def __enter__(self) -> None:
        self._token: Token[Place | None] = _current.set(self._place)

    def __exit__(self, *error: object) -> None:
        _current.reset(self._token)


_OFF = _Off()
_current: ContextVar[Place | None] = ContextVar("place", default=None)
_tracer: Tracer | None = None

Maybe = AbstractContextManager[Span | None]


def configure_tracing(tracer: Tracer | None) -> None:
    """Record spans with `tracer` from now on; None: record none."""
    global _tracer  # noqa: PLW0603 - like the root logger, one a process
    _tracer = tracer


def current() -> Place | None:
    """Where in which trace this is happening."""
    return _current.get()


def current_traceparent() -> str | None:
    """The same as W3C's header writes it."""
    place = _current.get()
    return None if place is None else place.traceparent


def span(name: str, **attributes: Attribute | None) -> Maybe:
    """Record the block as a part of what is happening."""
    if _tracer is None:
        return _OFF
    place = _current.get()
    if place is None or not place.recorded:
        return _OFF
    return _Recording(_tracer.start(name, place, attributes))


def request(name: str, traceparent: str | None) -> Maybe:
    """Record the block as the answer to a request that came with this (unparsed) header: a part of
    the caller's trace, or else a trace of its own.
    """
    parent = None if traceparent is None else parse(traceparent)
    if _tracer is not None:
        return _Recording(_tracer.start(name, parent, {}, serves=True))
    return _OFF if parent is None else inside(parent)


def begin(name: str, **attributes: Attribute | None) -> Span | None:
    """A part of what is happening that ends when its `end` is called; None where nothing is
    recorded.
    """
    place = None if _tracer is None else _current.get()
    if _tracer is None or place is None or not place.recorded:
        return None
    return _tracer.start(name, place, attributes)


def record(
    name: str, traceparent: str | None, started_ms: int, **attributes: Attribute | None
) -> None:
    """A part of a trace that began at `started_ms` (unix milliseconds) and ends now."""
    if _tracer is not None and traceparent is not None:
        place = Told(traceparent)
        _tracer.start(name, place, attributes, started_ms=started_ms).end()


def inside(place: Place | str | None) -> AbstractContextManager[None]:
    """Have the block happen there. Where nothing is known of it, it happens where it is."""
    if place is None:
        return nullcontext()
    return _Inside(Told(place) if isinstance(place, str) else place)


def parse(traceparent: str) -> Place | None:
    """What W3C's header names; None where it is none, as is one of nothing but zeros."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more):
        return None
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return Told(f"00-{trace_id}-{parent_id}-{flags}")

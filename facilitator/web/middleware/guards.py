"""Layers around the routes: the access log, a limit on concurrency, a reply to every error."""

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facilitator.telemetry import tracing
from facilitator.telemetry.logs import begin_request, event, get_logger, request_id
from facilitator.web.middleware.body import BodyError, ClientDisconnected
from facilitator.web.middleware.headers import Header, header

PATH_LIMIT = 200  # characters of a path in the log
METHOD_LIMIT = 20  # of a method, for which HTTP has no limit; the longest registered one has 17
PROBES = frozenset({"/health", "/ready"})

_log = get_logger("facilitator.http")


class AccessLog:
    """Logs one line and records one span for each request, with the fields that the route added
    (`logs.describe`).

    The span is inside the caller's trace where the request came with one (W3C traceparent). `path`
    is logged where it differs from the route's. Probes come every few seconds: they are logged at
    DEBUG and have no span.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status: int | None = None  # stays so when the client went away unanswered

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start = time.perf_counter()
        described = begin_request()
        probe = scope["path"] in PROBES
        with nullcontext() if probe else _span(scope) as span:
            try:
                await self.app(scope, receive, noting_send)
            finally:
                took = round((time.perf_counter() - start) * 1000, 2)
                _log_request(
                    scope, status, took, described, logging.DEBUG if probe else logging.INFO
                )
                if span is not None:
                    _finish(span, scope, status, described)


def _span(scope: Scope) -> tracing.Maybe:
    given = header(scope["headers"], b"traceparent")
    method = scope["method"][:METHOD_LIMIT]
    return tracing.request(method, None if given is None else given.decode("latin-1"))


def _log_request(
    scope: Scope, status: int | None, took: float, described: Mapping[str, object], level: int
) -> None:
    path, route = scope["path"], route_of(scope)
    event(
        _log,
        level,
        "request",
        exc_info=None,
        method=scope["method"][:METHOD_LIMIT],
        route=route,
        **({} if path == route else {"path": _printable(path)}),
        status=status,
        duration_ms=took,
        **described,
    )


def _finish(
    span: tracing.Span, scope: Scope, status: int | None, described: Mapping[str, object]
) -> None:
    """Set the span's attributes, with OpenTelemetry's names, or else those of the log."""
    method, route = scope["method"][:METHOD_LIMIT], route_of(scope)
    if route is not None:
        span.rename(f"{method} {route}")
    span.set({"http.request.method": method, "http.route": route})
    span.set({"http.response.status_code": status, "request_id": request_id.get()})
    span.set({name: str(value) for name, value in described.items()})
    if status is not None and status >= 500:
        span.fail(str(status))


def route_of(scope: Scope) -> str | None:
    """Return the template of the route that was found ("/settlements/{id}"); None without one."""
    path: str | None = getattr(scope.get("route"), "path", None)
    return path


def _printable(path: str) -> str:
    """Return a path for the log: printable characters only, PATH_LIMIT at most."""
    path = path[:PATH_LIMIT]
    if path.isprintable():
        return path
    return "".join(char if char.isprintable() else "?" for char in path)


# Members that clients of the standard dialect require in every reply, whatever its status.
_IN_SHAPE: dict[str, dict[str, object]] = {
    "/verify": {"isValid": False, "invalidReason": "unexpected_verify_error", "payer": ""},
    "/settle": {
        "success": False,
        "errorReason": "unexpected_settle_error",
        "transaction": "",
        "network": "",
        "payer": "",
    },
}


class ConcurrencyLimit:
    """Answers at most `limit` requests at once. Probes pass: a busy service is alive and ready."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self.app = app
        self.limit = limit
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        if self.in_flight >= self.limit:
            members = _IN_SHAPE.get(scope["path"], {})
            error = {**members, "error": "Too many requests in flight", "timestamp": _now_ms()}
            await _send_json(send, 503, error, (b"retry-after", b"1"))
            return
        self.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_flight -= 1


class CatchErrors:
    """Replies to every exception of the routes; the exception itself goes to the log alone.

    A reply that has started cannot be replaced. Then the exception goes on to the server, which
    logs it and closes the connection, so that the client sees that the reply is cut off.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noting_send)
        except ClientDisconnected:
            return
        except Exception as error:
            if started:
                raise
            if isinstance(error, BodyError):
                await _send_json(send, error.status, {"error": str(error), "timestamp": _now_ms()})
                return
            path = _printable(scope["path"])
            event(_log, logging.ERROR, "unhandled_error", path=path, exc_info=error)
            reply = {
                **_IN_SHAPE.get(scope["path"], {}),
                "error": "Internal server error",
                "message": "An unexpected error occurred",
                "timestamp": _now_ms(),
            }
            await _send_json(send, 500, reply)


async def send_not_found(scope: Scope, send: Send) -> None:
    """Send the reply to an unknown path."""
    error = {"error": "Not found", "path": scope["path"], "timestamp": _now_ms()}
    await _send_json(send, 404, error)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _send_json(send: Send, status: int, value: object, *headers: Header) -> None:
    body = msgspec.json.encode(value)
    start = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})

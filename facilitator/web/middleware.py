"""The ASGI layers around the routes, from the metrics outside to the replies to errors inside.

Every layer passes what is not HTTP (the lifespan) on unchanged.
"""

import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facilitator.config.settings import Config
from facilitator.telemetry import tracing
from facilitator.telemetry.logs import begin_request, event, get_logger, request_id
from facilitator.telemetry.metrics import Metrics
from facilitator.web.body import BodyError, ClientDisconnected, DrainBody, Header, header
from facilitator.web.replies import json_reply, not_found
from facilitator.web.service import unix_ms

PATH_LIMIT = 200  # characters of a path in the log
METHOD_LIMIT = 20  # of a method, for which HTTP has no limit; the longest registered one has 17
PROBES = frozenset({"/health", "/ready"})
METRICS_PATH = "/metrics"

_log = get_logger("facilitator.http")


def measuring_layers(config: Config, metrics: Metrics) -> list[Middleware]:
    """Return the layers outside of all others, which measure requests where metrics are on."""
    if not config.metrics:
        return []
    measured = Middleware(MeasureRequests, metrics=metrics)
    if config.metrics_port is None:
        return [measured]
    return [measured, Middleware(OwnListener, port=config.metrics_port)]


def layers(*, concurrency: int) -> list[Middleware]:
    """Return the layers, the outermost first; `concurrency` is how many requests run at once."""
    return [
        Middleware(DrainBody),
        Middleware(RequestId),  # before the log, which names the request
        Middleware(AccessLog),
        Middleware(SecurityHeaders),  # outside of all that answers, errors included
        Middleware(CORS),
        Middleware(ConcurrencyLimit, limit=concurrency),
        Middleware(CatchErrors),
    ]


class MeasureRequests:
    """Counts every reply, and measures the time until its last byte.

    The route is the path's template. It is the path itself where the request did not reach routing,
    as in the reply to too many requests.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status: int | None = None  # stays None when the client left before the reply
        started = time.perf_counter()

        async def counting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                route = route_of(scope) or scope["path"]
                self.metrics.count_request(scope["method"], route, status)
            await send(message)

        try:
            await self.app(scope, receive, counting_send)
        finally:
            if status is not None:
                route = route_of(scope) or scope["path"]
                self.metrics.time_request(route, status, time.perf_counter() - started)


class OwnListener:
    """Serves /metrics on the listener with this `port` alone, and no other path there."""

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self.app = app
        self.port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # The port of the socket that the request came through; no header can change it.
            _, port = scope["server"]
            if (port == self.port) != (scope["path"] == METRICS_PATH):
                await not_found(scope["path"])(scope, receive, send)
                return
        await self.app(scope, receive, send)


class RequestId:
    """Gives every request an id: its X-Request-Id where that is harmless, else a random one."""

    _harmless = re.compile(rb"[A-Za-z0-9._-]{1,64}")

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope["headers"], b"x-request-id")
        if given is None or not self._harmless.fullmatch(given):
            given = secrets.token_hex(8).encode()
        name = given.decode()
        scope.setdefault("state", {})["request_id"] = name
        request_id.set(name)  # never reset: a request has a task, and so a context, of its own
        await self.app(scope, receive, _adding(send, [(b"x-request-id", given)]))


class AccessLog:
    """Logs one line and records one span for each request, with the fields that the route added
    (`logs.describe`).

    The span is a child of the caller's where the request has a W3C traceparent. `path` is logged
    where it differs from the route's template. Probes come every few seconds: they are logged at
    DEBUG and have no span.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status: int | None = None  # stays None when the client left before the reply

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
                level = logging.DEBUG if probe else logging.INFO
                _log_request(scope, status, took, described, level)
                if span is not None:
                    _set_attributes(span, scope, status, described)


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


def _set_attributes(
    span: tracing.Span, scope: Scope, status: int | None, described: Mapping[str, object]
) -> None:
    """Set the span's attributes, under OpenTelemetry's names where it has any, else the log's."""
    method, route = scope["method"][:METHOD_LIMIT], route_of(scope)
    if route is not None:
        span.rename(f"{method} {route}")
    span.set({"http.request.method": method, "http.route": route})
    span.set({"http.response.status_code": status, "request_id": request_id.get()})
    span.set({name: str(value) for name, value in described.items()})
    if status is not None and status >= 500:
        span.fail(str(status))


def route_of(scope: Scope) -> str | None:
    """Return the template of the request's route ("/settlements/{id}"); None without a route."""
    path: str | None = getattr(scope.get("route"), "path", None)
    return path


def _printable(path: str) -> str:
    """Return a path for the log: printable characters only, PATH_LIMIT at most."""
    path = path[:PATH_LIMIT]
    if path.isprintable():
        return path
    return "".join(char if char.isprintable() else "?" for char in path)


class SecurityHeaders:
    """Adds the headers that Hono's secureHeaders and Helmet set by default."""

    HEADERS: tuple[Header, ...] = (
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"origin-agent-cluster", b"?1"),
        (b"referrer-policy", b"no-referrer"),
        (b"strict-transport-security", b"max-age=15552000; includeSubDomains"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-dns-prefetch-control", b"off"),
        (b"x-download-options", b"noopen"),
        (b"x-frame-options", b"SAMEORIGIN"),
        (b"x-permitted-cross-domain-policies", b"none"),
        (b"x-xss-protection", b"0"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            send = _adding(send, self.HEADERS)
        await self.app(scope, receive, send)


class CORS:
    """Allows every origin to call and read. No cookies are used, so `*` gives nothing away."""

    EVERY_REPLY: tuple[Header, ...] = (
        (b"access-control-allow-origin", b"*"),
        (
            b"access-control-expose-headers",
            b"X-Payment-Requirement,WWW-Authenticate,PAYMENT-REQUIRED,PAYMENT-RESPONSE",
        ),
    )
    PREFLIGHT: tuple[Header, ...] = (
        *EVERY_REPLY,
        (b"access-control-allow-methods", b"GET,POST,OPTIONS"),
        (
            b"access-control-allow-headers",
            b"Content-Type,X-Payment,X-Payment-Proof,Authorization,PAYMENT-SIGNATURE,"
            b"Idempotency-Key",
        ),
    )

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            headers = list(self.PREFLIGHT)
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self.app(scope, receive, _adding(send, self.EVERY_REPLY))


def _adding(send: Send, headers: Iterable[Header]) -> Send:
    """Return a `send` that adds `headers` to a reply, in a new list: replies may be shared."""

    async def adding_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return adding_send


# What clients of the standard dialect require in every reply, whatever its status.
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
            error = {**members, "error": "Too many requests in flight", "timestamp": unix_ms()}
            await json_reply(error, 503, retry_after=1)(scope, receive, send)
            return
        self.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_flight -= 1


class CatchErrors:
    """Replies to every exception of the routes, whose text goes to the log alone.

    A reply that has started cannot be replaced. The exception then reaches the server, which logs
    it and closes the connection, so that the client sees that the reply is cut off.
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
                refusal = {"error": str(error), "timestamp": unix_ms()}
                await json_reply(refusal, error.status)(scope, receive, send)
                return
            path = _printable(scope["path"])
            event(_log, logging.ERROR, "unhandled_error", path=path, exc_info=error)
            reply = {
                **_IN_SHAPE.get(scope["path"], {}),
                "error": "Internal server error",
                "message": "An unexpected error occurred",
                "timestamp": unix_ms(),
            }
            await json_reply(reply, 500)(scope, receive, send)

"""Around the routes: a line in the log, a limit on concurrency, an answer to every error."""

import logging
import time

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facilitator.middleware.body import BodyError, ClientDisconnected
from facilitator.middleware.headers import Header
from facilitator.telemetry import event, get_logger

PATH_LIMIT = 200  # characters of a path in the log
METHOD_LIMIT = 20  # of a method, for which HTTP has no limit; the longest registered one has 17
PROBES = frozenset({"/health", "/ready"})

_log = get_logger("facilitator.http")


class AccessLog:
    """One line a request. Probes come every few seconds and are not worth a line at INFO."""

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
        try:
            await self.app(scope, receive, noting_send)
        finally:
            event(
                _log,
                logging.DEBUG if scope["path"] in PROBES else logging.INFO,
                "request",
                method=scope["method"][:METHOD_LIMIT],
                path=_printable(scope["path"]),
                status=status,
                duration_ms=round((time.perf_counter() - start) * 1000, 2),
            )


def _printable(path: str) -> str:
    """A path for the log: no control, direction or surrogate characters, PATH_LIMIT long."""
    path = path[:PATH_LIMIT]
    if path.isprintable():
        return path
    return "".join(char if char.isprintable() else "?" for char in path)


# What clients of the standard dialect look for in a reply that is no 200, whatever it says.
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
    """Answer at most `limit` requests at once. Probes pass: a busy service is alive and ready."""

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
    """Answer for what the routes let escape; what went wrong is for the log alone.

    A reply that has started cannot be taken back: the error goes on to the server, which logs it
    and closes the connection, so that the client sees a reply cut off and not one that looks whole.
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
                "error": "Internal server error",
                "message": "An unexpected error occurred",
                "timestamp": _now_ms(),
            }
            await _send_json(send, 500, reply)


async def send_not_found(scope: Scope, send: Send) -> None:
    """The reply to an unknown path, for layers that let nobody through."""
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

"""Layers that add headers to every reply: request id, security headers, CORS."""

import re
import secrets
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facilitator.telemetry.logs import request_id

Header = tuple[bytes, bytes]


class RequestId:
    """Names every request: by its own X-Request-Id where that is harmless, else at random."""

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


def header(headers: Iterable[Header], wanted: bytes) -> bytes | None:
    """Return the first value of the header `wanted`, a name in lower case; None without one."""
    for name, value in headers:
        if name == wanted:
            return value
    return None

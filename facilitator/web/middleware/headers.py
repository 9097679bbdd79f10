"""The headers that every reply carries: request id, security headers, CORS."""

import re
import secrets
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facilitator.telemetry.logs import request_id

Header = tuple[bytes, bytes]


class RequestId:
    """Name every request: by its own X-Request-Id when that is harmless, else at random."""

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
    """What Hono's secureHeaders and Helmet set by default, on every reply."""

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
    """Any origin may call and read. No cookies are involved, so `*` gives nothing away."""

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
    """`send` with `headers` on every reply. The list is a new one: replies may be shared."""

    async def adding_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return adding_send


def header(headers: Iterable[Header], wanted: bytes) -> bytes | None:
    """The first value of the header `wanted`, a name in lower case."""
    for name, value in headers:
        if name == wanted:
            return value
    return None

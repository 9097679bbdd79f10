"""Hypercorn, kept to HTTP/1.x.

Hypercorn (0.18) takes a cleartext connection over to HTTP/2 for any client that asks, with
`Upgrade: h2c` or with HTTP/2's preface, and no setting stops it: `alpn_protocols` is about TLS
alone. When such a client closes at once, the task that writes waits for ever, the connection's task
waits for that one, and a stop waits for both until the grace is over. A WebSocket handshake with a
fault is refused, but its connection then stays open for as long as the client likes.

Neither protocol is needed: proxies speak HTTP/1.1 to the services behind them. So the parser here
refuses every request that asks for another one.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import hypercorn.asyncio
import hypercorn.protocol
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ASGIFramework

from facilitator.web.middleware import CORS, SecurityHeaders

# The scheme and authority before a target's path (RFC 3986 section 3).
_ABSOLUTE = re.compile(rb"\A[hH][tT][tT][pP][sS]?://[^/?#]*")


class HTTP1Connection(h11.Connection):
    """The server's end of a connection, on which nothing but HTTP/1.x is ever asked for.

    `Upgrade` is left out of requests, as RFC 9110 section 7.8 allows: they are answered over
    HTTP/1.1. `next_event` raises RemoteProtocolError, with the status to answer, for what is
    refused. From then on, or once somebody has set `over`, whatever comes is the end: bytes behind
    a refusal are never taken for a request.
    """

    over = False

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.over:
            return h11.ConnectionClosed()
        event = super().next_event()
        if not isinstance(event, h11.Request):
            return event
        status = _refusal(event)
        if status is not None:
            self.over = True
            raise h11.RemoteProtocolError("refused", error_status_hint=status)
        return _as_served(event)


def _refusal(request: h11.Request) -> int | None:
    """Return the status with which a request is refused that h11 can parse; None for a good one."""
    # also HTTP/2's preface, which is a request for `PRI * HTTP/2.0` (RFC 9113 section 3.4)
    if not request.http_version.startswith(b"1."):
        return 505
    names = {name for name, _ in request.headers}
    # RFC 9112 section 6.1: a proxy may have gone by the other one, and smuggle what follows.
    if {b"content-length", b"transfer-encoding"} <= names:
        return 400
    # RFC 6455 section 4.2.1; of other methods it is no handshake
    if b"upgrade" in names and request.method == b"GET" and b"websocket" in _upgrades(request):
        return 400
    return None


def _upgrades(request: h11.Request) -> set[bytes]:
    values = [value for name, value in request.headers if name == b"upgrade"]
    return {protocol.strip().lower() for value in values for protocol in value.split(b",")}


def _as_served(request: h11.Request) -> h11.Request:
    """Return the request without `Upgrade`, and with the path alone as its target: RFC 9112 section
    3.2.2 has a server accept `http://host/path` as well.
    """
    kept = [(name, value) for name, value in request.headers if name != b"upgrade"]
    target = _ABSOLUTE.sub(b"", request.target) or b"/"
    if len(kept) == len(request.headers) and target == request.target:
        return request
    if target.startswith(b"?"):
        target = b"/" + target
    return h11.Request(
        method=request.method, target=target, headers=kept, http_version=request.http_version
    )


class HTTP1Protocol(H11Protocol):
    """Hypercorn's side of HTTP/1.x, with that connection. Its own refusals (a malformed request's)
    carry the headers that the application's replies carry.

    It also lets go of a connection that is over, which Hypercorn (0.18) does not. It goes on timing
    it as an idle one: three tasks of each stay until that time is up. And a second request, sent
    before the first was answered, waits for its turn when no turn comes any more: then the reader's
    task stays for ever, or until a stop has waited for the whole grace.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        limit = self.config.h11_max_incomplete_size
        self.requests = HTTP1Connection(h11.SERVER, max_incomplete_event_size=limit)
        self.connection = self.requests
        self.to_socket = self.send
        self.send = self._send
        self.gone = False

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):  # the client has, or it was idle for too long
            self.gone = True
            await self._end()
            await self.send(Updated(idle=False))  # stops the clock, and nothing else

    async def _send(self, event: Event) -> None:
        if isinstance(event, Closed):  # from here on, by the server
            await self._end()
        await self.to_socket(event)

    async def _end(self) -> None:
        self.requests.over = True
        await self.can_read.set()  # whoever waits for a turn sees that it is over

    async def _maybe_recycle(self) -> None:
        await super()._maybe_recycle()  # which starts the clock
        if self.gone:
            await self.send(Updated(idle=False))

    async def _send_error_response(self, status_code: int) -> None:
        headers = [
            (b"content-length", b"0"),
            (b"connection", b"close"),
            *CORS.EVERY_REPLY,
            *SecurityHeaders.HEADERS,
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.EndOfMessage())


async def serve(
    app: ASGIFramework, config: Config, *, shutdown_trigger: Callable[[], Awaitable[object]]
) -> None:
    """Run Hypercorn's `serve`, which speaks only HTTP/1.x from here on, in the whole process."""
    # Where Hypercorn looks the class up for each connection; it takes none as an argument.
    hypercorn.protocol.H11Protocol = HTTP1Protocol  # type: ignore[attr-defined]
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=shutdown_trigger)

"""The command `serve`: the application on Hypercorn, one process, one event loop, HTTP/1.x alone.

Hypercorn's defaults lose settlements: its grace of 3 s cancels requests in flight, and its idle
time of 5 s closes connections that a load balancer is about to use.

Hypercorn (0.18) also switches a cleartext connection to HTTP/2 for any client that asks, with
`Upgrade: h2c` or with HTTP/2's preface, and no setting prevents it: `alpn_protocols` is about TLS
alone. When such a client closes at once, the task that writes waits for ever, the connection's task
waits for that one, and a stop waits for both until the grace is over. A WebSocket handshake with a
fault is refused, but its connection then stays open for as long as the client likes. Neither
protocol is needed: proxies speak HTTP/1.1 to the services behind them. So the parser here refuses
every request that asks for another one.
"""

import asyncio
import gc
import importlib.util
import logging
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import h11
import hypercorn.asyncio
import hypercorn.protocol
import uvloop
from hypercorn.config import Config as ServerConfig
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ASGIFramework
from hypercorn.utils import LifespanFailureError
from msgspec.structs import replace

from facilitator.config.database import PostgreSQL
from facilitator.config.settings import Config, load_config
from facilitator.telemetry.logs import configure_logging, event, get_logger, log_uncaught
from facilitator.telemetry.redaction import add_secret
from facilitator.telemetry.tracing import configure_tracing
from facilitator.web.app import create_app
from facilitator.web.middleware import CORS, SecurityHeaders

_log = get_logger(__name__)

# Seconds beyond the settle timeout, so that every settlement still gets its reply.
GRACE_MARGIN = 5
# Seconds; above the idle time of the common load balancers (60).
KEEP_ALIVE = 75
BACKLOG = 1024
DESCRIPTORS = 65_536
# New objects between two runs of the garbage collector. Python's default of 700 is reached every
# few requests, and the collector then took an eighth of the CPU time.
GC_THRESHOLD = 10_000
# Requests on one connection: a client whose next POST meets the closing gets an error.
KEEP_ALIVE_REQUESTS = 1_000_000
# The scheme and authority before a target's path (RFC 3986 section 3).
_ABSOLUTE = re.compile(rb"\A[hH][tT][tT][pP][sS]?://[^/?#]*")

# Written in C on libuv: a request takes a tenth less CPU time than on asyncio's own loop.
new_event_loop = uvloop.new_event_loop


async def run() -> int:
    """Serve until SIGTERM or SIGINT, of which a second one ends the process at once. Return the
    exit code. Raises ConfigError.
    """
    config = load_config(os.environ)
    _raise_descriptor_limit()
    start_logging(config)
    ports = [config.port]
    if config.metrics and config.metrics_port is not None:
        ports.append(config.metrics_port)
    listeners = []
    for port in ports:
        try:
            listeners.append(listen(config.host, port))
        except OSError as error:
            where = f"{config.host}:{port}"
            print(f"error: cannot listen on {where}: {error.strerror}", file=sys.stderr)
            return 1
    config = replace(config, port=listeners[0].getsockname()[1])
    if len(listeners) > 1:
        config = replace(config, metrics_port=listeners[1].getsockname()[1])
    server = server_config(config, [each.detach() for each in listeners])  # Hypercorn closes them
    app = cast(ASGIFramework, create_app(config))
    async with _recording(config):
        spare_the_collector()
        try:
            await serve(app, server, shutdown_trigger=stop_signal)
        except LifespanFailureError:
            return 1  # the application has logged why
    return 0


@asynccontextmanager
async def _recording(config: Config) -> AsyncIterator[None]:
    """Send spans to a collector inside the block, where one is configured."""
    if config.tracing is None:
        yield
        return
    if importlib.util.find_spec("opentelemetry") is None:
        event(_log, logging.WARNING, "traces_off", why="the extra `otel` is not installed")
        yield
        return
    # Only now: it takes a third of a second, and is an extra.
    from facilitator.telemetry.otlp import OTLPTracer  # noqa: PLC0415

    tracer = OTLPTracer(config.tracing)
    configure_tracing(tracer)
    try:
        yield
    finally:
        configure_tracing(None)
        await asyncio.to_thread(tracer.close)


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def server_config(config: Config, listeners: Sequence[int]) -> ServerConfig:
    """Return Hypercorn's settings; `listeners` are the descriptors of bound sockets."""
    server = ServerConfig()
    server.bind = [f"fd://{each}" for each in listeners]
    server.backlog = BACKLOG
    server.graceful_timeout = config.settle_timeout + GRACE_MARGIN
    server.shutdown_timeout = config.settle_timeout + 2 * GRACE_MARGIN
    server.keep_alive_timeout = KEEP_ALIVE
    server.keep_alive_max_requests = KEEP_ALIVE_REQUESTS
    server.include_server_header = False
    server.accesslog = None
    server.errorlog = get_logger("hypercorn.error")
    return server


async def stop_signal() -> None:
    """Return at the first SIGTERM or SIGINT; from then on they end the process as usual."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


def spare_the_collector() -> None:
    """Exempt all objects that exist by now from garbage collection: they live as long as the
    process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])


def _raise_descriptor_limit() -> None:
    """Raise the limit of open descriptors, which is 1,024 on many systems: thousands of requests
    are answered at once, and clients keep as many idle connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def start_logging(config: Config) -> None:
    """Write everything that this process logs as lines in which the configured secrets are
    redacted. Raises ConfigError where a password file cannot be read.
    """
    for key in config.keys:
        add_secret(key.secret.hex())
    if isinstance(config.database, PostgreSQL):
        for database in (config.database, config.database.direct or config.database):
            password = database.read_password()
            if password is not None:
                add_secret(password)
    for network in config.networks.values():
        for url in network.rpc_urls:
            if network.explicit_rpc:
                add_secret(url)
    for secret in () if config.tracing is None else config.tracing.secrets:
        add_secret(secret)
    configure_logging(config.log_format, config.log_level)
    log_uncaught()


class HTTP1Connection(h11.Connection):
    """The server's end of a connection, which passes on only requests for HTTP/1.x.

    It drops `Upgrade` from requests, as RFC 9110 section 7.8 allows: they are answered over
    HTTP/1.1. `next_event` raises RemoteProtocolError, with the status of the reply, for a request
    that is refused. After a refusal, or once `over` is set, every event is the end of the
    connection: bytes behind a refusal are never taken for a request.
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
    """Return the status that refuses a request which h11 has parsed; None for a good one."""
    # also HTTP/2's preface, which is a request for `PRI * HTTP/2.0` (RFC 9113 section 3.4)
    if not request.http_version.startswith(b"1."):
        return 505
    names = {name for name, _ in request.headers}
    # RFC 9112 section 6.1: a proxy that used the other one may let a second request through.
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
    """Return the request without `Upgrade`, and with the path alone as its target: by RFC 9112
    section 3.2.2 a server accepts `http://host/path` as well.
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
    """Hypercorn's protocol for HTTP/1.x on an HTTP1Connection. Its own error replies, as to a
    malformed request, carry the headers that the application's replies carry.

    It also releases a connection that is over, which Hypercorn (0.18) does not. Hypercorn goes on
    running the connection's idle timer, and until that ends three tasks stay. And a second request
    that was sent before the first was answered waits for a turn that never comes: the reader's task
    stays for ever, or until a stop has waited for the whole grace.
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
        if isinstance(event, Closed):  # by the client, or by the idle timer
            self.gone = True
            await self._end()
            await self.send(Updated(idle=False))  # stops the idle timer, and nothing else

    async def _send(self, event: Event) -> None:
        if isinstance(event, Closed):  # by the server
            await self._end()
        await self.to_socket(event)

    async def _end(self) -> None:
        self.requests.over = True
        await self.can_read.set()  # wakes the reader, which sees that the connection is over

    async def _maybe_recycle(self) -> None:
        await super()._maybe_recycle()  # which starts the idle timer
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
    app: ASGIFramework, config: ServerConfig, *, shutdown_trigger: Callable[[], Awaitable[object]]
) -> None:
    """Run Hypercorn's `serve`. From here on Hypercorn speaks only HTTP/1.x in the whole process."""
    # Hypercorn looks the class up here for each connection; no argument of its sets another one.
    hypercorn.protocol.H11Protocol = HTTP1Protocol  # type: ignore[attr-defined]
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=shutdown_trigger)

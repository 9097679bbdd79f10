"""The command `serve`: the application on Hypercorn, one process, one event loop.

Hypercorn's defaults lose settlements: its grace of 3 s cancels requests in flight, and its idle
time of 5 s closes connections that a load balancer is about to use.
"""

import asyncio
import gc
import importlib.util
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import uvloop
from hypercorn.config import Config as ServerConfig
from hypercorn.typing import ASGIFramework
from hypercorn.utils import LifespanFailureError
from msgspec.structs import replace

from facilitator.config.database import PostgreSQL
from facilitator.config.settings import Config, load_config
from facilitator.telemetry.logs import configure_logging, event, get_logger, log_uncaught
from facilitator.telemetry.redaction import add_secret
from facilitator.telemetry.tracing import configure_tracing
from facilitator.web.app import create_app
from facilitator.web.http1 import serve

_log = get_logger(__name__)

# Seconds; beyond the settle timeout, so that every settlement still gets its reply.
GRACE_MARGIN = 5
# Seconds; above the idle time of the common load balancers (60).
KEEP_ALIVE = 75
BACKLOG = 1024
DESCRIPTORS = 65_536
# New objects between two runs of the garbage collector. Python's default of 700 are a few requests'
# worth, and the collector then took an eighth of the CPU time.
GC_THRESHOLD = 10_000
# Requests a connection: closing one under a client's next POST costs it an error.
KEEP_ALIVE_REQUESTS = 1_000_000


# In C on libuv: a tenth less CPU time a request than asyncio's own loop.
new_event_loop = uvloop.new_event_loop


async def run() -> int:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once. Return the exit code.
    Raises ConfigError.
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
    """Have the garbage collector skip all that exists by now: it stays for the process's life."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, *gc.get_threshold()[1:])


def _raise_descriptor_limit() -> None:
    """Raise the limit of open descriptors: thousands of requests are answered at once and clients
    keep as many idle connections, while many systems start a process with a limit of 1,024.
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

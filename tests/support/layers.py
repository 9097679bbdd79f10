"""The layers around routes of every kind on a real Hypercorn, and a client with a bare socket."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from facilitator.telemetry.logs import request_id
from facilitator.web.body import read_body
from facilitator.web.middleware import layers
from facilitator.web.server import serve

LIMIT = 65_536
CONCURRENCY = 3
POST = b"POST %s HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
PATIENCE = 60.0  # seconds: a server that hangs fails a test, a machine that is busy does not
CHUNK = b"c350\r\n" + b"x" * 50_000 + b"\r\n"


class Service:
    """Routes that treat their bodies in every way, and the port that they answer on."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.port = 0
        self.gate = asyncio.Event()
        self.stop = asyncio.Event()
        self.waiting = 0
        self.shared = PlainTextResponse("one object for every request")
        self.app = Starlette(
            routes=[
                Route("/health", self.ignoring),
                Route("/ready", self.ignoring),
                Route("/echo", self.echo, methods=["POST"]),
                Route("/ignoring", self.ignoring, methods=["GET", "POST"]),
                Route("/broken", self.broken, methods=["GET", "POST"]),
                Route("/cut-off", self.cut_off),
                Route("/gate", self.wait, methods=["GET", "POST"]),
                Route("/named", self.named),
            ],
            middleware=layers(concurrency=CONCURRENCY),
        )

    async def echo(self, request: Request) -> Response:
        headers = request.scope["headers"]
        return Response(await read_body(request.receive, headers, deadline=self.deadline))

    async def ignoring(self, _request: Request) -> Response:
        return self.shared

    async def broken(self, _request: Request) -> Response:
        raise RuntimeError("hunter2")

    async def cut_off(self, _request: Request) -> Response:
        async def halves() -> AsyncIterator[str]:
            yield "first half"
            raise RuntimeError("hunter2")

        return StreamingResponse(halves())

    async def wait(self, request: Request) -> Response:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        return self.shared

    async def named(self, request: Request) -> Response:
        return JSONResponse([request.state.request_id, request_id.get()])

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@asynccontextmanager
async def serving(deadline: float = 10.0) -> AsyncIterator[Service]:
    """Hypercorn on a free loopback port. At the end no request may have left anything behind."""
    service = Service(deadline)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    service.port = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.keep_alive_timeout = 75  # nothing that a client leaves may last that long
    app = cast(ASGIFramework, service.app)
    server = asyncio.create_task(serve(app, config, shutdown_trigger=service.stop.wait))
    try:
        idle = await _idle(service)
        yield service
        await settled(lambda: len(asyncio.all_tasks()) <= idle)
    finally:
        service.stop.set()
        await server


async def _idle(service: Service) -> int:
    """Return the number of tasks once the server has answered a request and that one has ended."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(ConnectionRefusedError):
                reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                await reader.read()
                writer.close()
                await writer.wait_closed()
                break
            await asyncio.sleep(0.01)
        counts = [0]
        while len(counts) < 5 or len(set(counts[-5:])) > 1:
            await asyncio.sleep(0.01)
            counts.append(len(asyncio.all_tasks()))
    return counts[-1]


async def settled(condition: Any) -> None:
    """Wait until `condition()` holds; it must within PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, [task.get_coro() for task in asyncio.all_tasks()]
        await asyncio.sleep(0.01)


class Raw:
    """A client that may do to its socket what a well-behaved one would not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.started = time.monotonic()

    def write(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)

    async def reply(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """One whole reply, by its Content-Length: the connection need not be closed."""
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
        return int(head[0].split()[1]), headers, body

    async def closed(self) -> None:
        """Return once the server has closed, by an end or by a reset."""
        try:
            while await asyncio.wait_for(self.reader.read(65_536), PATIENCE):
                pass
        except ConnectionError:
            pass

    @property
    def age(self) -> float:
        return time.monotonic() - self.started


@asynccontextmanager
async def raw(service: Service) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def requests_logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "event", "") == "request"]

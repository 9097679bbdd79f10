"""Laws of the layers around the routes, over a real Hypercorn and real sockets."""

import asyncio
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded
from hypercorn.asyncio import serve
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from facilitator.middleware import CORS, SecurityHeaders, layers, read_body
from facilitator.telemetry import JSONFormatter, TextFormatter, request_id

pytestmark = pytest.mark.anyio

LIMIT = 65_536
CONCURRENCY = 3
POST = b"POST %s HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"c350\r\n" + b"x" * 50_000 + b"\r\n"

# --- a service


class Service:
    """Routes that treat their bodies in every way, and the port that they answer on."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.port = 0
        self.gate = asyncio.Event()
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
    config.keep_alive_timeout = 0.1
    stop = asyncio.Event()
    app = cast(ASGIFramework, service.app)
    server = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))
    try:
        await asyncio.sleep(0.05)
        idle = len(asyncio.all_tasks())
        yield service
        await settled(lambda: len(asyncio.all_tasks()) <= idle, seconds=4)
    finally:
        stop.set()
        await server


async def settled(condition: Any, seconds: float) -> None:
    """Wait until `condition()` holds; it must within `seconds`."""
    deadline = time.monotonic() + seconds
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
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
        return int(head[0].split()[1]), headers, body

    async def closed(self) -> None:
        """Return once the server has closed, by an end or by a reset."""
        try:
            while await asyncio.wait_for(self.reader.read(65_536), 5):
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


# --- bodies


@pytest.mark.parametrize("size", [0, 1, 1500, LIMIT - 1, LIMIT])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_up_to_the_limit_is_read_whole(size: int, chunked: bool) -> None:
    body = bytes(i % 251 for i in range(size))
    async with serving() as service, raw(service) as client:
        if chunked:
            client.write(POST % b"/echo" + CHUNKED)
            for start in range(0, size, 5000):
                part = body[start : start + 5000]
                client.write(b"%x\r\n" % len(part), part, b"\r\n")
            client.write(b"0\r\n\r\n")
        else:
            client.write(POST % b"/echo" + b"Content-Length: %d\r\n\r\n" % size, body)
        status, _, echoed = await client.reply()
        assert (status, echoed) == (200, body)


async def test_a_body_is_whole_however_the_network_cuts_it() -> None:
    body = b"0123456789" * 3
    async with serving() as service, raw(service) as client:
        client.write(POST % b"/echo" + b"Content-Length: %d\r\n\r\n" % len(body))
        for start in range(0, len(body), 7):
            await asyncio.sleep(0.01)
            client.write(body[start : start + 7])
        status, _, echoed = await client.reply()
        assert (status, echoed) == (200, body)


@pytest.mark.parametrize("announced", [b"65537", b"10000000", b"9" * 18, b"9" * 19, b"9" * 20])
async def test_an_announced_excess_is_refused_unread(announced: bytes) -> None:
    async with serving() as service, raw(service) as client:
        client.write(POST % b"/echo" + b"Content-Length: %s\r\n\r\n" % announced)
        status, _, body = await client.reply()
        assert status == 413
        assert json.loads(body)["error"] == "Request body exceeds 65536 bytes"
        assert client.age < 1


async def test_a_chunked_body_is_refused_at_the_first_byte_over() -> None:
    """The reply comes though the client has neither ended its body nor sent more."""
    async with serving() as service, raw(service) as client:
        client.write(POST % b"/echo" + CHUNKED, b"10000\r\n", b"x" * LIMIT, b"\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.2)
        client.write(b"1\r\nx\r\n")
        status, _, body = await client.reply()
        assert status == 413
        assert json.loads(body)["error"] == "Request body exceeds 65536 bytes"


@pytest.mark.parametrize(
    "chunk", [pytest.param(CHUNK, id="large"), pytest.param(b"1\r\nx\r\n" * 10_000, id="tiny")]
)
async def test_an_endless_body_is_cut_off(chunk: bytes) -> None:
    """The client that never stops hears 413 at once and loses its connection soon after.

    Tiny chunks fill the server's queue of a request again as fast as it is emptied.
    """
    async with serving() as service, raw(service) as client:
        client.write(POST % b"/echo" + CHUNKED)

        async def endlessly() -> None:
            while True:
                client.write(chunk)
                await client.writer.drain()

        sending = asyncio.create_task(endlessly())
        status, _, _ = await client.reply()
        assert status == 413
        assert client.age < 1
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, 5)


@pytest.mark.parametrize("pause", [0.05, 0.8])
async def test_a_slow_body_is_cut_off_at_the_deadline(pause: float) -> None:
    """A byte now and then buys no time, and neither does silence."""
    async with serving(deadline=0.3) as service, raw(service) as client:
        client.write(POST % b"/echo" + b"Content-Length: 1000\r\n\r\n")

        async def dribble() -> None:
            while True:
                client.write(b"x")
                await asyncio.sleep(pause)

        sending = asyncio.create_task(dribble())
        status, _, body = await client.reply()
        assert status == 408
        assert json.loads(body)["error"] == "Request body took longer than 0.3 s"
        assert 0.29 < client.age < 0.75
        await client.closed()
        assert client.age < 5
        sending.cancel()


async def test_a_client_that_leaves_amid_its_body_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as service:
        async with raw(service) as client:
            client.write(POST % b"/echo" + b"Content-Length: 1000\r\n\r\nhalf")
            await asyncio.sleep(0.1)
        await settled(lambda: requests_logged(caplog), seconds=2)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    (line,) = requests_logged(caplog)
    assert "status=-" in TextFormatter().format(line)


async def test_clients_that_leave_amid_a_body_give_their_slots_back() -> None:
    async with serving() as service:
        for _ in range(3 * CONCURRENCY):
            async with raw(service) as client:
                client.write(POST % b"/echo" + b"Content-Length: 1000\r\n\r\nhalf")
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
        async with raw(service) as client:
            client.write(b"GET /ignoring HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.reply())[0] == 200


@pytest.mark.parametrize("path", ["/ignoring", "/broken", "/missing"])
@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
async def test_an_unread_body_does_not_cost_the_connection(size: int, path: str) -> None:
    """Whoever has its body read off in time goes on with the same connection."""
    async with serving() as service, raw(service) as client:
        for _ in range(3):
            head = POST % path.encode() + b"Content-Length: %d\r\n\r\n" % size
            client.write(head, b"x" * size)
            status, headers, _ = await client.reply()
            assert status in (200, 404, 500)
            assert b"connection" not in headers
            await client.writer.drain()


async def test_a_reply_is_not_held_up_by_an_unread_body() -> None:
    async with serving() as service, raw(service) as client:
        client.write(POST % b"/ignoring" + b"Content-Length: 1000\r\n\r\nhalf")
        status, _, body = await client.reply()
        assert (status, body) == (200, service.shared.body)
        assert client.age < 0.5


async def test_who_sends_10_mb_in_one_go_hears_why_it_was_refused() -> None:
    """A blocking client that reads only after its last byte, as many do."""

    def send_then_read(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = POST % b"/echo" + b"Content-Length: 10000000\r\n\r\n"
            client.sendall(head + b"x" * 10_000_000)
            return client.recv(65_536)

    async with serving() as service:
        for _ in range(3):
            reply = await asyncio.to_thread(send_then_read, service.port)
            assert reply.startswith(b"HTTP/1.1 413 ")
            assert b"Request body exceeds 65536 bytes" in reply


@pytest.mark.parametrize("path", ["/echo", "/ignoring", "/broken", "/missing", "/gate"])
@pytest.mark.parametrize("sent", [0, 1000, 500_000])
async def test_a_client_that_leaves_before_its_unread_body_is_sent_leaves_nothing(
    path: str, sent: int
) -> None:
    """`serving` waits for every task of the request to end."""
    async with serving() as service:
        async with raw(service) as client:
            head = POST % path.encode() + b"Content-Length: 1000000\r\n\r\n"
            client.write(head, b"x" * sent)
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.05)
        service.gate.set()


# --- headers


@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("GET", "/ignoring", 0, 200),
        ("HEAD", "/ignoring", 0, 200),
        ("POST", "/echo", 10, 200),
        ("POST", "/echo", LIMIT + 1, 413),
        ("GET", "/missing", 0, 404),
        ("DELETE", "/echo", 0, 405),
        ("GET", "/broken", 0, 500),
        ("OPTIONS", "/echo", 0, 204),
    ],
)
async def test_every_reply_carries_every_header_once(
    method: str, path: str, size: int, status: int
) -> None:
    expected = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN",
        "Referrer-Policy": "no-referrer",
        "Strict-Transport-Security": "max-age=15552000; includeSubDomains",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": (
            "X-Payment-Requirement,WWW-Authenticate,PAYMENT-REQUIRED,PAYMENT-RESPONSE"
        ),
    }
    async with serving() as service, aiohttp.ClientSession() as session:
        for _ in range(2):  # a reply object that serves twice must not collect headers
            body = b"x" * size or None
            async with session.request(method, service.url(path), data=body) as response:
                assert response.status == status
                for name, value in expected.items():
                    assert response.headers.getall(name) == [value]
                for header, _ in SecurityHeaders.HEADERS:
                    assert len(response.headers.getall(header.decode())) == 1
                assert len(response.headers.getall("X-Request-Id")) == 1


@pytest.mark.parametrize("path", ["/", "/echo", "/broken", "/missing/at/all?query"])
async def test_a_preflight_is_answered_on_any_path(path: str) -> None:
    asks = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-payment",
    }
    async with (
        serving() as service,
        aiohttp.ClientSession() as session,
        session.options(service.url(path), headers=asks) as response,
    ):
        assert response.status == 204
        assert await response.read() == b""
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Access-Control-Allow-Methods"] == "GET,POST,OPTIONS"
        allowed = response.headers["Access-Control-Allow-Headers"].split(",")
        assert allowed == [
            "Content-Type",
            "X-Payment",
            "X-Payment-Proof",
            "Authorization",
            "PAYMENT-SIGNATURE",
            "Idempotency-Key",
        ]
        assert "Content-Length" not in response.headers


async def test_head_is_get_without_a_body() -> None:
    async with serving() as service, raw(service) as client:
        for path in (b"/ignoring", b"/health", b"/missing", b"/broken"):
            got = []
            for method in (b"GET", b"HEAD"):
                client.write(b"%s %s HTTP/1.1\r\nHost: x\r\n\r\n" % (method, path))
                head = (await client.reader.readuntil(b"\r\n\r\n")).lower()
                length = int(re.findall(rb"content-length: (\d+)", head)[0])
                if method == b"GET":
                    await client.reader.readexactly(length)
                got.append((head.split(b"\r\n")[0], length))
            assert got[0] == got[1]
        client.write(b"HEAD /ignoring HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        rest = await asyncio.wait_for(client.reader.read(), 5)
        assert rest.endswith(b"\r\n\r\n")
        assert rest.count(b"\r\n\r\n") == 1


# --- request ids


@pytest.mark.parametrize("given", ["a", "A-z_0.9", "0" * 64])
async def test_a_harmless_request_id_is_kept(given: str) -> None:
    async with serving() as service, aiohttp.ClientSession() as session:
        headers = {"X-Request-Id": given}
        async with session.get(service.url("/named"), headers=headers) as response:
            assert response.headers["X-Request-Id"] == given
            assert await response.json() == [given, given]


@pytest.mark.parametrize("given", ["", "0" * 65, "a b", "a\tb", 'a"', "a/b", "<b>", "\xe4"])
async def test_any_other_request_id_is_replaced(given: str) -> None:
    async with serving() as service, raw(service) as client:
        head = f"GET /named HTTP/1.1\r\nHost: x\r\nX-Request-Id: {given}\r\n\r\n"
        client.write(head.encode("latin-1"))
        _, headers, body = await client.reply()
        name = headers[b"x-request-id"].decode()
        assert re.fullmatch(r"[0-9a-f]{16}", name)
        assert json.loads(body) == [name, name]


async def test_requests_without_an_id_get_one_each() -> None:
    async with serving() as service, aiohttp.ClientSession() as session:
        names = set()
        for _ in range(20):
            async with session.get(service.url("/named")) as response:
                names.add(response.headers["X-Request-Id"])
        assert len(names) == 20


# --- the log


async def test_a_request_is_one_line_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as service, aiohttp.ClientSession() as session:
        headers = {"X-Request-Id": "id-1"}
        await session.post(service.url("/echo?secret=1"), data=b"x", headers=headers)
        (line,) = requests_logged(caplog)
    fields = line.__dict__["fields"]
    assert (fields["method"], fields["path"], fields["status"]) == ("POST", "/echo", 200)
    assert 0 < fields["duration_ms"] < 1000
    assert "secret" not in JSONFormatter().format(line)


async def test_probes_are_silent_until_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as service, aiohttp.ClientSession() as session:
        for level, lines in ((logging.INFO, 0), (logging.DEBUG, 2)):
            caplog.clear()
            caplog.set_level(level)
            await session.get(service.url("/health"))
            await session.get(service.url("/ready"))
            assert len(requests_logged(caplog)) == lines


async def test_a_client_cannot_write_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = b"/%0a12:00:00%20INFO%20settled%1b[2J%e2%80%ae%00" + b"x" * 1000
    async with serving() as service, raw(service) as client:
        client.write(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        await client.reply()
        (line,) = requests_logged(caplog)
    assert line.__dict__["fields"]["path"] == ("/?12:00:00 INFO settled?[2J??" + "x" * 1000)[:200]
    assert TextFormatter().format(line).isprintable()


async def test_no_method_makes_a_long_line(caplog: pytest.LogCaptureFixture) -> None:
    """HTTP has no limit for it; Hypercorn's for a whole head is 16 KiB."""
    caplog.set_level(logging.INFO)
    async with serving() as service, raw(service) as client:
        client.write(b"%s /missing HTTP/1.1\r\nHost: x\r\n\r\n" % (b"Q" * 10_000))
        await client.reply()
        (line,) = requests_logged(caplog)
    assert line.__dict__["fields"]["method"] == "Q" * 20


# --- limits and errors


async def test_over_the_limit_one_is_told_to_come_back() -> None:
    async with serving() as service, aiohttp.ClientSession() as session:
        waiting = [
            asyncio.create_task(session.get(service.url("/gate"))) for _ in range(CONCURRENCY)
        ]
        await settled(lambda: service.waiting == CONCURRENCY, seconds=2)
        async with session.get(service.url("/ignoring")) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            reply = await response.json()
            assert reply["error"] == "Too many requests in flight"
            assert abs(reply["timestamp"] - time.time() * 1000) < 5000
        for probe in ("/health", "/ready"):
            async with session.get(service.url(probe)) as response:
                assert response.status == 200
        service.gate.set()
        assert {(await reply).status for reply in waiting} == {200}
        async with session.get(service.url("/ignoring")) as response:
            assert response.status == 200


async def test_an_error_is_told_without_internals_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving() as service,
        aiohttp.ClientSession() as session,
        session.get(service.url("/broken")) as response,
    ):
        assert response.status == 500
        assert response.content_type == "application/json"
        reply = await response.json()
        assert list(reply) == ["error", "message", "timestamp"]
        assert reply["error"] == "Internal server error"
        assert "hunter2" not in reply["message"]
        assert abs(reply["timestamp"] - time.time() * 1000) < 5000
    (error,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert error.__dict__["fields"]["path"] == "/broken"
    assert error.exc_info is not None
    assert "hunter2" in JSONFormatter().format(error)


async def test_a_reply_cut_off_by_an_error_does_not_look_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving() as service,
        aiohttp.ClientSession() as session,
        session.get(service.url("/cut-off")) as response,
    ):
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in errors] == ["hypercorn.error"]
    assert errors[0].exc_info is not None


# --- HTTP/2


@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("GET", "/ignoring", 0, 200),
        ("OPTIONS", "/ignoring", 0, 204),
        ("POST", "/echo", 1500, 200),
        ("POST", "/echo", LIMIT + 1, 413),
        ("POST", "/ignoring", 300_000, 200),
    ],
)
async def test_the_layers_hold_over_http_2(method: str, path: str, size: int, status: int) -> None:
    """No Content-Length is sent, which HTTP/2 allows; two requests share the connection."""
    async with serving() as service, raw(service) as client:
        h2 = H2Connection(H2Configuration(client_side=True))
        h2.initiate_connection()
        client.write(h2.data_to_send())
        for stream in (1, 3):
            got_status, headers, body = await h2_request(h2, client, stream, method, path, size)
            assert got_status == status
            for name, value in (*SecurityHeaders.HEADERS, *CORS.EVERY_REPLY):
                assert headers[name] == value
            if path == "/echo" and status == 200:
                assert body == b"x" * size


async def h2_request(
    h2: H2Connection, client: Raw, stream: int, method: str, path: str, size: int
) -> tuple[int, dict[bytes, bytes], bytes]:
    head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "x")]
    h2.send_headers(stream, head, end_stream=size == 0)
    unsent = size
    status, headers, body = 0, {}, b""
    while True:
        while unsent and (room := min(h2.local_flow_control_window(stream), 16_384, unsent)):
            unsent -= room
            h2.send_data(stream, b"x" * room, end_stream=unsent == 0)
        client.write(h2.data_to_send())
        data = await asyncio.wait_for(client.reader.read(65_536), 5)
        assert data, "connection closed"
        for event in h2.receive_data(data):
            if isinstance(event, ResponseReceived):
                headers = {bytes(name): bytes(value) for name, value in event.headers}
                status = int(headers[b":status"])
            elif isinstance(event, DataReceived):
                body += event.data
                h2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, StreamEnded):
                client.write(h2.data_to_send())
                return status, headers, body

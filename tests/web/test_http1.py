"""Laws of a server that speaks HTTP/1.x and nothing else, over real sockets.

They are about Hypercorn as `facilitator.web.server` runs it: a release of it that finds another way
into HTTP/2 or WebSocket fails here.
"""

import asyncio
import logging

import pytest

from facilitator.web.middleware import CORS, SecurityHeaders
from tests.support.layers import LIMIT, raw, serving, settled
from tests.support.protocols import (
    GET,
    H2C,
    HTTP2_GET,
    IGNORED,
    PREFACE,
    REFUSED,
    WEBSOCKET,
    hang_up,
)

pytestmark = pytest.mark.anyio

MANY = 500
# Each of them ends in a part of Hypercorn of its own.
LEAKY = ("h2c", "HTTP/2", "HTTP/2's preface", "WebSocket", "WebSocket without a key")
ECHO = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
POST_HALF = ECHO + b"Content-Length: 10\r\n\r\n12345"


@pytest.mark.parametrize("kind", LEAKY)
async def test_500_clients_that_hang_up_at_once_leave_no_task(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor a line in the log; and the stop that follows waits for nothing."""
    sent = IGNORED[kind] if kind in IGNORED else REFUSED[kind][0]
    loop = asyncio.get_running_loop()
    async with serving() as service:
        idle = len(asyncio.all_tasks())
        await asyncio.to_thread(hang_up, service.port, sent, MANY)
        await settled(lambda: len(asyncio.all_tasks()) <= idle)
        stopped = loop.time()
    assert loop.time() - stopped < 1
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("kind", IGNORED)
async def test_an_upgrade_is_ignored_and_the_connection_stays_http_1(kind: str) -> None:
    async with serving() as service, raw(service) as client:
        for _ in range(3 if b"1.1" in IGNORED[kind] else 1):
            client.write(IGNORED[kind])
            status, headers, body = await client.reply()
            assert (status, body) == (200, b"one object for every request")
            assert b"upgrade" not in headers


@pytest.mark.parametrize("kind", REFUSED)
async def test_another_protocol_is_refused_and_the_connection_closed(kind: str) -> None:
    """Also when the client stays: it has no way to hold the connection. Asked for on a connection
    that has served a request, too.
    """
    sent, status = REFUSED[kind]
    for before in (0, 1):
        async with serving() as service, raw(service) as client:
            for _ in range(before):
                client.write(GET + b"\r\n")
                assert (await client.reply())[0] == 200
            client.write(sent)
            got, _, body = await client.reply()
            assert (got, body) == (status, b"")
            assert await asyncio.wait_for(client.reader.read(), 5) == b""


@pytest.mark.parametrize(
    "framed",
    [
        b"Content-Length: 1500\r\n\r\n" + b"x" * 1500,
        b"Transfer-Encoding: chunked\r\n\r\n5dc\r\n" + b"x" * 1500 + b"\r\n0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("asks", [H2C, WEBSOCKET], ids=["h2c", "WebSocket"])
async def test_a_post_that_asks_for_an_upgrade_is_answered_over_http_1(
    asks: bytes, framed: bytes
) -> None:
    """With its body; and what follows on the connection is the next request."""
    async with serving() as service, raw(service) as client:
        client.write((ECHO + asks + framed) * 3 + GET + b"\r\n")
        for _ in range(3):
            status, _, body = await client.reply()
            assert (status, body) == (200, b"x" * 1500)
        assert (await client.reply())[2] == b"one object for every request"


async def test_a_post_over_the_limit_that_asks_for_an_upgrade_is_413() -> None:
    async with serving() as service, raw(service) as client:
        client.write(ECHO + H2C + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1), b"x" * (LIMIT + 1))
        assert (await client.reply())[0] == 413


@pytest.mark.parametrize("asks", [b"", H2C, WEBSOCKET], ids=["nothing", "h2c", "WebSocket"])
async def test_nothing_is_smuggled_behind_a_body_of_two_lengths(asks: bytes) -> None:
    """RFC 9112 section 6.1: what one side takes for a body, the other may take for a request."""
    smuggled = b"0\r\n\r\nGET /named HTTP/1.1\r\nHost: x\r\n\r\n"
    for lengths in (
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(smuggled),
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
    ):
        async with serving() as service, raw(service) as client:
            client.write(ECHO + asks + lengths + smuggled)
            assert (await client.reply())[0] == 400
            assert await asyncio.wait_for(client.reader.read(), 5) == b""


async def test_http_2_behind_an_upgrade_that_was_ignored_is_not_spoken() -> None:
    """A client that does not wait for the 101 gets its answer, and no frame."""
    async with serving() as service, raw(service) as client:
        client.write(GET + H2C + b"\r\n" + PREFACE + HTTP2_GET)
        assert (await client.reply())[0] == 200
        status, _, body = await client.reply()
        assert (status, body) == (505, b"")
        assert await asyncio.wait_for(client.reader.read(), 5) == b""


async def test_no_connection_outlives_its_client() -> None:
    """Before a request, after a reply, with half a request or several: `serving` gives them 4 s,
    and an idle connection has 75.
    """
    async with serving() as service:
        for sent in (b"", GET + b"\r\n", GET, (GET + b"\r\n") * 5, POST_HALF):
            await asyncio.to_thread(hang_up, service.port, sent, 50)
        async with raw(service) as client:
            client.write(GET + b"\r\n")
            await client.reply()


async def test_a_client_that_says_no_more_is_answered_and_the_connection_closed() -> None:
    """It has closed its half: all that it asked for comes, then the end (RFC 9112 section 9.6)."""
    async with serving() as service, raw(service) as client:
        client.write((GET + b"\r\n") * 3)
        client.writer.write_eof()
        for _ in range(3):
            assert (await client.reply())[2] == b"one object for every request"
        assert await asyncio.wait_for(client.reader.read(), 5) == b""


@pytest.mark.parametrize("reset", [False, True])
async def test_a_request_whose_turn_does_not_come_holds_nothing(reset: bool) -> None:
    """The reply before it was cut off; the client is still there, or is not."""
    ask = b"GET /cut-off HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving() as service:
        for _ in range(20):
            async with raw(service) as client:
                client.write(ask * 2)
                if not reset:
                    await client.closed()


async def test_a_request_whose_turn_does_not_come_delays_no_stop() -> None:
    """The reply that is under way when the stop comes is given, and the next one is not begun."""
    loop = asyncio.get_running_loop()
    async with serving() as service, raw(service) as client:
        client.write(b"GET /gate HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        await settled(lambda: service.waiting == 1)
        service.stop.set()
        await asyncio.sleep(0.1)  # until it has heard
        service.gate.set()
        told = loop.time()
        assert (await client.reply())[2] == b"one object for every request"
        assert await asyncio.wait_for(client.reader.read(), 5) == b""
    assert loop.time() - told < 1  # of 3 s that it would wait for what is under way


async def test_a_client_that_hangs_up_on_an_ignored_upgrade_leaves_nothing() -> None:
    """While its request is worked on; `serving` sees to it that nothing is left."""
    async with serving() as service:
        asks = b"GET /gate HTTP/1.1\r\nHost: x\r\n" + H2C + b"\r\n"
        await asyncio.to_thread(hang_up, service.port, asks, 3)
        await settled(lambda: service.waiting == 3)
        service.gate.set()


# Also what Hypercorn itself refuses.
MALFORMED = {
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", 400),
    "a long head": (GET + b"A: " + b"x" * 100_000, 431),
    "a coding nobody knows": (ECHO + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "no chunk": (ECHO + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
}


@pytest.mark.parametrize("kind", [*REFUSED, *MALFORMED])
async def test_the_servers_own_refusals_carry_the_headers_of_every_reply(kind: str) -> None:
    sent, expected = (REFUSED | MALFORMED)[kind]
    async with serving() as service, raw(service) as client:
        client.write(sent)
        status, headers, _ = await client.reply()
        assert status == expected
        for name, value in (*SecurityHeaders.HEADERS, *CORS.EVERY_REPLY):
            assert headers[name] == value.lower()


@pytest.mark.parametrize(
    "authority", [b"http://x", b"HTTPS://x.example:8443", b"http://user@[::1]:80"]
)
async def test_a_target_may_name_scheme_and_host_before_its_path(authority: bytes) -> None:
    """RFC 9112 section 3.2.2: as a client sends it that takes the server for a proxy."""
    async with serving() as service, raw(service) as client:
        for target in (b"/echo", b"/echo?a=http://y/b"):
            body = (
                b"POST "
                + authority
                + target
                + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"
            )
            client.write(body)
            assert (await client.reply())[0] == 200
        statuses = []
        for target in (authority, b"/", authority + b"?a=b"):
            client.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            statuses.append((await client.reply())[0])
        assert statuses == [statuses[1]] * 3

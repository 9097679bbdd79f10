"""Laws of request bodies: bounded in size and time, read or not; over real sockets."""

import asyncio
import json
import logging
import socket

import pytest

from facilitator.telemetry.logs import TextFormatter
from facilitator.web.body import LINGER
from tests.support.layers import (
    CHUNK,
    CHUNKED,
    CONCURRENCY,
    LIMIT,
    PATIENCE,
    POST,
    raw,
    requests_logged,
    serving,
    settled,
)

pytestmark = pytest.mark.anyio


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
        assert client.age < 8  # its deadline comes after 10


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
    async with serving(deadline=5 * PATIENCE) as service, raw(service) as client:
        client.write(POST % b"/echo" + CHUNKED)

        async def endlessly() -> None:
            while True:
                client.write(chunk)
                await client.writer.drain()

        sending = asyncio.create_task(endlessly())
        status, _, _ = await client.reply()
        assert status == 413  # by its size, long before its deadline
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, PATIENCE)


@pytest.mark.parametrize("pause", [0.05, 60.0])
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
        assert 0.29 < client.age < 20
        await client.closed()
        assert client.age < 40
        sending.cancel()


async def test_a_client_that_leaves_amid_its_body_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as service:
        async with raw(service) as client:
            client.write(POST % b"/echo" + b"Content-Length: 1000\r\n\r\nhalf")
            await asyncio.sleep(0.1)
        await settled(lambda: requests_logged(caplog))
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
        assert client.age < LINGER  # for which the rest of the body is waited for, afterwards


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

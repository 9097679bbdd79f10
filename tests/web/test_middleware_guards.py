"""Laws of the access log, of the limit on requests in flight, and of errors; over real sockets."""

import asyncio
import json
import logging
import time

import aiohttp
import pytest
from starlette.types import Message, Receive, Scope, Send

from facilitator.telemetry.logs import JSONFormatter, TextFormatter
from facilitator.web.middleware import CatchErrors
from tests.support.layers import CONCURRENCY, raw, requests_logged, serving, settled

pytestmark = pytest.mark.anyio


async def test_a_request_is_one_line_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving() as service, aiohttp.ClientSession() as session:
        headers = {"X-Request-Id": "id-1"}
        asked = time.monotonic()
        await session.post(service.url("/echo?secret=1"), data=b"x", headers=headers)
        took = time.monotonic() - asked
        (line,) = requests_logged(caplog)
    fields = line.__dict__["fields"]
    assert (fields["method"], fields["route"], fields["status"]) == ("POST", "/echo", 200)
    assert "path" not in fields
    assert 0 < fields["duration_ms"] < 1000 * took
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


async def test_over_the_limit_one_is_told_to_come_back() -> None:
    async with serving() as service, aiohttp.ClientSession() as session:
        waiting = [
            asyncio.create_task(session.get(service.url("/gate"))) for _ in range(CONCURRENCY)
        ]
        await settled(lambda: service.waiting == CONCURRENCY)
        async with session.get(service.url("/ignoring")) as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            reply = await response.json()
            assert reply["error"] == "Too many requests in flight"
            assert abs(reply["timestamp"] - time.time() * 1000) < 5000
        # Clients of the standard dialect read these, whatever the status.
        async with session.post(service.url("/verify")) as response:
            reply = await response.json()
            assert (response.status, reply["isValid"], reply["payer"]) == (503, False, "")
            assert reply["invalidReason"] == "unexpected_verify_error"
        async with session.post(service.url("/settle")) as response:
            reply = await response.json()
            assert (response.status, reply["success"], reply["transaction"]) == (503, False, "")
            assert reply["errorReason"] == "unexpected_settle_error"
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


@pytest.mark.parametrize(
    ("path", "verdict", "reason"),
    [
        ("/verify", "isValid", ("invalidReason", "unexpected_verify_error")),
        ("/settle", "success", ("errorReason", "unexpected_settle_error")),
    ],
)
async def test_an_error_of_ours_has_the_shape_that_sellers_read(
    path: str, verdict: str, reason: tuple[str, str]
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("hunter2")

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await CatchErrors(broken)({"type": "http", "path": path}, receive, send)
    start, body = sent
    reply = json.loads(body["body"])
    assert start["status"] == 500
    assert (reply[verdict], reply[reason[0]], reply["payer"]) == (False, reason[1], "")
    if path == "/settle":
        assert (reply["transaction"], reply["network"]) == ("", "")
    assert b"hunter2" not in body["body"]


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

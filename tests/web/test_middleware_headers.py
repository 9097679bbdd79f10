"""Laws of what every reply carries, over real sockets."""

import asyncio
import json
import re

import aiohttp
import pytest

from facilitator.web.middleware import SecurityHeaders
from tests.support.layers import LIMIT, raw, serving

pytestmark = pytest.mark.anyio


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


# Request ids


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

"""A thousand malformed requests, and three thousand more: nobody is paid, nothing breaks, and no
memory is kept.
"""

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.chain import devnet_payment, settled_logs
from tests.support.malformed import Attempt, Malformed
from tests.support.service import Service, request

pytestmark = pytest.mark.anyio

WARM_UP = 1000  # requests, after which caches, pools and the allocator's arenas have their size
MORE = 3000
AT_ONCE = 8  # requests in flight
# What 3,000 requests may add, in bytes. The allocator alone moves by a quarter of that from run to
# run; keeping every body takes three times as much, keeping every ASGI scope more than that.
BOUND = 2 * 2**20


def resident(service: Service) -> int:
    """Bytes of memory that the process occupies (proc(5): the second number, in pages)."""
    pages = Path(f"/proc/{service.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def post(service: Service, attempts: list[Attempt]) -> Counter[int]:
    """Send them all; each must be refused. How many there were of each status."""
    statuses: Counter[int] = Counter()
    queue = list(reversed(attempts))

    async def worker() -> None:
        while queue:
            attempt = queue.pop()
            statuses[await refused(service, attempt)] += 1

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return statuses


async def refused(service: Service, attempt: Attempt) -> int:
    url = service.url + attempt.path
    headers = attempt.headers
    async with service.session.request(
        attempt.method, url, data=attempt.body, headers=headers
    ) as response:
        assert response.status in (200, 400, 404, 413), (attempt, response.status)
        if attempt.method != "HEAD":
            reply = await response.json()
            told = [reply[name] for name in ("isValid", "success", "valid") if name in reply]
            assert told == [False] or response.status == 404, (attempt, reply)
            assert reply.get("txHash") is None, (attempt, reply)
        return response.status


async def test_a_thousand_malformed_requests_pay_nobody_and_three_thousand_more_take_no_memory(
    chain: Devnet, service: Service
) -> None:
    """Of every family, over every endpoint, by a seed: no 5xx, none valid, the process lives and
    settles the next good payment, and its memory is flat.
    """
    drawn = Malformed(chain, seed=402)
    first, more = drawn.draw(WARM_UP), drawn.draw(MORE)
    families = Counter(attempt.family for attempt in first)
    assert len(families) == len(drawn.families)
    assert min(families.values()) > 50
    assert sum(len(attempt.body) for attempt in more) > 4 * BOUND
    statuses = await post(service, first)
    assert set(statuses) == {200, 400, 404, 413}
    before = resident(service)
    await post(service, more)
    grown = resident(service) - before
    assert grown < BOUND, f"{grown / 2**20:.1f} MB more"
    assert await settled_logs(chain) == []
    assert not service.logged("unhandled_error")
    assert service.process.returncode is None
    good = request(drawn.header)
    assert (await service.post("/verify", good))[1]["isValid"] is True
    assert (await service.settle(devnet_payment(chain)))["success"] is True


POST = b"POST /settle HTTP/1.1\r\nHost: x\r\n"
RAW: tuple[tuple[bytes, bytes], ...] = (
    (b"\r\n\r\n", b"400"),
    (b"\0" * 100, b"400"),
    (b"\x16\x03\x01\x02\x00\x01", b"400"),  # the start of a TLS handshake
    (b"GET\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
    (b"GET \xff HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", b"400"),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", b"400"),
    (POST + b"Content-Length: -1\r\n\r\n{}", b"400"),
    (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"400"),
    (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
    (POST + b"Transfer-Encoding: gzip\r\n\r\n{}", b"501"),
    # which of the two counts is how requests are smuggled (RFC 9112, 6.1)
    (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
)


@pytest.mark.parametrize(("sent", "status"), RAW, ids=range(len(RAW)))
async def test_what_is_not_http_is_refused_and_breaks_nothing(
    service: Service, sent: bytes, status: bytes
) -> None:
    """By the server itself, before any route; the next client is served."""
    reader, writer = await asyncio.open_connection(*service.url.removeprefix("http://").split(":"))
    try:
        writer.write(sent)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)
    finally:
        writer.transport.abort()
    assert head.split()[:2] == [b"HTTP/1.1", status]
    assert (await service.get("/health"))[0] == 200
    assert not service.logged("unhandled_error")
    assert service.process.returncode is None

"""Laws of endpoints that fail: who is asked then, and how often."""

import asyncio
import time

import pytest

from facilitator.chain.client import Chain
from facilitator.chain.rpc import FaultKind, RPCError, TransportError
from facilitator.chain.rpc.health import FAULTS_TO_OPEN
from facilitator.domain.strict_json import JSON
from tests.support.rpcnodes import nodes
from tests.support.rpcserver import Reply

pytestmark = pytest.mark.anyio


# --- faults in a row


async def test_an_endpoint_that_keeps_failing_is_left_alone_and_tried_by_one_look() -> None:
    async with nodes(1, penalty=1.0) as (rpc, [node]):
        node.fault = Reply(status=500)
        for _ in range(20):
            with pytest.raises(TransportError):
                await rpc.call("eth_call")
        assert len(node.server.posts) == FAULTS_TO_OPEN
        node.fault = None
        rpc.endpoints[0].health.inspect_at = 0.0  # its pause is over
        asked = [asyncio.create_task(rpc.call("eth_call", i)) for i in range(3)]
        await asyncio.sleep(0)
        asked += [asyncio.create_task(rpc.call("eth_call", i)) for i in range(3)]
        assert await asyncio.gather(*asked) == ["first"] * 6
        looks = [body for body in node.server.posts[FAULTS_TO_OPEN:] if "eth_chainId" in str(body)]
        assert len(looks) == 1


async def test_one_that_hangs_leaves_time_for_the_next() -> None:
    async with nodes(2, timeout=5.0) as (rpc, [first, _second]):
        await rpc.call("eth_call")
        first.delay = 30.0
        started = time.monotonic()
        assert await rpc.call("eth_call") == "second"
        assert 2.4 < time.monotonic() - started < 4.9
        assert await rpc.call("eth_call") == "second"  # and is not waited for again
        assert time.monotonic() - started < 5.0
        assert first.asked == ["eth_call"] * 2


async def test_one_that_hangs_from_the_start_is_waited_for_once() -> None:
    async with nodes(2, timeout=10.0) as (rpc, [first, _second]):
        first.delay = 30.0
        started = time.monotonic()
        assert await rpc.call("eth_call") == "second"
        assert await rpc.call("eth_call") == "second"
        assert time.monotonic() - started < 9
        assert first.asked == []


async def test_a_pause_that_was_asked_for_is_kept_by_looks_too() -> None:
    async with nodes(2) as (rpc, [first, _second]):
        await rpc.call("eth_call")
        first.fault = Reply(status=429, headers={"Retry-After": "1"})
        for _ in range(10):
            assert await rpc.call("eth_call") == "second"
            await asyncio.sleep(0.05)
        assert len(first.server.posts) == 3  # a look, the first call, the one that was refused
        first.fault = None
        await asyncio.sleep(1)
        await rpc.call("eth_call")
        await asyncio.sleep(0.1)
        assert await rpc.call("eth_call") == "first"


@pytest.mark.parametrize("message", ["rate limit exceeded", "header not found"])
async def test_an_error_that_blames_the_endpoint_goes_to_the_next_one(message: str) -> None:
    """Without a penalty: it may be about this call, whose maker must not choose our endpoints."""
    error: JSON = {"error": {"code": -32000, "message": message}}
    async with nodes(2) as (rpc, [first, second]):
        first.answers["eth_call"] = error
        assert await rpc.call("eth_call") == "second"
        assert await rpc.call("eth_getBalance") == "first"
        second.answers["eth_call"] = error
        with pytest.raises(RPCError, match=message):
            await rpc.call("eth_call")
        assert await rpc.call("eth_getBalance") == "first"


# --- what is counted


async def test_posts_calls_and_faults_are_counted_by_a_name_that_is_no_url() -> None:
    taken: list[float] = []
    async with nodes(2) as (rpc, [first, _]):
        rpc.endpoints[0].observe = taken.append
        await asyncio.gather(*(rpc.call("eth_call", i) for i in range(3)))
        first.fault = Reply(status=500)
        await rpc.call("eth_call")
        one, two = Chain(rpc).endpoints
        assert (one.name, two.name) == ("jeju#0", "jeju#1")
        assert (one.posts, one.calls) == (3, 6)  # a look of two calls, three, and one more
        assert (two.posts, two.calls) == (2, 3)
        assert one.faults == {FaultKind.HTTP: 1}
        assert (one.health.standing, two.health.standing) == ("broken", "good")
        assert len(taken) == 3
        assert min(taken) > 0


async def test_a_session_that_we_closed_ourselves_is_nobody_s_fault() -> None:
    told: list[tuple[str, FaultKind | None]] = []
    async with nodes(1, on_change=lambda *change: told.append(change)) as (rpc, [node]):
        await rpc.call("eth_call")
        node.delay = 30.0
        waiting = asyncio.create_task(rpc.call("eth_call"))
        await asyncio.sleep(0.05)
    with pytest.raises(TransportError):
        await waiting
    assert told == []

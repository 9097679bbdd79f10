"""Laws of what is asked of more than one endpoint: sends, and second looks."""

import asyncio
import time

import pytest

from facilitator.chain import Chain
from facilitator.node import ChainUnavailable, NodeFault
from facilitator.strict_json import JSON
from tests.rpcnodes import HASH, OTHER_HASH, nodes
from tests.rpcserver import Reply, calls_in

pytestmark = pytest.mark.anyio


# --- a second opinion


async def confirmed(chain: Chain, block_hash: str = HASH) -> bool | None:
    return await chain.confirm_block(1_000, bytes.fromhex(block_hash[2:]))


async def test_a_block_is_confirmed_by_the_endpoint_that_was_not_read() -> None:
    async with nodes(2) as (rpc, [first, second]):
        chain = Chain(rpc)
        first.answers["eth_getCode"] = second.answers["eth_getCode"] = {"result": "0x"}
        await chain.code(bytes(20))
        assert await confirmed(chain) is True
        assert await confirmed(chain, OTHER_HASH) is False
        first.fault = Reply(status=500)
        await chain.code(bytes(20))  # read from the second one now
        assert not await confirmed(chain)


@pytest.mark.parametrize(
    "answer",
    [
        {"result": None},
        {"result": {}},
        {"result": {"number": "0x3e7", "hash": HASH, "parentHash": HASH, "timestamp": "0x1"}},
        {"error": {"code": -32000, "message": "header not found"}},
        {},
    ],
)
async def test_what_is_no_block_at_that_height_confirms_nothing(answer: JSON) -> None:
    async with nodes(2) as (rpc, [_, second]):
        await rpc.call("eth_call")
        second.answers["eth_getBlockByNumber"] = answer
        assert await confirmed(Chain(rpc)) is False


async def test_no_second_opinion_comes_from_one_that_is_not_well() -> None:
    async with nodes(2) as (rpc, [_, second]):
        second.chain_id = 1
        await rpc.call("eth_call")
        assert await confirmed(Chain(rpc)) is None
        assert await Chain(rpc).confirm_account_nonce(bytes(20), 7) is None
    async with nodes(1) as (rpc, _):
        await rpc.call("eth_call")
        assert await confirmed(Chain(rpc)) is None


async def test_an_account_nonce_is_confirmed_as_of_a_block() -> None:
    async with nodes(2) as (rpc, [first, second]):
        await rpc.call("eth_call")
        second.answers["eth_getTransactionCount"] = {"result": "0x5"}
        assert await Chain(rpc).confirm_account_nonce(b"\x11" * 20, 7) == 5
        assert calls_in(second.server.posts[-1])[0]["params"] == ["0x" + "11" * 20, "0x7"]
        assert first.asked == ["eth_call"]
        for garbage in ("0x", None, 5, hex(2**63)):
            second.answers["eth_getTransactionCount"] = {"result": garbage}
            assert await Chain(rpc).confirm_account_nonce(bytes(20), 7) == 0
        second.answers["eth_getTransactionCount"] = {"result": "0x5"}
        first.answers["eth_getTransactionCount"] = {"result": "0x8"}
        assert await Chain(rpc).agreed_account_nonce(bytes(20), 7) == 5


async def test_every_endpoint_counts_what_waits_in_its_pool() -> None:
    """And none may be missing: the others could lie."""
    async with nodes(2) as (rpc, [first, second]):
        await rpc.call("eth_call")
        first.answers["eth_getTransactionCount"] = {"result": "0x5"}
        second.answers["eth_getTransactionCount"] = {"result": "0x7"}
        assert sorted(await Chain(rpc).pooled_nonces(bytes(20))) == [5, 7]
        silences: list[JSON] = [{"result": "many"}, {"error": {"code": -32000, "message": "none"}}]
        for silent in silences:
            second.answers["eth_getTransactionCount"] = silent
            with pytest.raises(ChainUnavailable):
                await Chain(rpc).pooled_nonces(bytes(20))


# --- sends

SEND = "eth_sendRawTransaction"
TOO_LOW: JSON = {"error": {"code": -32003, "message": "nonce too low"}}
KNOWN: JSON = {"error": {"code": -32000, "message": "already known"}}
LIMITED: JSON = {"error": {"code": -32005, "message": "rate limit"}}


async def test_a_transaction_goes_to_every_endpoint_that_is_well() -> None:
    async with nodes(3) as (rpc, [first, second, third]):
        second.chain_id = 1
        assert await Chain(rpc).broadcast(b"\x01") is None
        await asyncio.sleep(0.05)
        assert (first.asked, second.asked, third.asked) == ([SEND], [], [SEND])


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ((TOO_LOW, KNOWN), None),
        ((KNOWN, TOO_LOW), None),
        ((TOO_LOW, LIMITED), NodeFault.NONCE_TOO_LOW),
        ((LIMITED, TOO_LOW), NodeFault.NONCE_TOO_LOW),
        ((LIMITED, LIMITED), NodeFault.RATE_LIMITED),
        ((None, TOO_LOW), NodeFault.NONCE_TOO_LOW),
        ((None, None), NodeFault.UNAVAILABLE),
        ((None, KNOWN), None),
    ],
)
async def test_one_that_has_it_is_enough_and_the_most_telling_fault_is_told(
    answers: tuple[JSON, JSON], fault: NodeFault | None
) -> None:
    async with nodes(2) as (rpc, running):
        await rpc.call("eth_call")
        for node, answer in zip(running, answers, strict=True):
            node.answers[SEND] = {} if answer is None else answer
        assert await Chain(rpc).broadcast(b"\x01") is fault


async def test_a_slow_endpoint_does_not_hold_up_a_send_and_still_gets_it() -> None:
    async with nodes(2, timeout=10.0) as (rpc, [first, _second]):
        await rpc.call("eth_call")
        first.delay = 4.0
        started = time.monotonic()
        assert await Chain(rpc).broadcast(b"\x01") is None
        assert time.monotonic() - started < 3.5
        await asyncio.sleep(4.5)
        assert SEND in first.asked
        assert first.server.aborted == 0


async def test_sends_of_one_turn_share_a_post_at_each_endpoint() -> None:
    async with nodes(2) as (rpc, [first, second]):
        await rpc.call("eth_call")
        before = len(first.server.posts), len(second.server.posts)
        chain = Chain(rpc)
        await asyncio.gather(*(chain.broadcast(bytes([i])) for i in range(20)))
        await asyncio.sleep(0.05)
        assert len(first.server.posts) - before[0] == 1
        assert len(second.server.posts) - before[1] == 1


async def test_with_nobody_well_a_send_is_possibly_sent() -> None:
    async with nodes(2) as (rpc, [first, second]):
        first.chain_id = second.chain_id = 1
        assert await Chain(rpc).broadcast(b"\x01") is NodeFault.UNAVAILABLE
        assert first.asked + second.asked == []

"""Laws of which endpoint is asked, against scripted nodes on real sockets."""

import asyncio
import time

import pytest
from msgspec.structs import replace

from facilitator.chain.rpc import FaultKind, TransportError
from facilitator.chain.rpc.health import EXCLUDED_PAUSE, STALE_BLOCKS, STALE_SECONDS
from facilitator.domain.strict_json import JSON
from tests.support.rpcnodes import CHAIN_ID, HASH, LOOK, nodes

pytestmark = pytest.mark.anyio


# --- the chain id


async def test_nothing_is_read_from_an_endpoint_on_another_chain() -> None:
    told: list[tuple[str, FaultKind | None]] = []
    async with nodes(2, on_change=lambda *change: told.append(change)) as (rpc, [first, second]):
        first.chain_id = 1
        assert [await rpc.call("eth_call", i) for i in range(5)] == ["second"] * 5
        assert first.asked == []
        first.chain_id = CHAIN_ID
        await asyncio.sleep(EXCLUDED_PAUSE + 0.1)
        await rpc.call("eth_call")  # has it looked at
        await asyncio.sleep(0.1)
        assert await rpc.call("eth_call") == "first"
        assert second.asked == ["eth_call"] * 6
    assert told == [("jeju#0", FaultKind.WRONG_CHAIN), ("jeju#0", None)]


async def test_a_lone_endpoint_on_another_chain_answers_nothing() -> None:
    async with nodes(1) as (rpc, [node]):
        node.chain_id = 1
        for _ in range(3):
            with pytest.raises(TransportError, match="jeju#0: wrong_chain"):
                await rpc.call("eth_call")
        assert node.asked == []
        assert len(node.server.posts) == 1  # nor is it looked at again and again


@pytest.mark.parametrize(
    "answer",
    [
        {"result": None},
        {"result": CHAIN_ID},
        {"result": "420691"},
        {"result": "0x"},
        {"error": {"code": -32005, "message": "slow down"}},
    ],
)
@pytest.mark.parametrize("method", sorted(LOOK))
async def test_an_endpoint_that_does_not_say_where_it_is_answers_nothing(
    method: str, answer: JSON
) -> None:
    async with nodes(2) as (rpc, [first, _second]):
        first.answers[method] = answer
        assert await rpc.call("eth_call") == "second"
        assert first.asked == []


async def test_behind_a_new_connection_may_be_another_node() -> None:
    """A closed connection is taken up again at once, and its answers only after a look."""
    async with nodes(2) as (rpc, [first, _second]):
        assert await rpc.call("eth_call") == "first"
        first.hang_ups, first.chain_id = 1, 1
        assert await rpc.call("eth_call") == "second"
        assert rpc.endpoints[0].health.standing == "wrong_chain"


async def test_an_idle_connection_that_was_closed_costs_one_post_and_no_answer() -> None:
    async with nodes(1) as (rpc, [node]):
        await rpc.call("eth_call")
        node.hang_ups = 1
        assert await rpc.call("eth_sendRawTransaction", "0x00") == "first"
        assert node.asked == ["eth_call", "eth_sendRawTransaction", "eth_sendRawTransaction"]
        assert rpc.endpoints[0].health.faults == 0


async def test_what_may_not_be_repeated_is_not_repeated() -> None:
    async with nodes(1) as (rpc, [node]):
        await rpc.call("eth_call")
        node.hang_ups = 1
        with pytest.raises(TransportError):
            await rpc.call("eth_sendTransaction", {})
        assert node.asked == ["eth_call", "eth_sendTransaction"]


# --- the head


async def test_an_endpoint_that_lags_is_not_read_until_it_has_caught_up() -> None:
    async with nodes(2) as (rpc, [first, second]):
        first.number, first.age = second.number - 50, STALE_SECONDS + 5
        assert [await rpc.call("eth_call", i) for i in range(5)] == ["second"] * 5
        assert first.asked == []
        assert rpc.endpoints[0].health.standing == "stale"
        first.number, first.age = second.number - 10, STALE_SECONDS - 5
        await asyncio.sleep(EXCLUDED_PAUSE + 0.1)
        await rpc.call("eth_call")
        await asyncio.sleep(0.1)
        assert await rpc.call("eth_call") == "first"


async def test_an_endpoint_that_falls_behind_is_found_out_by_the_heads_that_are_asked_for() -> None:
    """The loop of a chain asks for the head all the time: no further question is needed."""
    async with nodes(2) as (rpc, [first, second]):
        assert await rpc.call("eth_call") == "first"
        first.age = STALE_SECONDS + 5
        second.number += 50
        # As if the second one had been looked at when its time came, later than the first.
        health = rpc.endpoints[0].health
        assert health.head is not None
        then = health.head.timestamp - first.age
        health.head = replace(health.head, timestamp=then, seen_at=health.head.seen_at - 5)
        rpc.endpoints[1].health.inspect_at = 0.0
        await rpc.call("eth_call")
        await asyncio.sleep(0.1)
        with_head = await asyncio.gather(
            rpc.call("eth_getBlockByNumber", "latest", False), rpc.call("eth_call")
        )
        assert with_head[1] == "second"
        assert isinstance(with_head[0], dict)
        assert with_head[0]["number"] == hex(second.number)
        assert first.asked.count("eth_call") == 3  # the last time its answer was not used


@pytest.mark.parametrize("ahead", ["a head from the future", "a head long ago", "garbage"])
async def test_no_endpoint_is_stale_for_what_proves_nothing(ahead: str) -> None:
    async with nodes(2) as (rpc, [_first, second]):
        block: dict[str, JSON] = {
            "number": hex(2**40 if ahead != "garbage" else 2**63),
            "hash": HASH,
            "parentHash": HASH,
            "timestamp": hex(int(time.time()) + (600 if "future" in ahead else 0)),
        }
        if ahead == "a head long ago":
            await rpc.call("eth_call")
            health = rpc.endpoints[1].health
            assert health.head is not None
            health.head = replace(health.head, number=2**40, seen_at=health.head.seen_at - 61)
            rpc.endpoints[0].health.inspect_at = 0.0
        else:
            second.answers["eth_getBlockByNumber"] = {"result": block}
        assert [await rpc.call("eth_call") for _ in range(3)] == ["first"] * 3
        await asyncio.sleep(0.1)
        assert await rpc.call("eth_call") == "first"


async def test_a_lone_endpoint_is_never_stale() -> None:
    async with nodes(1) as (rpc, [node]):
        await rpc.call("eth_getBlockByNumber", "latest", False)
        node.number -= 500
        await rpc.call("eth_getBlockByNumber", "latest", False)
        assert await rpc.call("eth_call") == "first"


@pytest.mark.parametrize("liar", [0, 1])
@pytest.mark.parametrize("lead", [STALE_BLOCKS + 1, 10**6])
async def test_one_endpoint_far_ahead_takes_the_others_word_from_nobody(
    liar: int, lead: int
) -> None:
    """A head that our clock and no third endpoint bear out makes nobody stale: both are asked
    still.
    """
    async with nodes(2) as (rpc, pair):
        honest = pair[1 - liar]
        pair[liar].number += lead
        pair[liar].age = -50  # as far in the future as is plausible at all
        for _ in range(3):
            assert await rpc.call("eth_call") == "first"
            assert await rpc.call_each("eth_getBalance") == ["first", "second"]
        assert honest.asked
        assert [each.health.standing for each in rpc.endpoints] == ["good", "good"]


async def test_one_that_two_others_leave_behind_is_stale_though_its_clock_runs() -> None:
    async with nodes(3) as (rpc, [first, second, third]):
        first.number -= STALE_BLOCKS + 1
        assert [await rpc.call("eth_call") for _ in range(3)] == ["second"] * 3
        assert first.asked == []
        assert second.number == third.number
        assert rpc.endpoints[0].health.standing == "stale"

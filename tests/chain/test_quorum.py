"""Laws of what is asked of more than one endpoint: what must agree, and sends."""

import asyncio
import re
import time
from pathlib import Path

import pytest

from facilitator.chain.answers import ChainUnavailable, NodeFault
from facilitator.chain.client import Chain
from facilitator.chain.quorum import Agreement
from facilitator.domain.strict_json import JSON
from facilitator.ethereum.receipts import LogFilter
from tests.support.rpcnodes import HASH, OTHER_HASH, nodes
from tests.support.rpcserver import Reply, calls_in

pytestmark = pytest.mark.anyio
PACKAGE = Path(__file__).parents[2] / "facilitator"
# What only the room `chain` uses: all others ask `Quorum` a question, and act on its answer.
COUNTING = re.compile(r"\b(call_each|call_everywhere|QUORUM)\b|\.several\b|len\([\w.]*endpoints\)")


def test_no_other_room_counts_endpoints() -> None:
    counting = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if COUNTING.search(path.read_text())
    }
    assert counting == {"chain"}


# --- agreement


async def confirmed(chain: Chain, block_hash: str = HASH) -> bool:
    agreement = await chain.quorum.block(1_000, bytes.fromhex(block_hash[2:]))
    return agreement is Agreement.AGREED


def block(block_hash: str, number: int = 1_000) -> JSON:
    now = hex(int(time.time()))
    about: JSON = {"number": hex(number), "hash": block_hash, "parentHash": HASH, "timestamp": now}
    return {"result": about}


@pytest.mark.parametrize("liar", [0, 1])
async def test_of_two_endpoints_both_must_have_the_block(liar: int) -> None:
    """Whichever of them answered a read last."""
    async with nodes(2) as (rpc, pair):
        chain = Chain(rpc)
        assert await confirmed(chain) is True
        for reader in (0, 1):
            for node in pair:
                node.answers.clear()
            # The other one answers the read, and the first stays well: so do rate limits.
            pair[1 - reader].answers["eth_call"] = {"error": {"code": -32005, "message": "limit"}}
            pair[liar].answers["eth_getBlockByNumber"] = block(OTHER_HASH)
            await rpc.call("eth_call")
            assert await confirmed(chain, OTHER_HASH) is False
            assert await confirmed(chain) is False


async def test_of_three_endpoints_two_are_enough_and_one_is_not() -> None:
    async with nodes(3) as (rpc, [first, _second, _third]):
        chain = Chain(rpc)
        first.answers["eth_getBlockByNumber"] = block(OTHER_HASH)
        assert await confirmed(chain) is True
        assert await confirmed(chain, OTHER_HASH) is False


@pytest.mark.parametrize(
    "answer",
    [
        {"result": None},
        {"result": {}},
        block(HASH, 999),
        {"error": {"code": -32000, "message": "header not found"}},
        {},
    ],
)
async def test_what_is_no_block_at_that_height_confirms_nothing(answer: JSON) -> None:
    async with nodes(2) as (rpc, [_, second]):
        await rpc.call("eth_call")
        second.answers["eth_getBlockByNumber"] = answer
        assert await confirmed(Chain(rpc)) is False


async def test_one_that_has_failed_a_moment_ago_is_still_asked() -> None:
    """Or the other one would be believed alone whenever a connection breaks."""
    async with nodes(2, penalty=0.4) as (rpc, [_, second]):
        second.answers["eth_getBlockByNumber"] = block(OTHER_HASH)
        assert await confirmed(Chain(rpc)) is False
        second.hang_ups = 2
        assert await confirmed(Chain(rpc)) is False
        assert rpc.endpoints[1].health.standing == "broken"
        assert await confirmed(Chain(rpc)) is False


async def test_the_one_that_is_left_of_several_is_believed() -> None:
    """Those on another chain do not count, and those that are away neither."""
    async with nodes(2) as (rpc, [_, second]):
        second.chain_id = 1
        await rpc.call("eth_call")
        assert await confirmed(Chain(rpc)) is True
        assert await confirmed(Chain(rpc), OTHER_HASH) is False
    async with nodes(2) as (rpc, [_, second]):
        second.fault = Reply(status=500)
        assert await confirmed(Chain(rpc)) is False
        async with asyncio.timeout(10):
            while not await confirmed(Chain(rpc)):  # noqa: ASYNC110 - its circuit opens by itself
                await asyncio.sleep(0.1)
        assert rpc.endpoints[1].health.is_open()


@pytest.mark.parametrize(("seconds", "believed"), [(2, False), (30, True)])
async def test_one_that_asks_for_a_short_pause_is_waited_for(seconds: int, believed: bool) -> None:
    """Or whoever has the others' limits used up would be believed alone at once."""
    async with nodes(2) as (rpc, [first, second]):
        await rpc.call("eth_call")
        second.fault = Reply(status=429, headers={"Retry-After": str(seconds)})
        assert await confirmed(Chain(rpc)) is False
        second.fault = None
        first.answers["eth_getBlockByNumber"] = block(OTHER_HASH)
        asked = len(second.server.posts)
        assert await confirmed(Chain(rpc), OTHER_HASH) is believed
        assert len(second.server.posts) == asked


async def test_with_no_endpoint_left_nothing_is_confirmed() -> None:
    async with nodes(2) as (rpc, [first, second]):
        first.chain_id = second.chain_id = 1
        assert await confirmed(Chain(rpc)) is False
        assert await Chain(rpc).quorum.account_nonce_is(bytes(20), 0) is Agreement.UNKNOWN
        with pytest.raises(ChainUnavailable):
            await Chain(rpc).quorum.account_nonce(bytes(20))


async def test_a_lone_endpoint_is_not_asked_whether_it_agrees_with_itself() -> None:
    async with nodes(1) as (rpc, [node]):
        assert await confirmed(Chain(rpc)) is True
        assert await Chain(rpc).quorum.account_nonce_is(bytes(20), 7) is Agreement.AGREED
        assert node.asked == []
        node.answers["eth_getTransactionCount"] = {"result": "0x5"}
        agreed = await Chain(rpc).quorum.account_nonce(bytes(20))
        assert (agreed.value, agreed.alone) == (5, False)


@pytest.mark.parametrize(
    ("told", "count"),
    [((5, 5), 5), ((5, 8), 5), ((8, 5), 5), ((9, 5, 8), 8), ((5, 2**40, 5), 5), ((0, 7, 7), 7)],
)
async def test_an_account_nonce_is_what_two_endpoints_bear_out(
    told: tuple[int, ...], count: int
) -> None:
    async with nodes(len(told)) as (rpc, running):
        for node, each in zip(running, told, strict=True):
            node.answers["eth_getTransactionCount"] = {"result": hex(each)}
        agreed = await Chain(rpc).quorum.account_nonce(b"\x11" * 20, 7)
        assert (agreed.value, agreed.alone) == (count, False)
        for node in running:
            assert calls_in(node.server.posts[-1])[0]["params"] == ["0x" + "11" * 20, "0x7"]
        exactly = Chain(rpc).quorum.account_nonce_is
        for each in {*told, count}:
            agreed_on = await exactly(b"\x11" * 20, each) is Agreement.AGREED
            assert agreed_on is (told.count(each) >= 2)


@pytest.mark.parametrize(
    ("told", "height"),
    [
        ((5,), 5),
        ((5, 5), 5),
        ((5, 8), 5),
        ((2**40, 5), 5),
        ((9, 5, 8), 8),
        ((2**40, 5, 5), 5),
        ((0, 7, 7), 7),
        ((0, None, 7), 0),
    ],
)
async def test_a_height_is_what_two_endpoints_bear_out(
    told: tuple[int | None, ...], height: int
) -> None:
    """Who sees further bears out what is less; who says nothing bears out nothing."""
    async with nodes(len(told)) as (rpc, running):
        for node, each in zip(running, told, strict=True):
            node.answers["eth_blockNumber"] = {"result": None if each is None else hex(each)}
        agreed = await Chain(rpc).quorum.height()
        assert (agreed.value, agreed.alone) == (height, False)


async def test_a_height_is_what_the_one_that_is_left_tells() -> None:
    async with nodes(2) as (rpc, [first, second]):
        second.chain_id = 1
        first.answers["eth_blockNumber"] = {"result": "0x5"}
        agreed = await Chain(rpc).quorum.height()
        assert (agreed.value, agreed.alone) == (5, True)


@pytest.mark.parametrize("silence", ["0x", None, 5, hex(2**63)])
async def test_no_height_is_told_where_too_few_endpoints_answer(silence: JSON) -> None:
    async with nodes(2) as (rpc, [first, second]):
        first.answers["eth_blockNumber"] = {"result": "0x5"}
        second.answers["eth_blockNumber"] = {"result": silence}
        with pytest.raises(ChainUnavailable):
            await Chain(rpc).quorum.height()
    async with nodes(2) as (rpc, [first, second]):
        first.chain_id = second.chain_id = 1
        with pytest.raises(ChainUnavailable):
            await Chain(rpc).quorum.height()


@pytest.mark.parametrize(
    ("told", "unused"),
    [((5, 5), True), ((4, 5), True), ((5, 6), False), ((6, 5, 3), True), ((6, 6, 5), False)],
)
async def test_an_account_nonce_is_unused_where_two_endpoints_say_so(
    told: tuple[int, ...], unused: bool
) -> None:
    async with nodes(len(told)) as (rpc, running):
        for node, each in zip(running, told, strict=True):
            node.answers["eth_getTransactionCount"] = {"result": hex(each)}
        agreement = await Chain(rpc).quorum.account_nonce_unused(b"\x11" * 20, 5)
        assert (agreement is Agreement.AGREED) is unused


async def test_one_that_is_left_of_several_does_not_make_an_account_nonce_unused() -> None:
    """A lone one does: there is nobody else to ask."""
    async with nodes(2) as (rpc, [first, second]):
        first.answers["eth_getTransactionCount"] = {"result": "0x0"}
        second.chain_id = 1
        assert await Chain(rpc).quorum.account_nonce_unused(bytes(20), 5) is Agreement.UNKNOWN
    async with nodes(1) as (rpc, [_]):
        assert await Chain(rpc).quorum.account_nonce_unused(bytes(20), 5) is Agreement.AGREED


@pytest.mark.parametrize("silence", ["0x", None, 5, hex(2**63)])
async def test_an_endpoint_that_gives_no_count_bears_out_none(silence: JSON) -> None:
    """Not even that an account has none."""
    async with nodes(2) as (rpc, [first, second]):
        first.answers["eth_getTransactionCount"] = {"result": "0x0"}
        second.answers["eth_getTransactionCount"] = {"result": silence}
        assert await Chain(rpc).quorum.account_nonce_is(bytes(20), 0) is Agreement.UNKNOWN
        first.answers["eth_getTransactionCount"] = {"result": "0x5"}
        assert (await Chain(rpc).quorum.account_nonce(bytes(20))).value == 0


async def test_an_account_nonce_that_one_of_several_tells_alone_is_marked() -> None:
    async with nodes(2) as (rpc, [first, second]):
        second.chain_id = 1
        first.answers["eth_getTransactionCount"] = {"result": "0x5"}
        agreed = await Chain(rpc).quorum.account_nonce(bytes(20))
        assert (agreed.value, agreed.alone) == (5, True)


@pytest.mark.parametrize("code", [-32601, -32004, -32000, -32005, -32603])
async def test_an_endpoint_that_serves_no_logs_does_not_count_for_them(code: int) -> None:
    """One that could tell, and does not now, leaves open what there is."""
    wanted = LogFilter(bytes(20), (None,))
    async with nodes(2) as (rpc, [first, second]):
        first.answers["eth_getLogs"] = {"result": []}
        second.answers["eth_getLogs"] = {"error": {"code": code, "message": "not now"}}
        if code in (-32601, -32004):
            assert await Chain(rpc).quorum.logs(wanted, 0, 9) == ()
        else:
            with pytest.raises(ChainUnavailable):
                await Chain(rpc).quorum.logs(wanted, 0, 9)


async def test_every_endpoint_counts_what_waits_in_its_pool() -> None:
    """And none may be missing: the others could lie."""
    async with nodes(2) as (rpc, [first, second]):
        await rpc.call("eth_call")
        first.answers["eth_getTransactionCount"] = {"result": "0x5"}
        second.answers["eth_getTransactionCount"] = {"result": "0x7"}
        assert sorted(await Chain(rpc).quorum.pooled_nonces(bytes(20))) == [5, 7]
        silences: list[JSON] = [{"result": "many"}, {"error": {"code": -32000, "message": "none"}}]
        for silent in silences:
            second.answers["eth_getTransactionCount"] = silent
            with pytest.raises(ChainUnavailable):
                await Chain(rpc).quorum.pooled_nonces(bytes(20))


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


def receipt(*, succeeded: bool = True) -> JSON:
    about: JSON = {
        "transactionHash": HASH,
        "blockNumber": hex(1_000),
        "blockHash": OTHER_HASH,
        "status": hex(succeeded),
        "logs": [],
        "gasUsed": "0x1",
        "effectiveGasPrice": "0x1",
    }
    return {"result": about}


NONE: JSON = {"result": None}
FAULTY: JSON = {"error": {"code": -32603, "message": "internal error"}}


@pytest.mark.parametrize(
    ("told", "found", "agreed"),
    [
        ((receipt(),), True, True),
        ((NONE,), False, False),
        ((receipt(), NONE), True, False),
        ((NONE, receipt()), True, False),
        ((receipt(), FAULTY), True, False),
        ((receipt(), receipt()), True, True),
        ((receipt(succeeded=False), receipt(), receipt()), True, True),
        ((receipt(), NONE, NONE), False, False),
        ((NONE, receipt(), receipt()), True, True),
        ((receipt(), NONE, FAULTY), True, False),
    ],
)
async def test_one_of_three_neither_makes_a_receipt_up_nor_hides_it(
    told: tuple[dict[str, JSON], ...], found: bool, agreed: bool
) -> None:
    async with nodes(len(told)) as (rpc, some):
        for node, answer in zip(some, told, strict=True):
            node.answers["eth_getTransactionReceipt"] = answer
        quorum = Chain(rpc).quorum
        wanted = bytes.fromhex(HASH[2:])
        shown = await quorum.shown_receipt(wanted)
        agreed_on = await quorum.receipt(wanted)
        best = agreed_on.value if agreed_on.agreed else None
        assert (shown is not None, best is not None) == (found, agreed)
        assert all(each.succeeded for each in (shown, best) if each is not None)


@pytest.mark.parametrize("told", [(FAULTY,), (NONE, FAULTY), (FAULTY, FAULTY, NONE)])
async def test_no_receipt_is_missing_as_long_as_too_few_say_so(
    told: tuple[dict[str, JSON], ...],
) -> None:
    async with nodes(len(told)) as (rpc, some):
        for node, answer in zip(some, told, strict=True):
            node.answers["eth_getTransactionReceipt"] = answer
        with pytest.raises(ChainUnavailable):
            await Chain(rpc).quorum.shown_receipt(bytes.fromhex(HASH[2:]))

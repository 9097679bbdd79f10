"""Laws of the head that a chain is measured by: no higher than two endpoints bear out, and no lie
stays. On a real chain, by a clock that the test sets.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from facilitator.chain.answers import ChainUnavailable
from facilitator.chain.client import Chain
from facilitator.chain.head_tracker import LAG_LIMIT_BLOCKS, LAG_LIMIT_MS, HeadTracker, Sight
from facilitator.chain.rpc import RPC
from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.blocks import height_of, mine, stop_mining
from tests.support.faultproxy import (
    HEIGHT,
    FaultProxy,
    fault_proxy,
    lies,
    lose_request,
    refuse_with,
    stale_by,
)
from tests.support.simulated_service import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0)


@asynccontextmanager
async def heads_of(
    devnet: Devnet, count: int
) -> AsyncIterator[tuple[HeadTracker, list[FaultProxy], Clock]]:
    """The head as so many endpoints show it, each of which can lie by itself."""
    await stop_mining(devnet)
    await mine(devnet, 20)
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(fault_proxy(devnet.url)) for _ in range(count)]
        rpc = RPC(
            [proxy.url for proxy in proxies],
            name="jeju",
            session=proxies[0].session,
            chain_id=devnet.chain_id,
        )
        clock = Clock()
        yield HeadTracker(network="jeju", chain=Chain(rpc), clock=clock), proxies, clock


async def follow(heads: HeadTracker, devnet: Devnet, seconds: int = 1) -> None:
    """So many blocks that machines which lag show known ones, each so many seconds later."""
    await heads.update()
    for _ in range(12):
        await devnet.rpc("anvil_mine", hex(1), hex(seconds))
        assert await heads.update() is Sight.MOVED


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("by", [9, 1_000_000])
@pytest.mark.parametrize(("count", "liar"), [(2, 0), (2, 1), (3, 0), (3, 2)])
async def test_a_head_is_no_higher_than_two_endpoints_bear_out(
    devnet: Devnet, count: int, liar: int, by: int, everywhere: bool
) -> None:
    """From the first look on, and block by block; nothing is left of the lie when it ends."""
    async with heads_of(devnet, count) as (heads, proxies, _):
        proxies[liar].faults = lies(by, everywhere=everywhere)
        assert await heads.update() is Sight.REPLACED
        for _ in range(3):
            assert heads.head is not None
            assert heads.head.number == await height_of(devnet)
            assert await heads.update() is Sight.SAME
            await mine(devnet, 1)
            assert await heads.update() is Sight.MOVED
        proxies[liar].heal()
        assert await heads.update() is Sight.SAME


@pytest.mark.parametrize("laggard", [0, 1])
async def test_an_endpoint_that_lags_for_ever_costs_its_blocks_and_no_more(
    devnet: Devnet, laggard: int
) -> None:
    async with heads_of(devnet, 2) as (heads, proxies, _):
        proxies[laggard].faults["*"] = stale_by(5)
        await heads.update()
        for _ in range(8):
            assert heads.head is not None
            assert heads.head.number == await height_of(devnet) - 5
            await mine(devnet, 1)
            assert await heads.update() is Sight.MOVED


async def test_a_height_is_asked_for_once_a_block(devnet: Devnet) -> None:
    """And of a lone endpoint never."""
    for count in (1, 2):
        async with heads_of(devnet, count) as (heads, proxies, _):
            await heads.update()
            for _ in range(3):
                await mine(devnet, 1)
                for _ in range(4):
                    await heads.update()
            asked = [proxy.calls.get(HEIGHT, 0) for proxy in proxies]
            assert asked == ([0] if count == 1 else [4, 4])


async def test_no_new_head_is_known_while_the_other_endpoint_is_silent(devnet: Devnet) -> None:
    """The one that is known stays; once its circuit opens, the one that is left is believed."""
    async with heads_of(devnet, 2) as (heads, [_, second], _clock):
        second.faults[HEIGHT] = refuse_with(-32603, "try again")
        with pytest.raises(ChainUnavailable):
            await heads.update()
        second.heal()
        await heads.update()
        known = heads.head
        second.faults[HEIGHT] = refuse_with(-32603, "try again")
        await mine(devnet, 1)
        assert await heads.update() is Sight.SAME
        assert heads.head == known
        second.faults = {"*": lose_request}
        sights = [await heads.update() for _ in range(5)]
        assert set(sights) == {Sight.SAME, Sight.MOVED}


async def test_a_head_that_one_told_alone_is_asked_for_again(devnet: Devnet) -> None:
    """Though it tells of nothing new: when the other one is back, it is not believed any more."""
    async with heads_of(devnet, 2) as (heads, [first, second], clock):
        await heads.update()
        second.faults["*"] = lose_request
        first.faults = lies(1_000, everywhere=True)
        honest = await height_of(devnet)
        for _ in range(6):
            await heads.update()
        assert heads.head is not None
        assert heads.head.number == honest + 1_000
        second.heal()
        async with asyncio.timeout(20):
            while await heads.update() is not Sight.LAGGING:  # noqa: ASYNC110 - it comes back itself
                await asyncio.sleep(0.1)
        clock.now += LAG_LIMIT_MS
        assert await heads.update() is Sight.REPLACED
        assert heads.head.number == honest


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_head_that_nothing_as_high_follows_is_forgotten(devnet: Devnet, count: int) -> None:
    """After a while, in which nothing is decided; all endpoints lied at once."""
    async with heads_of(devnet, count) as (heads, proxies, clock):
        await heads.update()
        for proxy in proxies:
            proxy.faults = lies(100, everywhere=True)
        await mine(devnet, 1)
        assert await heads.update() is Sight.MOVED
        for proxy in proxies:
            proxy.heal()
        assert await heads.update() is Sight.LAGGING
        clock.now += LAG_LIMIT_MS - 1
        assert await heads.update() is Sight.LAGGING
        clock.now += 1
        assert await heads.update() is Sight.REPLACED
        assert heads.head is not None
        assert heads.head.number == await height_of(devnet)
        await mine(devnet, 1)
        assert await heads.update() is Sight.MOVED


async def test_one_that_still_lies_is_not_believed_when_a_head_is_forgotten(devnet: Devnet) -> None:
    async with heads_of(devnet, 2) as (heads, [first, second], clock):
        await heads.update()
        first.faults, second.faults = lies(100, everywhere=True), lies(100, everywhere=True)
        await mine(devnet, 1)
        await heads.update()
        second.heal()
        first.faults = lies(50, everywhere=True)
        assert await heads.update() is Sight.LAGGING
        clock.now += LAG_LIMIT_MS
        assert await heads.update() is Sight.REPLACED
        assert heads.head is not None
        assert heads.head.number == await height_of(devnet)


async def test_machines_that_catch_up_make_nothing_forgotten(devnet: Devnet) -> None:
    """Each time that the head is shown again, the wait for it begins anew."""
    async with heads_of(devnet, 1) as (heads, [proxy], clock):
        await follow(heads, devnet)
        for _ in range(3):
            proxy.faults["*"] = stale_by(4)
            assert await heads.update() is Sight.LAGGING
            clock.now += LAG_LIMIT_MS - 1
            assert await heads.update() is Sight.LAGGING
            proxy.heal()
            assert await heads.update() is Sight.SAME
            clock.now += LAG_LIMIT_MS


async def test_of_a_slow_chain_a_head_is_forgotten_after_some_blocks(devnet: Devnet) -> None:
    """By the time that they take, or by what was shown meanwhile: the lie may have named a block
    that took long.
    """
    for passed, shown, sight in (
        (LAG_LIMIT_MS, 0, Sight.LAGGING),
        (LAG_LIMIT_BLOCKS * 12_000 - 1, LAG_LIMIT_BLOCKS - 1, Sight.LAGGING),
        (LAG_LIMIT_BLOCKS * 12_000, 0, Sight.REPLACED),
        (LAG_LIMIT_MS - 1, LAG_LIMIT_BLOCKS, Sight.LAGGING),
        (LAG_LIMIT_MS, LAG_LIMIT_BLOCKS, Sight.REPLACED),
    ):
        async with heads_of(devnet, 1) as (heads, [proxy], clock):
            await follow(heads, devnet, seconds=12)
            await devnet.rpc("anvil_mine", hex(2), hex(12))
            assert await heads.update() is Sight.MOVED
            assert heads.interval_ms == 12_000
            proxy.faults["*"] = stale_by(9)
            assert await heads.update() is Sight.LAGGING
            clock.now += passed
            proxy.faults["*"] = stale_by(9 - shown)
            assert await heads.update() is sight

"""A start looks again at all that a reorg may have undone, and keeps nobody waiting for it."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from facilitator.devnet import Devnet, DevnetOptions
from facilitator.reorgs import SLICE
from tests.chain import approve, devnet_payment, settled_logs
from tests.faultproxy import delay, fault_proxy
from tests.service import Service, serve

pytestmark = pytest.mark.anyio

SETTLED = SLICE + 50
LATENCY = 0.05  # seconds
CALLS_A_POST = 100


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def settle_many(service: Service, devnet: Devnet) -> None:
    """SETTLED payments, all within the blocks that a reorg is watched for in."""
    for _ in range(SETTLED // 50):
        replies = await asyncio.gather(*(service.settle(devnet_payment(devnet)) for _ in range(50)))
        assert all(reply["success"] for reply in replies)


async def test_the_first_outcome_after_kill_9_does_not_wait_for_all_before_it(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Every settled payment is looked at again, and a hundred of them are one question."""
    await approve(devnet)
    async with fault_proxy(devnet.url) as proxy:
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as first:
            await settle_many(first, devnet)
            await first.stop(signal.SIGKILL)
        proxy.faults["*"] = delay(LATENCY)
        asked = proxy.calls["eth_getTransactionReceipt"]
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as second:
            posts, started = proxy.posts, time.monotonic()
            assert (await second.settle(devnet_payment(devnet)))["success"]
            took = time.monotonic() - started
            posts = proxy.posts - posts
            async with asyncio.timeout(10):
                while proxy.calls["eth_getTransactionReceipt"] - asked <= SETTLED:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert not second.logged("settlement_reorged")
    assert took < 5
    # the look-back's own, and what one payment asks at two or three heads, four looks each
    assert posts < SETTLED // CALLS_A_POST + 40


async def test_what_left_the_chain_while_nobody_looked_is_noticed_all_of_it(
    devnet: Devnet, tmp_path: Path
) -> None:
    """More than one look takes, killed, and every block of them undone: each is told of, and is
    paid again by the same bytes.
    """
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(5))  # the approval stays
    base = int(str(await devnet.rpc("eth_blockNumber")), 16)
    async with serve(devnet, tmp_path) as first:
        await settle_many(first, devnet)
        paid = {log.transaction_hash for log in await settled_logs(devnet)}
        await first.stop(signal.SIGKILL)
    head = int(str(await devnet.rpc("eth_blockNumber")), 16)
    await devnet.rpc("anvil_reorg", head - base, [])
    assert await settled_logs(devnet) == []
    async with serve(devnet, tmp_path) as second:
        await second.wait_for("settlement_reorged", SETTLED)
        await second.wait_for("settlement_confirmed", SETTLED)
        assert len(second.logged("settlement_reorged")) == SETTLED
    logs = await settled_logs(devnet)
    assert len(logs) == SETTLED
    assert {log.transaction_hash for log in logs} == paid

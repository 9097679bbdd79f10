"""A start looks again at all that a reorg may have undone, and keeps nobody waiting for it."""

import asyncio
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.engine.reorgs import SLICE
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.faultproxy import Answer, Call, Forward, delay, fault_proxy
from tests.support.service import Service, serve

pytestmark = pytest.mark.anyio

SETTLED = SLICE + 50
LATENCY = 0.05  # seconds
CALLS_A_POST = 100


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def settle_many(service: Service, devnet: Devnet) -> None:
    """SETTLED payments, all within the blocks that a reorg is watched for in."""
    for first in range(0, SETTLED, 50):
        names = (f"/paid/{number}" for number in range(first, first + 50))
        payments = (devnet_payment(devnet, resource=name) for name in names)
        replies = await asyncio.gather(*(service.settle(payment) for payment in payments))
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
    paid again, once, by what was signed for it before or by a replacement of that.
    """
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(5))  # the approval stays
    base = int(str(await devnet.rpc("eth_blockNumber")), 16)
    async with serve(devnet, tmp_path) as first:
        await settle_many(first, devnet)
        paid = {log.resource for log in await settled_logs(devnet)}
        await first.stop(signal.SIGKILL)
    head = int(str(await devnet.rpc("eth_blockNumber")), 16)
    await devnet.rpc("anvil_reorg", head - base, [])
    assert await settled_logs(devnet) == []
    async with serve(devnet, tmp_path) as second:
        await second.wait_for("settlement_reorged", SETTLED)
        await second.wait_for("settlement_confirmed", SETTLED)
        assert len(second.logged("settlement_reorged")) == SETTLED
    logs = await settled_logs(devnet)
    assert len(logs) == len(paid) == SETTLED
    assert {log.resource for log in logs} == paid


async def test_what_cannot_be_told_holds_up_no_other_and_is_not_forgotten(
    devnet: Devnet, tmp_path: Path
) -> None:
    """A node gives garbage for one receipt: another payment's reorg is noticed all the same, and
    the one in doubt is watched on, however many blocks come, until its receipt can be read.
    """
    await approve(devnet)
    await devnet.rpc("anvil_mine", hex(5))
    async with fault_proxy(devnet.url) as proxy:
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as first:
            garbled = (await first.settle(devnet_payment(devnet)))["txHash"]
            undone = (await first.settle(devnet_payment(devnet)))["txHash"]
            await first.stop(signal.SIGKILL)
        [_, log] = await settled_logs(devnet)
        head = int(str(await devnet.rpc("eth_blockNumber")), 16)
        await devnet.rpc("anvil_reorg", head - log.block_number + 1, [])

        async def garble(call: Call, forward: Forward) -> Answer | None:
            if call["params"][0] == garbled:
                return {"jsonrpc": "2.0", "id": call["id"], "result": "garbage"}
            return await forward(call)

        proxy.faults["eth_getTransactionReceipt"] = garble
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as second:
            await second.wait_for("settlement_confirmed")
            [confirmed] = second.logged("settlement_confirmed")
            assert confirmed["transaction"] == undone
            assert len(second.logged("settlement_reorged")) == 1
            await devnet.rpc("anvil_mine", hex(70))  # more than a reorg is watched for
            await asyncio.sleep(3)
            await second.stop(signal.SIGKILL)
        assert state_of(tmp_path, garbled) == "mined"
        proxy.faults.clear()
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as third:
            await asyncio.sleep(3)
            await third.stop(signal.SIGKILL)
        assert state_of(tmp_path, garbled) == "final"


def state_of(folder: Path, transaction_hash: str) -> str:
    """What the journal says of the transaction that has this attempt."""
    with closing(sqlite3.connect(folder / "facilitator.db")) as db:
        [(state,)] = db.execute(
            """SELECT state FROM "transaction" WHERE id IN
               (SELECT transaction_id FROM attempt WHERE hash = ?)""",
            (bytes.fromhex(transaction_hash[2:]),),
        )
    return str(state)

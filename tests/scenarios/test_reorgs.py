"""Blocks that leave the chain, machines that lag behind a reorg, and gaps that one leaves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.blocks import (
    TALL,
    block_of,
    foreign_transfer,
    mine,
    nonce_of_signer,
    stop_mining,
)
from tests.support.chain import approve, devnet_payment, settle_call, settled_logs
from tests.support.faultproxy import Answer, Call, FaultProxy, Forward, fault_proxy, lose_request
from tests.support.scraping import scrape_until
from tests.support.service import Service, serve

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def test_a_block_that_leaves_before_it_is_deep_enough_was_never_told_of(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Two deep of three, then gone: the same bytes are mined again, and one success is said."""
    await approve(devnet)
    async with serve(devnet, tmp_path, CONFIRMATIONS="3") as service:
        waiting = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted")
        while not (logs := await settled_logs(devnet)):  # noqa: ASYNC110 - blocks come by themselves
            await asyncio.sleep(0.05)
        first = logs[0]
        head = int((await block_of(devnet))["number"], 16)
        await devnet.rpc("anvil_reorg", head - first.block_number + 1, [])
        assert await settled_logs(devnet) == []
        assert not waiting.done()
        reply = await waiting
        assert not service.logged("settlement_reorged")
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)
    assert (log.transaction_hash, await nonce_of_signer(devnet)) == (first.transaction_hash, 1)


async def test_what_a_stranger_paid_is_watched_like_our_own(devnet: Devnet, tmp_path: Path) -> None:
    """All our transactions were superseded; the block in which somebody else paid leaves the chain:
    alarm, and the payment is settled again.
    """
    await approve(devnet)
    header = devnet_payment(devnet)
    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = lose_request
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            await stop_mining(devnet)
            waiting = asyncio.create_task(service.settle(header))
            await service.wait_for("settlement_submitted")
            await foreign_transfer(devnet)
            await mine(devnet, 11)
            stranger = {"from": "0x" + devnet.accounts[5].address.hex(), **TALL}
            call = {"to": "0x" + devnet.contract.hex(), "data": "0x" + settle_call(header).hex()}
            paid = await devnet.rpc("eth_sendTransaction", {**stranger, **call})
            await mine(devnet, 3)
            reply = await waiting
            assert (reply["success"], reply["txHash"]) == (True, paid)
            proxy.faults.clear()
            await devnet.rpc("anvil_reorg", 4, [])
            await service.wait_for("settlement_reorged")
            await devnet.rpc("evm_setIntervalMining", 1)
            await service.wait_for("settlement_confirmed", 2)
            assert service.logged("settled_again")
    [log] = await settled_logs(devnet)
    assert log.transaction_hash != paid


async def test_a_receipt_of_a_fork_that_was_left_confirms_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """A machine behind the load balancer still shows the block in which we were mined, and the
    receipt in it; the chain has another block there.
    """
    await approve(devnet)
    raw: list[str] = []

    async def keep_back(call: Call, forward: Forward) -> Answer | None:
        raw.append(call["params"][0])
        return await lose_request(call, forward)

    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_sendRawTransaction"] = keep_back
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service:
            await stop_mining(devnet)
            waiting = asyncio.create_task(service.settle(devnet_payment(devnet)))
            await service.wait_for("settlement_submitted")
            before = await devnet.rpc("evm_snapshot")
            sent = await devnet.rpc("eth_sendRawTransaction", raw[0])
            await mine(devnet)
            receipt: Any = await devnet.rpc("eth_getTransactionReceipt", sent)
            block = await block_of(devnet)
            assert (receipt["status"], receipt["blockHash"]) == ("0x1", block["hash"])
            await devnet.rpc("evm_revert", before)
            _show_fork(proxy, receipt, block)
            await mine(devnet, 2)
            assert (await block_of(devnet, block["number"]))["hash"] != block["hash"]
            await asyncio.sleep(3)
            assert not service.logged("settlement_confirmed")
            assert not waiting.done()
            proxy.faults.clear()
            await devnet.rpc("evm_setIntervalMining", 1)
            reply = await waiting
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)


def _show_fork(proxy: FaultProxy, receipt: dict[str, Any], block: dict[str, Any]) -> None:
    async def receipts(call: Call, forward: Forward) -> Answer | None:
        if call["params"][0] != receipt["transactionHash"]:
            return await forward(call)
        return {"jsonrpc": "2.0", "id": call["id"], "result": receipt}

    async def blocks(call: Call, forward: Forward) -> Answer | None:
        if call["params"][0] != block["hash"]:
            return await forward(call)
        return {"jsonrpc": "2.0", "id": call["id"], "result": block}

    proxy.faults["eth_getTransactionReceipt"] = receipts
    proxy.faults["eth_getBlockByHash"] = blocks


async def test_a_node_that_lags_at_the_start_undoes_nothing(devnet: Devnet, tmp_path: Path) -> None:
    """What it does not show yet was mined all the same: no alarm, then or later."""
    await approve(devnet)
    async with serve(devnet, tmp_path) as first:
        old = await block_of(devnet)
        assert (await first.settle(devnet_payment(devnet)))["success"]

    async def lag(call: Call, forward: Forward) -> Answer | None:
        if call["method"] == "eth_getBlockByNumber" and call["params"][0] == "latest":
            return {"jsonrpc": "2.0", "id": call["id"], "result": old}
        if call["method"] == "eth_getTransactionReceipt":
            return {"jsonrpc": "2.0", "id": call["id"], "result": None}
        return await forward(call)

    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["*"] = lag
        async with serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as second:
            await asyncio.sleep(2)
            proxy.faults.clear()
            await asyncio.sleep(3)
            assert not second.logged("settlement_reorged")


async def test_after_a_reorg_a_proof_counts_again_where_it_is_deep_enough(
    devnet: Devnet, tmp_path: Path
) -> None:
    """With three confirmations, the same transaction in a newer block is confirmed in its third."""
    await approve(devnet)
    await mine(devnet, 5)  # the approval stays
    async with serve(devnet, tmp_path, JEJU_CONFIRMATIONS="3") as service:
        reply = await service.settle(devnet_payment(devnet))
        assert reply["success"]
        await stop_mining(devnet)
        await asyncio.sleep(1)
        seen: Any = await devnet.rpc("eth_getTransactionByHash", reply["txHash"])
        head = await block_of(devnet)
        depth = int(head["number"], 16) - int(seen["blockNumber"], 16) + 1
        raw = await devnet.rpc("eth_getRawTransactionByHash", reply["txHash"])
        await devnet.rpc("anvil_reorg", depth, [[raw, depth - 1]])
        await service.wait_for("settlement_reorged")
        await asyncio.sleep(1.5)
        assert len(service.logged("settlement_confirmed")) == 1
        await mine(devnet)
        await asyncio.sleep(1.5)
        assert len(service.logged("settlement_confirmed")) == 1
        await mine(devnet)
        await service.wait_for("settlement_confirmed", 2)
    [log] = await settled_logs(devnet)
    assert log.transaction_hash == reply["txHash"]


async def _gap_below_ours(devnet: Devnet, service: Service) -> tuple[str, int]:
    """Our transaction, mined above somebody else's, and the account nonce of that one; then both
    have left the chain, and nobody sends the other one again.
    """
    foreign = await nonce_of_signer(devnet)
    await foreign_transfer(devnet)
    await mine(devnet)
    reply = await service.settle(devnet_payment(devnet))
    assert reply["success"]
    await asyncio.sleep(1.2)
    mined: Any = await devnet.rpc("eth_getTransactionByHash", reply["txHash"])
    assert int(mined["nonce"], 16) == foreign + 1
    head = await block_of(devnet)
    await devnet.rpc("anvil_reorg", int(head["number"], 16) - int(mined["blockNumber"], 16) + 3, [])
    assert await nonce_of_signer(devnet) == foreign
    return reply["txHash"], foreign


async def test_a_gap_in_our_account_nonces_is_filled_by_a_transfer_of_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Another program's transaction below ours is reorged away: what is missing is sent, once, and
    after another reorg it is sent again like everything else of ours.
    """
    await approve(devnet)
    await mine(devnet, 20)  # the approval stays
    async with serve(devnet, tmp_path) as service:
        transaction, account_nonce = await _gap_below_ours(devnet, service)
        await scrape_until(service, lambda seen: seen.value("facilitator_signer_nonce_gap") == 1)
        await service.wait_for("gap_filled")
        await service.wait_for("settlement_confirmed", 2)
        await scrape_until(service, lambda seen: seen.value("facilitator_signer_nonce_gap") == 0)
        await asyncio.sleep(1.2)
        await devnet.rpc("anvil_reorg", 4, [])
        await service.wait_for("settlement_reorged", 2)
        await service.wait_for("settlement_confirmed", 3)
        assert len(service.logged("gap_filled")) == 1
    signer = "0x" + devnet.signer.address.hex()
    assert await nonce_of_signer(devnet) == account_nonce + 2
    filler: Any = await devnet.rpc("eth_getTransactionBySenderAndNonce", signer, hex(account_nonce))
    assert (filler["to"], filler["value"], filler["input"]) == (signer, "0x0", "0x")
    [log] = await settled_logs(devnet)
    assert log.transaction_hash == transaction

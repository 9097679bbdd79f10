"""A payment was told to have failed, and a reorg deeper than that failure undoes its transaction:
the account nonce is used by a filler, never again by the bytes that could pay after all.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.nonces import MAX_IN_FLIGHT
from tests.support.blocks import (
    DEEP,
    block_of,
    foreign_transfer,
    mine,
    nonce_of_signer,
    revoke,
    stop_mining,
)
from tests.support.bursts import (
    OPTIONS,
    QUEUED,
    payers,
    queue_up,
    replies_of,
    saturate,
    transactions_of,
)
from tests.support.chain import approve, balance, devnet_payment, settled_logs
from tests.support.encoding import calldata
from tests.support.endpoints import behind_two, settled
from tests.support.faultproxy import already_known, fault_proxy, lose_request, lying_nonce
from tests.support.service import Service, serve
from tests.support.x402 import v2_body
from tests.support.x402_chain import authorizations_used
from tests.support.x402_service import send

pytestmark = pytest.mark.anyio

SEND, COUNT = "eth_sendRawTransaction", "eth_getTransactionCount"
RAW = "eth_getRawTransactionByHash"
FINAL = 70  # deeper than reorgs are watched for


class Failed(Struct, frozen=True):
    """What was told, and what was signed for it."""

    settlement: str
    transaction: str
    raw: str
    account_nonce: int
    block_number: int


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return OPTIONS


async def failed_payment(devnet: Devnet, service: Service) -> Failed:
    """The payer takes the allowance back, the transaction reverts, and the seller is told so."""
    await stop_mining(devnet)
    asked = asyncio.create_task(service.settle(devnet_payment(devnet)))
    await service.wait_for("settlement_submitted")
    [line] = service.logged("settlement_submitted")
    async with asyncio.timeout(10):
        while (raw := await devnet.rpc(RAW, line["transaction"])) is None:  # noqa: ASYNC110 - a node
            await asyncio.sleep(0.05)
    await revoke(devnet)
    await mine(devnet, 1)
    receipt: Any = await devnet.rpc("eth_getTransactionReceipt", line["transaction"])
    assert receipt["status"] == "0x0"
    await mine(devnet, DEEP)
    await service.wait_for("settlement_failed")
    reply = await asked
    assert not reply["success"]
    assert str(reply["error"]).startswith("Insufficient allowance")
    return Failed(
        settlement=line["settlement"],
        transaction=line["transaction"],
        raw=str(raw),
        account_nonce=line["account_nonce"],
        block_number=int(receipt["blockNumber"], 16),
    )


async def reorg_from(devnet: Devnet, block_number: int) -> None:
    """That block and all above it leave the chain, with the payer's change of mind."""
    head = await block_of(devnet)
    await devnet.rpc("anvil_reorg", int(head["number"], 16) - block_number + 1, [])


async def transaction_at(devnet: Devnet, account_nonce: int) -> dict[str, Any]:
    signer = "0x" + devnet.signer.address.hex()
    found: Any = await devnet.rpc("eth_getTransactionBySenderAndNonce", signer, hex(account_nonce))
    return dict(found)


async def judge(devnet: Devnet, service: Service, failed: Failed, later: int) -> None:
    """The failure is true, what came later is paid, and a filler stands between."""
    filler = await transaction_at(devnet, failed.account_nonce)
    signer = "0x" + devnet.signer.address.hex()
    assert (filler["to"], filler["value"], filler["input"]) == (signer, "0x0", "0x")
    _, told = await service.get(f"/settlements/{failed.settlement}")
    assert told["state"] == "failed"
    [carrier] = told["transactions"]
    assert [carrier["attempts"][0]["transaction"], carrier["attempts"][-1]["transaction"]] == [
        failed.transaction,
        filler["hash"],
    ]
    old, new = carrier["attempts"][0], carrier["attempts"][-1]
    for fee in ("maxFeePerGas", "maxPriorityFeePerGas"):
        assert 1000 * int(new[fee]) >= 1125 * int(old[fee])
    assert len(await settled_logs(devnet)) == later
    assert await balance(devnet, devnet.seller.address) > 0
    for alarm in ("paid_after_failure", "settlement_confirmed"):
        named = [line["settlement"] for line in service.logged(alarm)]
        assert failed.settlement not in named
    assert not service.logged("turn_broken")


@pytest.mark.parametrize("depth", [0, FINAL], ids=["watched", "final"])
async def test_what_a_deep_reorg_undoes_after_its_failure_was_told_is_not_sent_again(
    devnet: Devnet, tmp_path: Path, depth: int
) -> None:
    """With the allowance back the same bytes would pay. Later payments of the signer settle, and
    what stays of the failed one survives another reorg.
    """
    await approve(devnet)
    await mine(devnet, 5)
    async with serve(devnet, tmp_path) as service:
        failed = await failed_payment(devnet, service)
        if depth:
            await devnet.rpc("evm_setIntervalMining", 1)
            await mine(devnet, depth)
            await asyncio.sleep(3)  # it is final when a turn has looked
        await reorg_from(devnet, failed.block_number)
        assert await nonce_of_signer(devnet) == failed.account_nonce
        await devnet.rpc("evm_setIntervalMining", 1)
        headers = [devnet_payment(devnet) for _ in range(3)]
        replies = await asyncio.gather(*(service.settle(header) for header in headers))
        assert [reply["success"] for reply in replies] == [True] * 3
        await service.wait_for("gap_filled")
        await judge(devnet, service, failed, 3)
        [filler] = service.logged("gap_filled")
        assert filler["account_nonce"] == failed.account_nonce
        await asyncio.sleep(2)
        seen = await transaction_at(devnet, failed.account_nonce)
        await reorg_from(devnet, int(seen["blockNumber"], 16))
        await service.wait_for("settlement_confirmed", 6)
        await judge(devnet, service, failed, 3)
    assert await nonce_of_signer(devnet) == failed.account_nonce + 4


async def test_what_was_superseded_and_failed_is_not_sent_again(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Somebody else's transaction had taken its account nonce, and leaves the chain."""
    await approve(devnet)
    await mine(devnet, 5)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        proxy.faults[SEND] = already_known
        await stop_mining(devnet)
        asked = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted")
        await foreign_transfer(devnet)
        await revoke(devnet)
        await mine(devnet, 1)
        first = int((await block_of(devnet))["number"], 16)
        await mine(devnet, DEEP)
        await service.wait_for("superseded")
        await service.wait_for("settlement_failed")
        assert not (await asked)["success"]
        proxy.heal()
        await reorg_from(devnet, first)
        assert await nonce_of_signer(devnet) == 0
        await devnet.rpc("evm_setIntervalMining", 1)
        assert (await service.settle(devnet_payment(devnet)))["success"]
        await service.wait_for("gap_filled")
        [line] = service.logged("settlement_submitted")[:1]
        filler = await transaction_at(devnet, line["account_nonce"])
        assert (filler["input"], len(await settled_logs(devnet))) == ("0x", 1)
        assert not service.logged("gap_reopened")


async def test_an_old_attempt_that_is_mined_all_the_same_is_told(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Somebody kept the bytes. The journal says what the chain says, and an alert that it had said
    something else before.
    """
    await approve(devnet)
    await mine(devnet, 5)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        failed = await failed_payment(devnet, service)
        proxy.faults[SEND] = lose_request
        await reorg_from(devnet, failed.block_number)
        await service.wait_for("gap_filled")
        await devnet.rpc("eth_sendRawTransaction", failed.raw)
        await mine(devnet, 2)
        await service.wait_for("paid_after_failure")
        [alert] = service.logged("paid_after_failure")
        assert (alert["level"], alert["settlement"]) == ("critical", failed.settlement)
        proxy.heal()
        await devnet.rpc("evm_setIntervalMining", 1)
        assert (await service.settle(devnet_payment(devnet)))["success"]
        _, told = await service.get(f"/settlements/{failed.settlement}")
        assert (told["state"], told["transaction"]) == ("confirmed", failed.transaction)
    paid = [log.transaction_hash for log in await settled_logs(devnet)]
    assert paid.count(failed.transaction) == 1
    assert len(paid) == 2


async def test_no_ended_transaction_is_undone_because_one_endpoint_counts_too_few(
    devnet: Devnet, tmp_path: Path
) -> None:
    """While the other one is away: it waits until that is back, and nothing was the matter."""
    await approve(devnet)
    async with behind_two(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="4") as (service, first, second):
        await settled(service, devnet, 2)
        await mine(devnet, FINAL)
        await asyncio.sleep(2)
        second.faults["*"] = lose_request
        async with asyncio.timeout(30):
            while not service.logged("endpoint_excluded"):
                await service.get("/ready")
                await settled(service, devnet, 1)
        await mine(devnet, FINAL)
        await asyncio.sleep(2)
        first.faults[SEND] = already_known
        first.faults[COUNT] = lying_nonce(by=-2)
        header = devnet_payment(devnet)
        assert not (await service.settle(header))["success"]
        await asyncio.sleep(16)  # longer than a gap is waited for
        for event in ("gap_reopened", "gap_filled"):
            assert not service.logged(event)
        first.heal()
        second.heal()
        async with asyncio.timeout(60):
            while not (await service.settle(header))["success"]:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.5)
        for event in ("gap_reopened", "gap_filled", "superseded"):
            assert not service.logged(event)
    assert await nonce_of_signer(devnet) == len(await settled_logs(devnet))


@pytest.mark.parametrize("depth", [0, FINAL], ids=["watched", "final"])
async def test_of_a_group_with_a_told_failure_the_others_are_settled_again(
    devnet: Devnet, tmp_path: Path, depth: int
) -> None:
    """They were told of as successes, and their transaction is the one that must not be sent again:
    each is noticed, and paid by a transaction of its own.
    """
    poor = payers(devnet)[0]
    await mine(devnet, 5)
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="90") as service:
        first = await saturate(service, devnet)
        bodies = [v2_body(devnet, payer=payer) for payer in payers(devnet)[:QUEUED]]
        waiting = await queue_up(service, bodies)
        await mine(devnet)  # frees the places of the first ones
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT + QUEUED)
        [(group, size)] = [(one, n) for one, n in transactions_of(service).items() if n > 1]
        assert size == QUEUED
        left = await balance(devnet, poor.address)
        empty = calldata("transfer(address,uint256)", devnet.deployer.address, left)
        await send(devnet, poor, devnet.usdc, empty)
        await asyncio.sleep(1)  # the group is in the pool as well
        await mine(devnet)
        seen: Any = await devnet.rpc("eth_getTransactionReceipt", group)
        await mine(devnet, DEEP)
        await service.wait_for("settlement_failed")
        replies = await replies_of([*first, *waiting])
        assert [reply["success"] for reply in replies].count(False) == 1
        [failed] = service.logged("settlement_failed")
        if depth:
            await devnet.rpc("evm_setIntervalMining", 1)
            await mine(devnet, depth)
            await asyncio.sleep(3)  # it is final when a turn has looked
        await reorg_from(devnet, int(seen["blockNumber"], 16))
        await devnet.rpc("evm_setIntervalMining", 1)
        _, last = await service.post("/settle", v2_body(devnet, payer=payers(devnet)[-1]))
        assert last["success"]
        await service.wait_for("settlement_reorged", QUEUED - 1)
        await service.wait_for("settlement_confirmed", MAX_IN_FLIGHT + 2 * (QUEUED - 1) + 1)
        assert len(service.logged("settled_again")) == QUEUED - 1
        assert len(service.logged("gap_filled")) == 1
        _, told = await service.get(f"/settlements/{failed['settlement']}")
        assert told["state"] == "failed"
    assert await balance(devnet, poor.address) == left
    used = [log.transaction_hash for log in await authorizations_used(devnet)]
    assert len(used) == MAX_IN_FLIGHT + QUEUED
    assert group not in used

"""A signer's budget for gas holds, whatever is pending or mined; above it nothing is signed.

And what OP-stack chains charge for data is part of what a transaction may cost.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from facilitator.chain.l1_fee import GAS_PRICE_ORACLE
from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.budget import DAY_MS
from facilitator.domain.settlement import TransactionState
from facilitator.ethereum.fees import GWEI, Fees
from facilitator.journal.store import BudgetSpent, Claimed, NewTransaction, Store, TransactionChange
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.faultproxy import Answer, Call, Forward, fault_proxy
from tests.support.journal import (
    ALICE,
    CHAIN_ID,
    NOW,
    SIGNERS,
    everything,
    filler,
    gas_spent,
    payment,
    settlement_of,
    signing,
    transaction_of,
)
from tests.support.service import request, serve

pytestmark = pytest.mark.anyio

COST = 400_000 * GWEI  # what `transaction_of` may cost: 200,000 gas at 2 gwei


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


def limited(limit: int, *, l1_fee: int = 0) -> tuple[Any, NewTransaction]:
    paid = payment()
    new = transaction_of(paid)
    cost = COST + l1_fee
    return settlement_of(paid), replace(new, gas_budget=limit, most_cost=cost, l1_fee=l1_fee)


async def claim(store: Store, limit: int, now: int = NOW, *, l1_fee: int = 0) -> object:
    return await store.claim(*limited(limit, l1_fee=l1_fee), now)


async def end(store: Store, claimed: object, cost: int | None, block: int, now: int = NOW) -> None:
    assert isinstance(claimed, Claimed)
    change = TransactionChange(
        id=claimed.transaction.id,
        state=TransactionState.MINED if cost is not None else TransactionState.SUPERSEDED,
        block_number=block if cost is not None else None,
        gas_cost=cost,
    )
    await store.record([change], [], now)


async def test_what_is_pending_counts_with_the_most_that_it_may_cost(store: Store) -> None:
    """L1 data fee included; what is refused leaves no trace."""
    limit = 2 * COST + 7
    assert isinstance(await claim(store, limit, l1_fee=7), Claimed)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == COST + 7
    before = await everything(store)
    assert await claim(store, limit - 1) == BudgetSpent(COST + 7)
    assert await everything(store) == before
    assert isinstance(await claim(store, limit), Claimed)
    assert await claim(store, limit) == BudgetSpent(limit)


async def test_what_is_mined_counts_with_what_it_did_cost(store: Store) -> None:
    """Also after it is buried, and nothing for what was superseded."""
    first, second = await claim(store, 10 * COST), await claim(store, 10 * COST)
    await end(store, first, 5, block=10)
    await end(store, second, None, block=0)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == 5
    await store.finalize(CHAIN_ID, 10)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == 5
    third = await claim(store, COST + 5)
    assert isinstance(third, Claimed)
    await end(store, third, 2**80, block=11)
    await store.finalize(CHAIN_ID, 11)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == 5 + 2**80


async def test_a_new_day_has_a_new_budget_but_for_what_is_pending(store: Store) -> None:
    mined, _ = await claim(store, 3 * COST), await claim(store, 3 * COST)
    await end(store, mined, COST, block=10)
    assert isinstance(await claim(store, 2 * COST), BudgetSpent)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW + DAY_MS) == COST
    assert isinstance(await claim(store, 2 * COST, NOW + DAY_MS), Claimed)


async def test_signers_and_chains_have_budgets_of_their_own(store: Store) -> None:
    await claim(store, COST)
    assert await gas_spent(store, CHAIN_ID, SIGNERS[1].address, NOW) == 0
    assert await gas_spent(store, CHAIN_ID + 1, ALICE, NOW) == 0


async def test_a_reorg_makes_a_mined_transaction_cost_its_most_again(store: Store) -> None:
    claimed = await claim(store, COST)
    await end(store, claimed, 5, block=10)
    assert isinstance(claimed, Claimed)
    undone = TransactionChange(id=claimed.transaction.id, state=TransactionState.PENDING)
    await store.record([undone], [], NOW)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == COST


@pytest.mark.parametrize("later", [NOW, NOW + DAY_MS])
async def test_what_a_reorg_takes_back_after_it_was_buried_is_counted_once(
    store: Store, later: int
) -> None:
    """A final transaction that the chain wants again is pending, then mined, then final: each time
    with its own cost and no other, by the day it was signed, beside one that stays final.
    """
    first, second = await claim(store, 10 * COST), await claim(store, 10 * COST)
    await end(store, first, 2**80, block=10)
    await end(store, second, 5, block=10)
    await store.finalize(CHAIN_ID, 10)
    assert isinstance(first, Claimed)
    nonce = first.transaction.account_nonce
    for cost in (3, 2**90, 0):
        assert await store.revive(CHAIN_ID, ALICE, nonce)
        assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == COST + 5
        await end(store, first, cost, block=11, now=later)
        assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == cost + 5
        await store.finalize(CHAIN_ID, 11)
        assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == cost + 5
        assert await gas_spent(store, CHAIN_ID, ALICE, NOW + DAY_MS) == 0


async def test_what_was_superseded_has_cost_nothing_to_give_back(store: Store) -> None:
    first, second = await claim(store, 10 * COST), await claim(store, 10 * COST)
    await end(store, first, None, block=0)
    await end(store, second, 5, block=10)
    await store.finalize(CHAIN_ID, 10)
    assert isinstance(first, Claimed)
    assert await store.revive(CHAIN_ID, ALICE, first.transaction.account_nonce)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == COST + 5


async def test_a_replacement_and_another_transaction_keep_to_the_budget(store: Store) -> None:
    claimed = await claim(store, COST)
    assert isinstance(claimed, Claimed)
    transaction, settlement = claimed.transaction, claimed.settlement
    dearer = signing(SIGNERS[0], transaction.call, fees=Fees(3 * GWEI, GWEI))(0)
    limit = 600_000 * GWEI
    assert not await store.add_attempt(transaction.id, dearer, limit - 1, NOW)
    again = replace(transaction_of(settlement.payment), gas_budget=COST, most_cost=COST)
    assert isinstance(await store.settle_again(settlement.id, 1, again, NOW), BudgetSpent)
    assert await store.get(settlement.id) is not None
    assert (await store.get(settlement.id)).settlement == settlement  # type: ignore[union-attr]
    assert await store.add_attempt(transaction.id, dearer, limit, NOW)


async def test_a_replacement_with_another_gas_limit_keeps_to_the_budget(store: Store) -> None:
    """What the transaction may cost from then on counts: its dearest attempt with that limit."""
    claimed = await claim(store, COST)
    assert isinstance(claimed, Claimed)
    transaction = claimed.transaction
    dearer = signing(SIGNERS[0], transaction.call, fees=Fees(3 * GWEI, GWEI))(0)
    limit = 900_000 * GWEI
    assert not await store.add_attempt(transaction.id, dearer, limit - 1, NOW, 300_000)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == COST
    assert await store.add_attempt(transaction.id, dearer, limit, NOW, 300_000)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == limit
    record = await store.get(claimed.settlement.id)
    assert record is not None
    attempts = (*transaction.attempts, dearer)
    assert record.transactions == (replace(transaction, gas_limit=300_000, attempts=attempts),)
    dearest = signing(SIGNERS[0], transaction.call, fees=Fees(4 * GWEI, GWEI))(0)
    assert await store.add_attempt(transaction.id, dearest, None, NOW)
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == 1_200_000 * GWEI


async def test_a_gap_is_filled_beyond_the_budget_and_what_it_costs_counts(store: Store) -> None:
    """All that were signed after the gap wait for it."""
    assert isinstance(await claim(store, COST), Claimed)
    gap = await store.raise_nonce_floor(CHAIN_ID, ALICE, 5)
    made = await store.fill(replace(filler(), gas_budget=1, most_cost=COST), gap, NOW)
    assert made is not None
    spent = COST + 21_000 * 2 * GWEI
    assert await gas_spent(store, CHAIN_ID, ALICE, NOW) == spent
    assert await claim(store, 2 * COST) == BudgetSpent(spent)


async def test_a_spent_budget_is_a_503(devnet: Devnet, tmp_path: Path) -> None:
    """Enough for some, and not for all; nothing is claimed beyond, and the rest is told to wait."""
    await approve(devnet)
    limit = 10**16  # for about eight, at the base fee below
    async with serve(devnet, tmp_path, MAX_GAS_SPEND_PER_DAY=str(limit)) as service:
        await devnet.rpc("evm_setIntervalMining", 0)
        await devnet.rpc("anvil_setNextBlockBaseFeePerGas", hex(5 * GWEI))
        await devnet.rpc("anvil_mine", "0x1")
        headers = [devnet_payment(devnet) for _ in range(24)]
        posting = [
            asyncio.create_task(service.post("/settle", request(header))) for header in headers
        ]
        await service.wait_for("signer_budget_spent")
        await asyncio.sleep(1)
        await devnet.rpc("evm_setIntervalMining", 1)
        replies = await asyncio.gather(*posting)
        sent = service.logged("settlement_submitted")
        assert len(service.logged("signer_budget_spent")) == 1
    paid = [reply for status, reply in replies if status == 200]
    refused = [reply["error"] for status, reply in replies if status == 503]
    assert all(reply["success"] for reply in paid)
    assert set(refused) == {"Settlement wallet has spent its gas budget"}
    assert len(paid) == len(sent) == len(await settled_logs(devnet))
    most = 0
    for line in sent:
        seen: Any = await devnet.rpc("eth_getTransactionByHash", line["transaction"])
        most += int(seen["gas"], 16) * int(seen["maxFeePerGas"], 16)
    assert 0 < most <= limit


def returning(word: int) -> str:
    """Code that returns one word, whatever it is asked."""
    return "0x7f" + word.to_bytes(32).hex() + "5f5260205ff3"


async def test_the_data_fee_of_an_op_stack_chain_is_part_of_the_gas_money(
    devnet: Devnet, tmp_path: Path
) -> None:
    """A signer whose money covers the gas and not the data sends nothing; the receipt's own
    `l1Fee` is what the budget counts afterwards.
    """
    await approve(devnet)
    header = devnet_payment(devnet)
    l1_fee = 10**17
    oracle, signer = "0x" + GAS_PRICE_ORACLE.hex(), "0x" + devnet.signer.address.hex()
    await devnet.rpc("anvil_setCode", oracle, returning(l1_fee))

    async def charge(call: Call, forward: Forward) -> Answer | None:
        answer = await forward(call)
        if answer.get("result"):
            answer["result"]["l1Fee"] = hex(l1_fee)
        return answer

    async with fault_proxy(devnet.url) as proxy:
        proxy.faults["eth_getTransactionReceipt"] = charge
        changes = {"JEJU_RPC_URL": proxy.url, "MAX_GAS_SPEND_PER_DAY": str(35 * 10**16)}
        async with serve(devnet, tmp_path, **changes) as service:
            await devnet.rpc("anvil_setBalance", signer, hex(l1_fee))
            status, reply = await service.post("/settle", request(header))
            assert (status, reply["error"]) == (503, "Settlement wallet is out of gas money")
            assert not service.logged("settlement_submitted")
            await devnet.rpc("anvil_setBalance", signer, hex(10**18))
            assert (await service.settle(header))["success"]
            # 0.1 of 0.35 are spent, the next may cost 0.2 and does cost 0.1; then 0.2 are too much.
            assert (await service.settle(devnet_payment(devnet)))["success"]
            status, reply = await service.post("/settle", request(devnet_payment(devnet)))
            assert (status, reply["error"]) == (503, "Settlement wallet has spent its gas budget")
    assert len(await settled_logs(devnet)) == 2

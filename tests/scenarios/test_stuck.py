"""A transaction that its fees hold up: replaced as far as the cap goes, and never further."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.nonces import MAX_IN_FLIGHT
from tests.support.bursts import OPTIONS, payers, post_all, replies_of, x402_posts, x402_proofs
from tests.support.chain import approve, devnet_payment, settled_logs
from tests.support.faultproxy import fault_proxy, replacement_underpriced
from tests.support.scraping import scrape
from tests.support.service import Service, serve
from tests.support.x402 import v2_body
from tests.support.x402_service import resume_mining, stop_mining

pytestmark = pytest.mark.anyio

GWEI = 10**9
REPLACED_AFTER = 10  # seconds


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return OPTIONS


async def raise_base_fee(devnet: Devnet, gwei: int) -> None:
    """As of the next block. In the blocks after it the base fee falls by an eighth each."""
    await devnet.rpc("anvil_setNextBlockBaseFeePerGas", hex(gwei * GWEI))


async def attempts_of(service: Service, transaction: str) -> list[dict[str, Any]]:
    """All that was signed for one account nonce, printed for who looks (pytest -rP)."""
    _, told = await service.get(f"/settlements/{transaction}")
    [sent] = told["transactions"]
    attempts: list[dict[str, Any]] = sent["attempts"]
    for attempt in attempts:
        fees = (int(attempt[name]) for name in ("maxFeePerGas", "maxPriorityFeePerGas"))
        print(attempt["transaction"], *(f"{fee / GWEI:.3f} gwei" for fee in fees))
    return attempts


def assert_bumped(attempts: list[dict[str, Any]], cap_gwei: int) -> None:
    """Each attempt outbids the one before by an eighth, and none passes the cap."""
    for name in ("maxFeePerGas", "maxPriorityFeePerGas"):
        fees = [int(attempt[name]) for attempt in attempts]
        assert all(after * 8 >= before * 9 for before, after in itertools.pairwise(fees))
        assert max(fees) <= cap_gwei * GWEI


async def test_above_the_cap_it_stays_pending_and_is_mined_when_the_fees_fall(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The seller hears `Settlement pending`; the chain never sees an attempt above the cap."""
    await approve(devnet)
    header = devnet_payment(devnet)
    limits = {"MAX_FEE_PER_GAS_GWEI": "10", "SETTLE_TIMEOUT_SECONDS": "20"}
    async with serve(devnet, tmp_path, **limits) as service:
        await stop_mining(devnet)
        waiting = asyncio.create_task(service.settle(header))
        await service.wait_for("settlement_submitted")
        [submitted] = service.logged("settlement_submitted")
        for _ in range(20):  # blocks above the cap
            await raise_base_fee(devnet, 40)
            await devnet.rpc("evm_mine")
            await asyncio.sleep(1)
        pending = await waiting
        assert (pending["success"], pending["error"]) == (False, "Settlement pending")
        assert await settled_logs(devnet) == []
        assert_bumped(await attempts_of(service, submitted["transaction"]), 10)
        await service.wait_for("stuck_at_fee_cap")
        assert (await scrape(service)).values("facilitator_stuck_at_fee_cap") == [1]
        await raise_base_fee(devnet, 1)
        await resume_mining(devnet)
        reply = await service.settle(header)
        attempts = await attempts_of(service, submitted["transaction"])
        assert len(service.logged("stuck_at_fee_cap")) == 1
        assert (await scrape(service)).values("facilitator_stuck_at_fee_cap") == [0]
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)
    assert_bumped(attempts, 10)
    assert log.transaction_hash in {attempt["transaction"] for attempt in attempts}


async def test_a_pool_that_finds_a_replacement_underpriced_loses_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """It goes on with the bytes that it has, or with a higher bid."""
    await approve(devnet)
    async with (
        fault_proxy(devnet.url) as proxy,
        serve(devnet, tmp_path, JEJU_RPC_URL=proxy.url) as service,
    ):
        await stop_mining(devnet)
        waiting = asyncio.create_task(service.settle(devnet_payment(devnet)))
        await service.wait_for("settlement_submitted")
        [submitted] = service.logged("settlement_submitted")
        await asyncio.sleep(0.5)
        proxy.faults["eth_sendRawTransaction"] = replacement_underpriced
        await asyncio.sleep(REPLACED_AFTER + 3)
        await resume_mining(devnet)
        reply = await waiting
        assert len(await attempts_of(service, submitted["transaction"])) >= 2
    [log] = await settled_logs(devnet)
    assert (reply["success"], reply["txHash"]) == (True, log.transaction_hash)


async def test_a_stuck_group_is_replaced_by_the_same_group(devnet: Devnet, tmp_path: Path) -> None:
    """The same call at the same account nonce for higher fees; all its members are settled by it,
    each told the transaction that was mined.
    """
    queued = 8
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="90") as service:
        await stop_mining(devnet)
        first = await post_all(service, x402_posts(devnet, MAX_IN_FLIGHT))
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT)
        bodies = [v2_body(devnet, payer=payer) for payer in payers(devnet)[:queued]]
        waiting = await post_all(service, [("/settle", body) for body in bodies])
        await asyncio.sleep(1)  # no event says that one waits
        await devnet.rpc("evm_mine")
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT + queued)
        group = service.logged("settlement_submitted")[-1]["transaction"]
        await asyncio.sleep(0.5)
        sent: Any = await devnet.rpc("eth_getTransactionByHash", group)
        await raise_base_fee(devnet, 20)
        await resume_mining(devnet)
        replies = await replies_of([*first, *waiting])
        attempts = await attempts_of(service, group)
    assert all(reply["success"] for reply in replies)
    [mined] = {reply["transaction"] for reply in replies[MAX_IN_FLIGHT:]}
    assert mined != group
    replaced: Any = await devnet.rpc("eth_getTransactionByHash", mined)
    for name in ("from", "to", "input", "nonce", "gas"):
        assert replaced[name] == sent[name]
    assert_bumped(attempts, 500)
    assert (await x402_proofs(devnet)).count(mined) == queued

"""What goes wrong with one payment of a group, or with the gas for all, and who is told what."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from facilitator.chain.l1_fee import GAS_PRICE_ORACLE
from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.nonces import MAX_IN_FLIGHT
from tests.support.bursts import OPTIONS, payers, post_all, replies_of, x402_posts
from tests.support.chain import balance
from tests.support.encoding import calldata
from tests.support.service import Service, serve
from tests.support.x402 import AMOUNT, v2_body
from tests.support.x402_chain import Fault, authorizations_used, deploy_token, mint, transfers
from tests.support.x402_service import (
    BALANCE,
    DUPLICATE,
    MISMATCH,
    TOO_MANY_BLOCKS,
    USED,
    resume_mining,
    stop_mining,
    tokens_setting,
)

pytestmark = pytest.mark.anyio

QUEUED = 8
ETHER = 10**18


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return OPTIONS


async def queue(
    service: Service, devnet: Devnet, bodies: list[dict[str, Any]]
) -> tuple[list[asyncio.Task[Any]], list[asyncio.Task[Any]]]:
    """Payments that take all places of the signer on a chain that stands still, and these behind
    them.
    """
    await stop_mining(devnet)
    first = await post_all(service, x402_posts(devnet, MAX_IN_FLIGHT))
    await service.wait_for("settlement_submitted", MAX_IN_FLIGHT)
    waiting = await post_all(service, [("/settle", body) for body in bodies])
    await asyncio.sleep(1)  # no event says that one waits
    return first, waiting


def bodies_of(devnet: Devnet, count: int = QUEUED) -> list[dict[str, Any]]:
    return [v2_body(devnet, payer=payer) for payer in payers(devnet)[:count]]


async def statuses(posting: list[asyncio.Task[Any]]) -> Counter[tuple[int, str]]:
    answers = await asyncio.gather(*posting)
    return Counter((status, reply["errorReason"]) for status, reply in answers)


@pytest.mark.parametrize(
    ("fault", "told"),
    [(Fault.FEE, USED), (Fault.SILENCE, MISMATCH)],
    ids=str,
)
async def test_a_token_that_pays_nobody_is_no_fault_of_the_group_it_shares(
    devnet: Devnet, tmp_path: Path, fault: Fault, told: str
) -> None:
    """The transaction succeeds, with or without the payment: that one is no success, and the
    others, whose own logs are there, are no failures.
    """
    token = await deploy_token(devnet, "FaultyToken", fault)
    poor = payers(devnet)[0]
    await mint(devnet, token, poor.address)
    bodies = [v2_body(devnet, token=token, payer=poor), *bodies_of(devnet)[1:]]
    limits = {"JEJU_TOKENS": tokens_setting(token), "SETTLE_TIMEOUT_SECONDS": "90"}
    async with serve(devnet, tmp_path, **limits) as service:
        first, waiting = await queue(service, devnet, bodies)
        await devnet.rpc("evm_mine")
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT + QUEUED)
        [(group, size)] = [
            (one, n)
            for one, n in Counter(
                line["transaction"] for line in service.logged("settlement_submitted")
            ).items()
            if n > 1
        ]
        assert size == QUEUED
        await resume_mining(devnet)
        others = await replies_of([*first, *waiting[1:]])
        await asyncio.sleep(2)
        assert not waiting[0].done()  # a reorg might still make it another
        await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
        await asyncio.sleep(2)
        await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
        [failed] = await replies_of(waiting[:1])
    assert all(reply["success"] for reply in others)
    assert {reply["transaction"] for reply in others[MAX_IN_FLIGHT:]} == {group}
    assert (failed["success"], failed["errorReason"]) == (False, told)
    used = Counter(log.transaction_hash for log in await authorizations_used(devnet))
    assert used[group] == QUEUED - 1


async def test_who_drops_out_of_a_group_leaves_the_others_in_it(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The same payment twice, and one payer's money for one of two: a member that cannot be claimed
    has its own answer, and all others share the transaction.
    """
    rich, twice, poor = payers(devnet)[:3]
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="90") as service:
        # for two of the first ones and one more
        spare = await balance(devnet, poor.address) - 3 * AMOUNT
        spend = calldata("transfer(address,uint256)", devnet.deployer.address, spare)
        await devnet.transact(poor, devnet.usdc, spend)
        again = v2_body(devnet, payer=twice)
        halves = [v2_body(devnet, payer=poor) for _ in range(2)]
        bodies = [v2_body(devnet, payer=rich), again, again, *halves]
        first, waiting = await queue(service, devnet, bodies)
        await resume_mining(devnet)
        replies = await replies_of([*first, *waiting])
    shared = replies[MAX_IN_FLIGHT:]
    refused = [reply["errorReason"] for reply in shared if not reply["success"]]
    assert sorted(refused) == sorted([DUPLICATE, BALANCE])
    assert all(reply["success"] for reply in replies[:MAX_IN_FLIGHT])
    assert len({reply["transaction"] for reply in shared if reply["success"]}) == 1
    assert len(await authorizations_used(devnet)) == MAX_IN_FLIGHT + 3


async def test_a_group_without_gas_money_is_refused_member_by_member(
    devnet: Devnet, tmp_path: Path
) -> None:
    """Each hears a 503, nothing is claimed; with money the same payments are settled."""
    signer = "0x" + devnet.signer.address.hex()
    bodies = bodies_of(devnet)
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="90") as service:
        first, waiting = await queue(service, devnet, bodies)
        await devnet.rpc("evm_mine")
        await devnet.rpc("anvil_setBalance", signer, hex(1000))
        assert await statuses(waiting) == {(503, "unexpected_settle_error"): QUEUED}
        assert len(service.logged("settlement_submitted")) == MAX_IN_FLIGHT
        await devnet.rpc("anvil_setBalance", signer, hex(ETHER))
        await resume_mining(devnet)
        assert all(reply["success"] for reply in await replies_of(first))
        again = await post_all(service, [("/settle", body) for body in bodies])
        assert all(reply["success"] for reply in await replies_of(again))
    assert len(await transfers(devnet)) == MAX_IN_FLIGHT + QUEUED


async def test_a_group_s_data_fee_is_part_of_what_a_day_may_cost(
    devnet: Devnet, tmp_path: Path
) -> None:
    """An OP-stack chain whose data grows dear: a group that the budget does not cover any more,
    though it covers the gas, is not sent.
    """
    oracle = "0x" + GAS_PRICE_ORACLE.hex()
    await devnet.rpc("anvil_setCode", oracle, returning(1))
    limits = {"MAX_GAS_SPEND_PER_DAY": str(ETHER), "SETTLE_TIMEOUT_SECONDS": "90"}
    async with serve(devnet, tmp_path, **limits) as service:
        first, waiting = await queue(service, devnet, bodies_of(devnet))
        await devnet.rpc("anvil_setCode", oracle, returning(ETHER))
        await resume_mining(devnet)
        assert await statuses(waiting) == {(503, "unexpected_settle_error"): QUEUED}
        assert service.logged("signer_budget_spent")
        assert all(reply["success"] for reply in await replies_of(first))
    assert len(await transfers(devnet)) == MAX_IN_FLIGHT


def returning(word: int) -> str:
    """Code that returns one word, whatever it is asked."""
    return "0x7f" + word.to_bytes(32).hex() + "5f5260205ff3"

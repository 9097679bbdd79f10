"""Payments that queue share a transaction, and nothing else: each has its own outcome."""

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.nonces import MAX_IN_FLIGHT
from tests.support.bursts import (
    OPTIONS,
    QUEUED,
    approve_all,
    jeju_posts,
    jeju_proofs,
    payers,
    post_all,
    queue_up,
    replies_of,
    saturate,
    transactions_of,
    x402_posts,
    x402_proofs,
)
from tests.support.chain import balance, load_artifact
from tests.support.encoding import SPLIT, calldata
from tests.support.service import serve
from tests.support.x402 import payload_of, v2_body
from tests.support.x402_chain import authorizations_used, delegate, transfer_call, transfers
from tests.support.x402_service import BALANCE, resume_mining, send, verify

pytestmark = pytest.mark.anyio

BURST = 200
BOTH = pytest.mark.parametrize(
    ("make", "proofs", "member"),
    [(jeju_posts, jeju_proofs, "txHash"), (x402_posts, x402_proofs, "transaction")],
    ids=["jeju", "x402"],
)


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return OPTIONS


async def mine_once(devnet: Devnet) -> None:
    await devnet.rpc("evm_mine")


@BOTH
async def test_a_burst_takes_fewer_transactions_than_payments(
    make: Callable[[Devnet, int], Any],
    proofs: Any,
    member: str,
    devnet: Devnet,
    tmp_path: Path,
) -> None:
    """All succeed, each by a log of its own, in the transaction that its reply names."""
    await approve_all(devnet)
    async with serve(devnet, tmp_path) as service:
        replies = await replies_of(await post_all(service, make(devnet, BURST)))
        assert [reply for reply in replies if not reply["success"]] == []
        told = Counter(reply[member] for reply in replies)
        assert told == transactions_of(service)
    shown = Counter(await proofs(devnet))
    # a gasless payment uses an authorization as well, of another kind
    assert shown == told
    assert shown.total() == BURST
    assert len(shown) < BURST / 2
    assert max(shown.values()) <= 32
    assert MAX_IN_FLIGHT // 2 < sum(count == 1 for count in shown.values()) <= MAX_IN_FLIGHT


async def test_a_payment_that_fails_in_a_group_harms_no_other(
    devnet: Devnet, tmp_path: Path
) -> None:
    """One whose money is gone, and one whose authorization a front-runner used, between simulation
    and inclusion: the one fails with its own reason, the other was paid.
    """
    poor, rushed = payers(devnet)[:2]
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="90") as service:
        first = await saturate(service, devnet)
        bodies = [v2_body(devnet, payer=payer) for payer in payers(devnet)[:QUEUED]]
        waiting = await queue_up(service, bodies)
        await mine_once(devnet)  # frees the places of the first ones
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT + QUEUED)
        [(group, size)] = [(one, n) for one, n in transactions_of(service).items() if n > 1]
        assert size == QUEUED
        left = await balance(devnet, poor.address)
        empty = calldata("transfer(address,uint256)", devnet.deployer.address, left)
        await send(devnet, poor, devnet.usdc, empty)
        call = transfer_call(payload_of(bodies[1]), SPLIT)
        rush = await send(devnet, devnet.deployer, devnet.usdc, call)
        await resume_mining(devnet)
        replies = await replies_of(waiting)
        assert all(reply["success"] for reply in await replies_of(first))
    assert (replies[0]["success"], replies[0]["errorReason"]) == (False, BALANCE)
    assert (replies[1]["success"], replies[1]["transaction"]) == (True, rush)
    assert [reply["success"] for reply in replies[2:]] == [True] * (QUEUED - 2)
    assert {reply["transaction"] for reply in replies[2:]} == {group}
    assert await balance(devnet, poor.address) == 0
    used = Counter(log.transaction_hash for log in await authorizations_used(devnet))
    assert (used[group], used[rush], used.total()) == (QUEUED - 2, 1, MAX_IN_FLIGHT + QUEUED - 1)
    assert rushed.address in {log.authorizer for log in await authorizations_used(devnet)}


async def test_a_group_that_fails_as_a_whole_fails_nobody(devnet: Devnet, tmp_path: Path) -> None:
    """Its members are settled alone, each in a transaction of its own."""
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="90") as service:
        first = await saturate(service, devnet)
        bodies = [v2_body(devnet, payer=payer) for payer in payers(devnet)[:QUEUED]]
        waiting = await queue_up(service, bodies)
        await mine_once(devnet)
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT + QUEUED)
        # Whatever it is asked, it reverts.
        await devnet.rpc("anvil_setCode", "0x" + devnet.multicall3.hex(), "0x60006000fd")
        await mine_once(devnet)
        await resume_mining(devnet)
        replies = await replies_of(waiting)
        assert all(reply["success"] for reply in await replies_of(first))
        assert len(service.logged("settled_again")) == QUEUED
    assert [reply["success"] for reply in replies] == [True] * QUEUED
    assert len({reply["transaction"] for reply in replies}) == QUEUED
    assert len(await transfers(devnet)) == MAX_IN_FLIGHT + QUEUED


async def test_without_multicall3_every_payment_has_its_own_transaction(
    devnet: Devnet, tmp_path: Path
) -> None:
    await devnet.rpc("anvil_setCode", "0x" + devnet.multicall3.hex(), "0x")
    count = MAX_IN_FLIGHT + QUEUED
    async with serve(devnet, tmp_path) as service:
        replies = await replies_of(await post_all(service, x402_posts(devnet, count)))
    assert all(reply["success"] for reply in replies)
    assert len(set(await x402_proofs(devnet))) == count


async def test_a_batch_of_one_is_no_batch(devnet: Devnet, tmp_path: Path) -> None:
    count = MAX_IN_FLIGHT + QUEUED
    async with serve(devnet, tmp_path, SETTLE_BATCH_MAX="1") as service:
        replies = await replies_of(await post_all(service, x402_posts(devnet, count)))
    assert all(reply["success"] for reply in replies)
    assert len(set(await x402_proofs(devnet))) == count


async def test_a_payer_with_code_shares_with_nobody(devnet: Devnet, tmp_path: Path) -> None:
    """Its code runs when the token asks it about a signature, and could burn the gas of others."""
    wallet = payers(devnet)[0]
    await delegate(devnet, wallet, await devnet.deploy(load_artifact("Delegate7702")))
    async with serve(devnet, tmp_path) as service:
        first = await saturate(service, devnet)
        bodies = [v2_body(devnet, payer=payer) for payer in payers(devnet)[:QUEUED]]
        assert (await verify(service, bodies[0]))["isValid"]
        waiting = await queue_up(service, bodies)
        await resume_mining(devnet)
        replies = await replies_of([*first, *waiting])
    assert all(reply["success"] for reply in replies)
    shown = Counter(await x402_proofs(devnet))
    assert shown[replies[MAX_IN_FLIGHT]["transaction"]] == 1
    assert shown[replies[-1]["transaction"]] == QUEUED - 1


async def test_kill_9_with_a_group_pending_loses_and_doubles_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The next life settles all of them with the transaction of the first, or a replacement of it
    where that has waited long, and tells each once.
    """
    async with serve(devnet, tmp_path) as service:
        first = await saturate(service, devnet)
        bodies = [v2_body(devnet, payer=payer) for payer in payers(devnet)[:QUEUED]]
        waiting = await queue_up(service, bodies)
        await mine_once(devnet)
        await service.wait_for("settlement_submitted", MAX_IN_FLIGHT + QUEUED)
        [group] = [one for one, n in transactions_of(service).items() if n > 1]
        await service.stop(signal.SIGKILL)
        ended = await asyncio.gather(*first, *waiting, return_exceptions=True)
        assert all(isinstance(end, aiohttp.ClientError) for end in ended[MAX_IN_FLIGHT:])
    async with serve(devnet, tmp_path) as service:
        await resume_mining(devnet)
        replies = await replies_of(await queue_up(service, bodies))
        assert [reply["success"] for reply in replies] == [True] * QUEUED
        [mined] = {reply["transaction"] for reply in replies}
        _, told = await service.get(f"/settlements/{mined}")
        [carrier] = told["transactions"]
        assert group in {attempt["transaction"] for attempt in carrier["attempts"]}
        again = await replies_of(await queue_up(service, bodies))
        assert not any(reply["success"] for reply in again)
    assert Counter(await x402_proofs(devnet))[mined] == QUEUED
    assert len(await transfers(devnet)) == MAX_IN_FLIGHT + QUEUED

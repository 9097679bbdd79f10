"""Settling in the standard dialect: once, whoever asks how often, judged by the token's logs."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import balance
from tests.support.encoding import calldata
from tests.support.service import Service, serve
from tests.support.x402 import AMOUNT, payload_of, v1_body, v2_body
from tests.support.x402_chain import Transfer, transfer_call, transfers
from tests.support.x402_service import (
    BALANCE,
    DUPLICATE,
    PENDING,
    TOO_MANY_BLOCKS,
    USED,
    nonce_of,
    resume_mining,
    send,
    settle,
    stop_mining,
    verify,
)

pytestmark = pytest.mark.anyio

VERSIONS = pytest.mark.parametrize("make", [v1_body, v2_body], ids=["v1", "v2"])


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture
async def service(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Service]:
    async with serve(devnet, tmp_path) as running:
        yield running


async def hang_up(service: Service, body: object) -> None:
    """Ask for the settlement, and go away while it waits."""
    known = len(service.logged("settlement_submitted"))
    async with aiohttp.ClientSession() as impatient:
        posting = asyncio.create_task(impatient.post(service.url + "/settle", json=body))
        await service.wait_for("settlement_submitted", known + 1)
        posting.cancel()
    await asyncio.sleep(0.2)  # until the service notices


@VERSIONS
async def test_a_payment_moves_the_amount_once(make: Any, devnet: Devnet, service: Service) -> None:
    """No fee, no ether of the payer's; the same request afterwards is told what was, and where."""
    body = make(devnet)
    await devnet.rpc("anvil_setBalance", "0x" + devnet.payer.address.hex(), "0x0")
    payer = payload_of(body)["authorization"]["from"]
    network = body["paymentRequirements"]["network"]
    assert await verify(service, body) == {"isValid": True, "payer": payer}
    assert await transfers(devnet) == []
    reply = await settle(service, body)
    [paid] = await transfers(devnet)
    assert paid == Transfer(
        devnet.payer.address, devnet.seller.address, AMOUNT, reply["transaction"]
    )
    assert reply == {
        "success": True,
        "transaction": reply["transaction"],
        "network": network,
        "payer": payer,
        "extra": {"settlementId": reply["extra"]["settlementId"], "state": "confirmed"},
    }
    again = await settle(service, body)
    assert again == {
        **reply,
        "success": False,
        "errorReason": USED,
        "errorMessage": "The authorization's nonce has been used",
    }
    assert (await verify(service, body))["invalidReason"] == USED
    assert len(await transfers(devnet)) == 1


@VERSIONS
@pytest.mark.parametrize("number", [2, 200])
async def test_of_identical_requests_at_once_one_hears_success(
    make: Any, number: int, devnet: Devnet, service: Service
) -> None:
    """One success, one transfer, one transaction; all others hear its hash."""
    body, first = make(devnet), await nonce_of(devnet)
    replies = await asyncio.gather(*(settle(service, body) for _ in range(number)))
    [paid] = await transfers(devnet)
    assert sum(reply["success"] for reply in replies) == 1
    assert {reply["transaction"] for reply in replies} == {paid.transaction_hash}
    others = {reply["errorReason"] for reply in replies if not reply["success"]}
    assert others <= {DUPLICATE, USED}  # USED once success was told
    assert await nonce_of(devnet) == first + 1


async def test_both_versions_of_one_authorization_are_one_payment(
    devnet: Devnet, service: Service
) -> None:
    body, other = v2_body(devnet), v1_body(devnet)
    other["paymentPayload"]["payload"] = payload_of(body)
    replies = await asyncio.gather(settle(service, body), settle(service, other))
    [paid] = await transfers(devnet)
    assert sorted(reply["success"] for reply in replies) == [False, True]
    assert {reply["transaction"] for reply in replies} == {paid.transaction_hash}


@VERSIONS
async def test_a_client_that_hangs_up_and_asks_again_hears_success(
    make: Any, devnet: Devnet, service: Service
) -> None:
    """Its wait is over, not the settlement: nothing is sent again."""
    body, first = make(devnet), await nonce_of(devnet)
    await stop_mining(devnet)
    await hang_up(service, body)
    assert (await verify(service, body))["isValid"] is True  # it would hear the outcome
    asking = asyncio.create_task(settle(service, body))
    await asyncio.sleep(0.2)
    assert (await settle(service, body))["errorReason"] == DUPLICATE
    assert (await verify(service, body))["invalidReason"] == DUPLICATE
    await resume_mining(devnet)
    reply = await asking
    [paid] = await transfers(devnet)
    assert (reply["success"], reply["transaction"]) == (True, paid.transaction_hash)
    assert (await settle(service, body))["errorReason"] == USED
    assert await nonce_of(devnet) == first + 1


async def test_who_asks_after_the_outcome_hears_it_if_nobody_did(
    devnet: Devnet, service: Service
) -> None:
    body = v2_body(devnet)
    await hang_up(service, body)
    await service.wait_for("settlement_confirmed")
    replies = [await settle(service, body) for _ in range(3)]
    assert [reply["success"] for reply in replies] == [True, False, False]
    assert len(await transfers(devnet)) == 1


@VERSIONS
async def test_with_mining_stopped_it_is_pending_in_time_and_then_succeeds(
    make: Any, devnet: Devnet, tmp_path: Path
) -> None:
    """Both versions: pending with the hash inside the timeout, then success with the same hash."""
    body, first = make(devnet), await nonce_of(devnet)
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="2") as service:
        await stop_mining(devnet)
        began = time.monotonic()
        pending = await settle(service, body)
        assert 1.9 < time.monotonic() - began < 20
        assert (pending["success"], pending["errorReason"]) == (False, PENDING)
        assert pending["extra"]["state"] == "pending"
        assert await settle(service, body) == pending  # who asks again waits as long
        [submitted] = service.logged("settlement_submitted")
        assert pending["transaction"] == submitted["transaction"]
        await resume_mining(devnet)
        reply = await settle(service, body)
        assert (reply["success"], reply["transaction"]) == (True, pending["transaction"])
    [paid] = await transfers(devnet)
    assert paid.transaction_hash == reply["transaction"]
    assert await nonce_of(devnet) == first + 1


async def test_a_balance_for_one_settles_one_and_burns_no_gas_on_the_rest(
    devnet: Devnet, service: Service
) -> None:
    """64 payments at once, one success, one transaction."""
    whole, first = await balance(devnet, devnet.payer.address), await nonce_of(devnet)
    bodies = [v2_body(devnet, requirements={"amount": str(whole)}) for _ in range(64)]
    replies = await asyncio.gather(*(settle(service, body) for body in bodies))
    assert sum(reply["success"] for reply in replies) == 1
    assert {reply["errorReason"] for reply in replies if not reply["success"]} == {BALANCE}
    assert len(await transfers(devnet)) == 1
    assert await nonce_of(devnet) == first + 1


async def test_64_payments_at_once_all_succeed_on_one_signer(
    devnet: Devnet, service: Service
) -> None:
    """Of both versions: a success and a transfer each, no gap in the account nonces."""
    first = await nonce_of(devnet)
    bodies = [make(devnet) for make in (v1_body, v2_body) for _ in range(32)]
    replies = await asyncio.gather(*(settle(service, body) for body in bodies))
    assert [reply.get("errorReason") for reply in replies] == [None] * 64
    paid = await transfers(devnet)
    assert len(paid) == 64
    assert {each.transaction_hash for each in paid} == {reply["transaction"] for reply in replies}
    assert await nonce_of(devnet) == first + 64


async def test_a_payment_that_somebody_settled_before_is_used(
    devnet: Devnet, service: Service
) -> None:
    """Before it was taken on: whoever asks was not the one who had it settled."""
    body, first = v2_body(devnet), await nonce_of(devnet)
    await devnet.transact(devnet.accounts[6], devnet.usdc, transfer_call(payload_of(body)))
    assert (await verify(service, body))["invalidReason"] == USED
    assert (await settle(service, body))["errorReason"] == USED
    assert await nonce_of(devnet) == first


@VERSIONS
async def test_a_payment_that_somebody_settles_meanwhile_succeeds_once(
    make: Any, devnet: Devnet, service: Service
) -> None:
    """After it was taken on: the seller has the money, and hears so with that hash, once."""
    body = make(devnet)
    await stop_mining(devnet)
    waiting = asyncio.create_task(settle(service, body))
    await service.wait_for("settlement_submitted")
    call = transfer_call(payload_of(body))
    foreign = await send(devnet, devnet.accounts[6], devnet.usdc, call)
    await resume_mining(devnet)
    reply, again = await waiting, await settle(service, body)
    [paid] = await transfers(devnet)
    assert paid.transaction_hash == foreign
    assert (reply["success"], reply["transaction"]) == (True, foreign)
    assert (again["errorReason"], again["transaction"]) == (USED, foreign)


async def test_money_that_moved_away_meanwhile_is_a_failure_with_its_reason(
    devnet: Devnet, service: Service
) -> None:
    """Final only where no reorg would undo it; then the same request tries anew."""
    body = v2_body(devnet)
    whole = await balance(devnet, devnet.payer.address)
    await stop_mining(devnet)
    waiting = asyncio.create_task(settle(service, body))
    await service.wait_for("settlement_submitted")
    away = calldata("transfer(address,uint256)", devnet.accounts[5].address, whole)
    await send(devnet, devnet.payer, devnet.usdc, away)
    await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
    await resume_mining(devnet)
    failed = await waiting
    assert (failed["success"], failed["errorReason"]) == (False, BALANCE)
    assert failed["extra"]["state"] == "failed"
    receipt: Any = await devnet.rpc("eth_getTransactionReceipt", failed["transaction"])
    assert receipt["status"] == "0x0"
    still = await settle(service, body)
    assert (still["errorReason"], still["transaction"]) == (BALANCE, failed["transaction"])
    await devnet.mint(devnet.payer.address, AMOUNT)
    reply = await settle(service, body)
    assert reply["success"] is True
    assert reply["transaction"] != failed["transaction"]
    assert reply["extra"]["settlementId"] == failed["extra"]["settlementId"]
    [_, paid] = await transfers(devnet)
    assert paid.transaction_hash == reply["transaction"]

"""A token that the operator lists and that does not pay: never a success, and gas is burnt once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import balance
from tests.support.service import Service, serve
from tests.support.x402 import AMOUNT, payload_of, v1_body, v2_body
from tests.support.x402_chain import (
    Fault,
    authorization_used,
    deploy_token,
    deploy_wallet,
    mint,
    transfers,
)
from tests.support.x402_service import (
    MISMATCH,
    PENDING,
    TOO_MANY_BLOCKS,
    nonce_of,
    settle,
    tokens_setting,
    verify,
)

pytestmark = pytest.mark.anyio

FAULTS = [each for each in Fault if each is not Fault.REFUSAL]


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def outcome(devnet: Devnet, service: Service, body: object) -> dict[str, Any]:
    """What is said in the end, when no reorg can make it another."""
    waiting = asyncio.create_task(settle(service, body))
    await service.wait_for("settlement_submitted")
    await asyncio.sleep(1)
    assert not waiting.done()  # a reorg might still make it another
    await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
    return await waiting


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("make", [v1_body, v2_body], ids=["v1", "v2"])
async def test_a_token_that_returns_as_if_it_had_paid_is_no_success(
    make: Any, fault: Fault, devnet: Devnet, tmp_path: Path
) -> None:
    """The simulation cannot tell; the logs can. Asked for again, nothing says success either."""
    token = await deploy_token(devnet, "FaultyToken", fault)
    body, first = make(devnet, token=token), await nonce_of(devnet)
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens_setting(token)) as service:
        assert (await verify(service, body))["isValid"] is True
        reply = await outcome(devnet, service, body)
        assert (reply["success"], reply["errorReason"]) == (False, MISMATCH)
        assert reply["extra"]["state"] == "failed"
        assert await nonce_of(devnet) == first + 1
        receipt: Any = await devnet.rpc("eth_getTransactionReceipt", reply["transaction"])
        assert receipt["status"] == "0x1"
        if await authorization_used(devnet, payload_of(body), token):
            again = await settle(service, body)
            assert (again["errorReason"], again["transaction"]) == (MISMATCH, reply["transaction"])
            assert await nonce_of(devnet) == first + 1
        told = (await service.get("/settlements/" + reply["extra"]["settlementId"]))[1]
        assert (told["state"], told["reason"]) == ("failed", "transfer_missing")
        assert told["transaction"] is None  # nothing proves a payment
    paid = [each for each in await transfers(devnet, token) if each.value == AMOUNT]
    expected = fault in (Fault.WRONG_RECIPIENT, Fault.TRANSFER_FIRST)
    assert len(paid) == expected


async def test_no_success_before_it_is_a_failure_either(devnet: Devnet, tmp_path: Path) -> None:
    """While a reorg could still undo the transaction, it is pending."""
    token = await deploy_token(devnet, "FaultyToken", Fault.FEE)
    body = v2_body(devnet, token=token)
    changes = {"JEJU_TOKENS": tokens_setting(token), "SETTLE_TIMEOUT_SECONDS": "2"}
    async with serve(devnet, tmp_path, **changes) as service:
        pending = await settle(service, body)
        assert (pending["errorReason"], pending["extra"]["state"]) == (PENDING, "pending")
        await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
        await service.wait_for("settlement_failed")
        failed = await settle(service, body)
        assert (failed["errorReason"], failed["transaction"]) == (MISMATCH, pending["transaction"])
    assert await balance(devnet, devnet.seller.address, token.address) == AMOUNT * 99 // 100


async def test_a_wallet_in_a_fake_token_is_no_success(devnet: Devnet, tmp_path: Path) -> None:
    token = await deploy_token(devnet, "FaultyToken", Fault.FOREIGN_EVENT)
    owner = devnet.accounts[4]
    wallet = await deploy_wallet(devnet, owner)
    await mint(devnet, token, wallet)
    body = v2_body(devnet, token=token, payer=owner, owner=wallet)
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens_setting(token)) as service:
        reply = await outcome(devnet, service, body)
    assert (reply["success"], reply["errorReason"]) == (False, MISMATCH)


async def test_an_honest_token_beside_usdc_pays(devnet: Devnet, tmp_path: Path) -> None:
    """In its own domain; USDC goes on, and a token that is not listed does not."""
    listed = await deploy_token(devnet, name="Euro of Tests", version="3")
    other = await deploy_token(devnet)
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens_setting(listed)) as service:
        for token in (listed, None):
            assert (await settle(service, v2_body(devnet, token=token)))["success"] is True
        refused = await settle(service, v2_body(devnet, token=other))
        assert refused["errorReason"] == "unsupported_asset"
    assert await balance(devnet, devnet.seller.address, listed.address) == AMOUNT

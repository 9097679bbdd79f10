"""Somebody wants money for nothing: payments made to be counted twice, or told wrongly."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from facilitator.devnet import Devnet, DevnetOptions
from tests.chain import approve, balance, devnet_payment, settle_call, settled_logs
from tests.service import Service, serve
from tests.x402 import payload_of, v2_body
from tests.x402_chain import Fault, aggregate3_call, deploy_token, transfer_call
from tests.x402_service import (
    MISMATCH,
    TOO_MANY_BLOCKS,
    nonce_in,
    resume_mining,
    send,
    settle,
    stop_mining,
    tokens_setting,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture
async def service(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Service]:
    async with serve(devnet, tmp_path) as running:
        yield running


async def test_one_transfer_never_proves_two_payments(devnet: Devnet, service: Service) -> None:
    """The payer has two payments under way, one in each dialect, which would bring the seller the
    same amount. In one transaction of its own it uses the authorization's nonce to pay itself, and
    has the contract make the other payment: its Transfer is not the authorization's.
    """
    await approve(devnet)
    header = devnet_payment(devnet)  # 1,000,000, of which the seller gets 995,000
    asked = {"amount": "995000"}
    body = v2_body(devnet, requirements=asked)
    itself = {"to": "0x" + devnet.accounts[5].address.hex(), "nonce": "0x" + nonce_in(body).hex()}
    elsewhere = payload_of(v2_body(devnet, requirements=asked, authorization=itself))
    before = await balance(devnet, devnet.seller.address)
    await stop_mining(devnet)
    standard = asyncio.create_task(settle(service, body))
    jeju = asyncio.create_task(service.settle(header))
    await service.wait_for("settlement_submitted", 2)
    calls = (devnet.usdc, transfer_call(elsewhere)), (devnet.contract, settle_call(header))
    await send(devnet, devnet.accounts[6], devnet.multicall3, aggregate3_call(*calls))
    await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
    await resume_mining(devnet)
    told, other = await standard, await jeju
    assert await balance(devnet, devnet.seller.address) == before + 995_000
    assert len(await settled_logs(devnet)) == 1
    assert other["success"] is True
    assert told["success"] is False, told


async def test_a_failed_payment_keeps_its_hash_however_often_it_is_asked_for(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The token used up the nonce and moved nothing. What is told later names the transaction."""
    token = await deploy_token(devnet, "FaultyToken", Fault.NO_TRANSFER)
    body = v2_body(devnet, token=token)
    async with serve(devnet, tmp_path, JEJU_TOKENS=tokens_setting(token)) as service:
        waiting = asyncio.create_task(settle(service, body))
        await service.wait_for("settlement_submitted")
        await asyncio.sleep(0.5)
        await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
        failed = await waiting
        assert (failed["success"], failed["errorReason"]) == (False, MISMATCH)
        [submitted] = service.logged("settlement_submitted")
        assert failed["transaction"] == submitted["transaction"]
        again = await settle(service, body)
        assert (again["success"], again["errorReason"]) == (False, MISMATCH)
        assert again["transaction"] == failed["transaction"]
        assert again["extra"] == failed["extra"]
        assert len(service.logged("settlement_submitted")) == 1

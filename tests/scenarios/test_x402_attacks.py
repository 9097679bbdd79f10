"""Somebody wants money for nothing: payments made to be counted twice, or told wrongly."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from eth_account import Account as Keys
from eth_utils.address import to_checksum_address

from facilitator.commands.devnet import Account, Devnet, DevnetOptions
from tests.support.chain import (
    approve,
    balance,
    devnet_authorization,
    devnet_payment,
    settle_call,
    settled_logs,
)
from tests.support.service import Service, request, serve
from tests.support.signing import sign_typed_data, typed_data
from tests.support.x402 import AMOUNT, payload_of, usdc, v2_body
from tests.support.x402_chain import Fault, aggregate3_call, deploy_token, transfer_call, transfers
from tests.support.x402_service import (
    BALANCE,
    MISMATCH,
    TOO_MANY_BLOCKS,
    USED,
    cancel_call,
    nonce_in,
    nonce_of,
    refused,
    resume_mining,
    send,
    settle,
    stop_mining,
    tokens_setting,
    verify,
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


async def test_one_authorization_never_pays_in_both_dialects(
    devnet: Devnet, service: Service
) -> None:
    """The payer signs two authorizations of one nonce: one to the contract for a gasless payment,
    one to the seller. Asked for at once, or one after the other, one is paid.
    """
    for at_once in (True, False):
        pull = devnet_authorization(devnet)
        gasless = {**request(devnet_payment(devnet)), "authParams": pull}
        body = v2_body(devnet, authorization={"nonce": pull["authNonce"]})
        before = len(await transfers(devnet)), len(await settled_logs(devnet))
        if at_once:
            told, (_, other) = await asyncio.gather(
                settle(service, body), service.post("/settle/gasless", gasless)
            )
        else:
            _, other = await service.post("/settle/gasless", gasless)
            assert (await verify(service, body))["invalidReason"] == USED
            told = await settle(service, body)
        assert sorted([told["success"], other["success"]]) == [False, True]
        paid = len(await settled_logs(devnet)) - before[1]
        assert paid == other["success"]
        moves = len(await transfers(devnet)) - before[0]
        assert moves == (3 if other["success"] else 1)  # in, and out to seller and fees


async def test_an_authorization_that_the_payer_cancels_meanwhile_is_no_success(
    devnet: Devnet, service: Service
) -> None:
    body = v2_body(devnet)
    nonce = nonce_in(body)
    await stop_mining(devnet)
    waiting = asyncio.create_task(settle(service, body))
    await service.wait_for("settlement_submitted")
    message = {"authorizer": to_checksum_address(devnet.payer.address), "nonce": nonce}
    token = usdc(devnet)
    signable = typed_data(
        "CancelAuthorization",
        [{"name": "authorizer", "type": "address"}, {"name": "nonce", "type": "bytes32"}],
        message,
        name=token.name,
        version=token.version,
        chain_id=devnet.chain_id,
        verifying_contract=token.address,
    )
    signature = sign_typed_data(devnet.payer.key, signable)
    call = cancel_call(devnet.payer.address, nonce, signature)
    await send(devnet, devnet.accounts[6], devnet.usdc, call)
    await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
    await resume_mining(devnet)
    told = await waiting
    assert (told["success"], told["errorReason"]) == (False, USED)
    assert told["extra"]["state"] == "failed"
    assert await transfers(devnet) == []
    again = await settle(service, body)
    assert (again["errorReason"], again["transaction"]) == (USED, told["transaction"])


@pytest.mark.parametrize("other", ["seller", "amount"])
async def test_a_nonce_that_the_payer_uses_otherwise_meanwhile_is_no_success(
    other: str, devnet: Devnet, service: Service
) -> None:
    """For somebody else, or for another amount, though all of it is signed by the payer."""
    body = v2_body(devnet)
    change = {"to": "0x" + devnet.accounts[5].address.hex()}
    if other == "amount":
        change = {"value": str(AMOUNT - 1)}
    spent = v2_body(devnet, authorization={"nonce": "0x" + nonce_in(body).hex(), **change})
    await stop_mining(devnet)
    waiting = asyncio.create_task(settle(service, body))
    await service.wait_for("settlement_submitted")
    await send(devnet, devnet.accounts[6], devnet.usdc, transfer_call(payload_of(spent)))
    await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
    await resume_mining(devnet)
    told = await waiting
    assert (told["success"], told["errorReason"]) == (False, USED)
    assert len(await transfers(devnet)) == 1


async def test_two_payments_of_one_nonce_are_paid_once(devnet: Devnet, service: Service) -> None:
    """To two sellers at once: one is paid; the other never hears that one's success."""
    first = v2_body(devnet)
    second = v2_body(
        devnet,
        requirements={"payTo": to_checksum_address(devnet.accounts[5].address)},
        authorization={"nonce": "0x" + nonce_in(first).hex()},
    )
    replies = await asyncio.gather(
        *(settle(service, body) for body in (first, second) for _ in range(8))
    )
    assert sum(reply["success"] for reply in replies) == 1
    [paid] = await transfers(devnet)
    winner = next(number for number, reply in enumerate(replies) if reply["success"])
    assert paid.recipient == (devnet.seller if winner < 8 else devnet.accounts[5]).address


async def test_a_signer_cannot_be_made_to_pay_or_to_be_paid(
    devnet: Devnet, service: Service
) -> None:
    """Not even by its own true signature, as the key of a wallet's owner might be."""
    first = await nonce_of(devnet)
    paying = v2_body(devnet, payer=devnet.signer)
    assert await refused(service, paying) == "invalid_payer"
    own = {"payTo": to_checksum_address(devnet.signer.address)}
    assert await refused(service, v2_body(devnet, requirements=own)) == "invalid_pay_to"
    assert await nonce_of(devnet) == first


async def test_requests_that_pay_nothing_leave_nothing(devnet: Devnet, service: Service) -> None:
    """A thousand refused payments: no gas, no account nonce, no row, and honest ones go on."""
    first = await nonce_of(devnet)
    poor = Account("poor", b"", b"\x42" * 32)
    address = Keys.from_key(poor.key).address
    poor = Account("poor", bytes.fromhex(address[2:]), poor.key)
    for _ in range(10):
        bodies = [v2_body(devnet, payer=poor) for _ in range(100)]
        replies = await asyncio.gather(*(settle(service, body) for body in bodies))
        assert {reply["errorReason"] for reply in replies} == {BALANCE}
        assert (await settle(service, v2_body(devnet)))["success"] is True
    assert await nonce_of(devnet) == first + 10
    assert len(service.logged("settlement_submitted")) == 10

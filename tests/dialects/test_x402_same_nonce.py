"""What a payment is told whose nonce another one has: nothing of that one where it is forged, and
never that a nonce was used which was not.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from facilitator.commands.devnet import Devnet, DevnetOptions
from tests.support.chain import balance
from tests.support.service import Service, serve
from tests.support.x402 import AMOUNT, payload_of, v2_body
from tests.support.x402_chain import deploy_wallet, transfer_call, transfers
from tests.support.x402_service import (
    BALANCE,
    DUPLICATE,
    EXPIRED,
    PENDING,
    SIGNATURE,
    TOO_MANY_BLOCKS,
    USED,
    refused,
    resume_mining,
    send,
    settle,
    stop_mining,
    verify,
)

pytestmark = pytest.mark.anyio

TAKEN = "nonce_taken"
OWNER = 4  # of the wallet, among the devnet's accounts


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


@pytest.fixture
async def service(devnet: Devnet, tmp_path: Path) -> AsyncIterator[Service]:
    async with serve(devnet, tmp_path, SETTLE_TIMEOUT_SECONDS="4") as running:
        yield running


@pytest.fixture(params=[False, True], ids=["key", "wallet"])
async def paying(request: pytest.FixtureRequest, devnet: Devnet) -> dict[str, Any]:
    """Whose money it is, and whose key signs: a key's own, or a smart wallet's."""
    if not request.param:
        return {}
    owner = devnet.accounts[OWNER]
    return {"payer": owner, "owner": await deploy_wallet(devnet, owner)}


def forged(devnet: Devnet, body: dict[str, Any]) -> dict[str, Any]:
    """The same authorization, signed by somebody else."""
    authorization = payload_of(body)["authorization"]
    stranger = devnet.accounts[7]
    owner = bytes.fromhex(authorization["from"][2:])
    return v2_body(devnet, payer=stranger, owner=owner, authorization=authorization)


def beside(devnet: Devnet, body: dict[str, Any], paying: dict[str, Any], **terms: str) -> Any:
    """Another payment of that nonce, signed as well as the first."""
    same = {"nonce": payload_of(body)["authorization"]["nonce"], **terms}
    less = {"amount": str(AMOUNT - 1)}
    return v2_body(devnet, requirements=less, authorization=same, **paying)


async def assert_hears_nothing(service: Service, body: dict[str, Any]) -> None:
    assert await refused(service, body) == SIGNATURE
    assert "extra" not in await settle(service, body)


async def test_a_forged_signature_hears_nothing_of_the_true_one(
    devnet: Devnet, service: Service, paying: dict[str, Any]
) -> None:
    """While it is being settled, and afterwards."""
    body = v2_body(devnet, **paying)
    await stop_mining(devnet)
    assert (await settle(service, body))["errorReason"] == PENDING
    await assert_hears_nothing(service, forged(devnet, body))
    await resume_mining(devnet)
    await service.wait_for("settlement_confirmed")
    await assert_hears_nothing(service, forged(devnet, body))
    assert (await settle(service, body))["success"] is True
    await assert_hears_nothing(service, forged(devnet, body))
    assert len(await transfers(devnet)) == 1


async def test_another_payment_of_a_nonce_is_told_of_the_first_in_the_order_of_the_codes(
    devnet: Devnet, service: Service, paying: dict[str, Any]
) -> None:
    """What is late is late; else it hears of the one that has the nonce, and never of success."""
    body = v2_body(devnet, **paying)
    await stop_mining(devnet)
    sent = (await settle(service, body))["transaction"]
    other = beside(devnet, body, paying)
    late = beside(devnet, body, paying, validBefore="1")
    assert await refused(service, late) == EXPIRED
    assert (await verify(service, other))["invalidReason"] == DUPLICATE
    told = await settle(service, other)
    assert (told["errorReason"], told["transaction"]) == (DUPLICATE, sent)
    await resume_mining(devnet)
    await service.wait_for("settlement_confirmed")
    assert await refused(service, late) == EXPIRED
    assert await refused(service, other) == USED
    assert (await settle(service, body))["success"] is True
    assert len(await transfers(devnet)) == 1


async def test_while_a_request_waits_the_same_payment_is_a_duplicate_for_both_endpoints(
    devnet: Devnet, service: Service, paying: dict[str, Any]
) -> None:
    """And used as soon as success is told."""
    body = v2_body(devnet, **paying)
    await stop_mining(devnet)
    waiting = asyncio.create_task(settle(service, body))
    await service.wait_for("settlement_submitted")
    assert (await verify(service, body))["invalidReason"] == DUPLICATE
    assert (await waiting)["errorReason"] == PENDING
    assert (await verify(service, body))["isValid"] is True
    await resume_mining(devnet)
    await service.wait_for("settlement_confirmed")
    assert (await verify(service, body))["isValid"] is True
    assert (await settle(service, body))["success"] is True
    assert await refused(service, body) == USED


async def test_a_nonce_whose_payment_has_failed_is_not_called_used(
    devnet: Devnet, service: Service
) -> None:
    """The payer spends the money before the payment is mined. The nonce stays that payment's, the
    same request settles it once there is money again, and only then is the nonce used.
    """
    payer, anybody = devnet.payer, devnet.accounts[6]
    everything = {"amount": str(await balance(devnet, payer.address))}
    body, spent = v2_body(devnet), v2_body(devnet, requirements=everything)
    await stop_mining(devnet)
    assert (await settle(service, body))["errorReason"] == PENDING
    await send(devnet, anybody, devnet.usdc, transfer_call(payload_of(spent)))
    await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
    await resume_mining(devnet)
    await service.wait_for("settlement_failed")
    other = beside(devnet, body, {})
    assert (await verify(service, other))["invalidReason"] == TAKEN
    told = await settle(service, other)
    assert (told["errorReason"], told["extra"]["state"]) == (TAKEN, "failed")
    await assert_hears_nothing(service, forged(devnet, body))
    assert (await settle(service, body))["errorReason"] == BALANCE

    asked = {**everything, "payTo": to_checksum_address(payer.address)}
    back = payload_of(v2_body(devnet, payer=devnet.seller, requirements=asked))
    await devnet.transact(anybody, devnet.usdc, transfer_call(back))
    assert (await verify(service, body))["isValid"] is True
    assert (await settle(service, body))["success"] is True
    assert await refused(service, other) == USED
    assert len(await transfers(devnet)) == 3

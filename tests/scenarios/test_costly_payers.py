"""Payers that would have our signers spend: what that can cost has a bound, and holds nobody up."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from facilitator.commands.devnet import Devnet, DevnetOptions
from facilitator.domain.schemes.eip3009 import GAS_BY_WALLET
from facilitator.domain.settlement import Policy
from tests.support.encoding import calldata
from tests.support.service import Service, serve
from tests.support.x402 import v2_body
from tests.support.x402_chain import code_at, counterfactual, deploy_factory, transfers
from tests.support.x402_service import TOO_MANY_BLOCKS, nonce_of, settle, verify

pytestmark = pytest.mark.anyio

# Says yes while nobody pays for the gas (GASPRICE, JUMPI), and burns all of it when somebody does.
TWO_FACED = "0x3a601457631626ba7e60e01b60005260206000f35bfe"
WALLET = b"\xfe" * 20


@pytest.fixture
def devnet_options() -> DevnetOptions:
    return DevnetOptions(port=0, block_time=1)


async def receipts_of(devnet: Devnet, service: Service, settlement: str) -> list[dict[str, Any]]:
    _, told = await service.get("/settlements/" + settlement)
    found: list[Any] = [
        await devnet.rpc("eth_getTransactionReceipt", each["attempts"][-1]["transaction"])
        for each in told["transactions"]
    ]
    return found


async def test_a_wallet_that_lies_in_the_simulation_burns_what_it_may_and_ends_as_a_failure(
    devnet: Devnet, tmp_path: Path
) -> None:
    """What was estimated the first time, and then the most that a wallet may take: as much as one
    that lies about how much it takes burns each time.
    """
    await devnet.rpc("anvil_setCode", "0x" + WALLET.hex(), TWO_FACED)
    await devnet.mint(WALLET, 10**7)
    first = await nonce_of(devnet)
    async with serve(devnet, tmp_path) as service:
        body = v2_body(devnet, owner=WALLET)
        assert (await verify(service, body))["isValid"] is True
        waiting = asyncio.create_task(settle(service, body))
        await service.wait_for("settled_again")
        others = await asyncio.gather(*(settle(service, v2_body(devnet)) for _ in range(8)))
        assert [reply.get("errorReason") for reply in others] == [None] * 8
        await devnet.rpc("anvil_mine", hex(TOO_MANY_BLOCKS))
        failed = await waiting
        assert failed["success"] is False
        assert failed["errorReason"] == "invalid_exact_evm_transaction_failed"
        burnt = await receipts_of(devnet, service, failed["extra"]["settlementId"])
    assert [receipt["status"] for receipt in burnt] == ["0x0"] * Policy().max_reverts
    first_burnt, then_burnt = (int(receipt["gasUsed"], 16) for receipt in burnt)
    assert first_burnt <= GAS_BY_WALLET // 5
    assert then_burnt <= GAS_BY_WALLET
    assert await nonce_of(devnet) == first + 8 + Policy().max_reverts
    assert {each.sender for each in await transfers(devnet)} == {devnet.payer.address}


async def test_nobody_has_a_wallet_deployed_with_a_keys_payment(
    devnet: Devnet, tmp_path: Path
) -> None:
    """The payer's key signed: the factory's call beside it is somebody's wish, and not made."""
    factory, owner = await deploy_factory(devnet), devnet.accounts[4]
    wallet = await counterfactual(devnet, factory, owner)
    allowed = {"EIP6492_ALLOWED_FACTORIES": to_checksum_address(factory)}
    async with serve(devnet, tmp_path, **allowed) as service:
        body = v2_body(devnet, payer=owner, signature=wallet.wrap)
        assert (await verify(service, body))["isValid"] is True
        reply = await settle(service, body)
    assert reply["success"] is True
    sent: Any = await devnet.rpc("eth_getTransactionByHash", reply["transaction"])
    assert sent["to"] == "0x" + devnet.usdc.hex()
    assert await code_at(devnet, wallet.address) == b""


async def test_a_factory_that_reverts_or_does_nothing_deploys_and_costs_nothing(
    devnet: Devnet, tmp_path: Path
) -> None:
    factory, owner = await deploy_factory(devnet), devnet.accounts[4]
    wallet = await counterfactual(devnet, factory, owner)
    first = await nonce_of(devnet)
    allowed = {"EIP6492_ALLOWED_FACTORIES": to_checksum_address(factory)}
    async with serve(devnet, tmp_path, **allowed) as service:
        for call in (b"", calldata("nothing()"), calldata("deployedBy(address)", bytes(20))):
            wrong = type(wallet)(wallet.address, factory, call)
            body = v2_body(devnet, payer=owner, owner=wallet.address, signature=wrong.wrap)
            assert (await verify(service, body))["isValid"] is False
            assert (await settle(service, body))["transaction"] == ""
    assert await nonce_of(devnet) == first

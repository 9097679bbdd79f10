"""settleWithAuthorization: the payer signs twice and holds neither ether nor an allowance."""

from typing import Any

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.chain import (
    approve,
    balance,
    deploy_legacy,
    devnet_authorization,
    devnet_payment,
    is_nonce_used,
    read,
    revert_data,
    settle_call,
    settled_logs,
    unhex,
)
from tests.support.encoding import calldata, error_selector

pytestmark = pytest.mark.anyio

TRANSFER = (
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
    "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
)


async def refusal(devnet: Devnet, header: dict[str, Any], authorization: dict[str, Any]) -> bytes:
    call = settle_call(header, authorization)
    return await revert_data(devnet, devnet.signer, devnet.contract, call)


async def transfer_past_the_contract(devnet: Devnet, authorization: dict[str, Any]) -> None:
    """Anybody can do this with what stands in a pending transaction."""
    call = calldata(
        TRANSFER[0],
        devnet.payer.address,
        devnet.contract,
        1_000_000,
        int(authorization["validAfter"]),
        int(authorization["validBefore"]),
        unhex(authorization["authNonce"]),
        unhex(authorization["authSignature"]),
    )
    await devnet.transact(devnet.accounts[7], devnet.usdc, call)


@pytest.mark.parametrize("scheme", ["exact", "upto"])
@pytest.mark.parametrize("legacy", [False, True], ids=["ours", "older"])
async def test_an_authorization_pays_without_an_allowance(
    devnet: Devnet, scheme: str, legacy: bool
) -> None:
    contract = await deploy_legacy(devnet) if legacy else devnet.contract
    accounts = (devnet.payer, devnet.seller, devnet.fee_recipient)
    before = [await balance(devnet, account.address) for account in accounts]
    header = devnet_payment(devnet, contract=contract, scheme=scheme)
    call = settle_call(header, devnet_authorization(devnet, to=contract))
    await devnet.transact(devnet.signer, contract, call)
    after = [await balance(devnet, account.address) for account in accounts]
    moved = [new - old for new, old in zip(after, before, strict=True)]
    assert moved == [-1_000_000, 995_000, 5_000]
    assert await balance(devnet, contract) == 0
    (log,) = await settled_logs(devnet, contract)
    assert (log.payer, log.amount, log.protocol_fee) == (devnet.payer.address, 1_000_000, 5_000)
    assert await revert_data(devnet, devnet.signer, contract, call) == error_selector(
        "NonceAlreadyUsed()"
    )


async def test_one_payment_settles_in_one_way_only(devnet: Devnet) -> None:
    """The two ways share the payment's nonce."""
    await approve(devnet)
    header = devnet_payment(devnet)
    await devnet.transact(devnet.signer, devnet.contract, settle_call(header))
    answer = await refusal(devnet, header, devnet_authorization(devnet))
    assert answer == error_selector("NonceAlreadyUsed()")


@pytest.mark.parametrize(
    "changes",
    [
        {"value": 999_999},
        {"value": 1_000_001},
        {"to": b"\x22" * 20},
        {"valid_before": 1},
        {"valid_after": 2**255},
        {"chain_id": 1},
        {"token": b"\x33" * 20},
        {"primary_type": "ReceiveWithAuthorization"},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_only_the_exact_authorization_counts(devnet: Devnet, changes: dict[str, Any]) -> None:
    header = devnet_payment(devnet)
    authorization = devnet_authorization(devnet, **changes)
    assert await refusal(devnet, header, authorization) == error_selector("TransferFailed()")


async def test_somebody_elses_authorization_pays_for_nobody(devnet: Devnet) -> None:
    header = devnet_payment(devnet)
    authorization = devnet_authorization(devnet, payer=devnet.accounts[4])
    assert await refusal(devnet, header, authorization) == error_selector("TransferFailed()")


async def test_an_authorization_alone_does_not_direct_the_money(devnet: Devnet) -> None:
    """Who sees the authorization still needs the payer's payment."""
    authorization = devnet_authorization(devnet)
    thief = devnet.accounts[7]
    own = devnet_payment(devnet, payer=thief, pay_to=thief.address)
    own["payer"] = "0x" + devnet.payer.address.hex()
    assert await refusal(devnet, own, authorization) == error_selector("InvalidSignature()")


async def test_an_authorization_that_was_used_past_the_contract_settles_nothing(
    devnet: Devnet,
) -> None:
    """The money is then in the contract, and the owner can send it back."""
    header = devnet_payment(devnet)
    authorization = devnet_authorization(devnet)
    await transfer_past_the_contract(devnet, authorization)
    assert await refusal(devnet, header, authorization) == error_selector("TransferFailed()")
    assert not await is_nonce_used(devnet, header)
    assert await balance(devnet, devnet.contract) == 1_000_000
    before = await balance(devnet, devnet.deployer.address)
    call = calldata("recoverTokens(address,uint256)", devnet.usdc, 1_000_000)
    await devnet.transact(devnet.deployer, devnet.contract, call)
    assert await balance(devnet, devnet.deployer.address) == before + 1_000_000
    assert await settled_logs(devnet) == []


async def test_what_others_left_in_the_contract_stays_there(devnet: Devnet) -> None:
    await transfer_past_the_contract(devnet, devnet_authorization(devnet))
    call = settle_call(devnet_payment(devnet), devnet_authorization(devnet))
    await devnet.transact(devnet.signer, devnet.contract, call)
    assert await balance(devnet, devnet.contract) == 1_000_000


async def test_a_failed_settlement_leaves_the_authorization_unused(devnet: Devnet) -> None:
    authorization = devnet_authorization(devnet)
    header = devnet_payment(devnet, network="base")
    assert await refusal(devnet, header, authorization) == error_selector("InvalidSignature()")
    used = await read(
        devnet,
        devnet.usdc,
        "authorizationState(address,bytes32)",
        devnet.payer.address,
        unhex(authorization["authNonce"]),
        returns="bool",
    )
    assert not used
    await devnet.transact(
        devnet.signer, devnet.contract, settle_call(devnet_payment(devnet), authorization)
    )

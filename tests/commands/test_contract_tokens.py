"""A token is a stranger's program: whatever it does, the contract pays only what it received."""

import pytest

from facilitator.commands.devnet import Devnet
from tests.support.chain import (
    approve,
    balance,
    devnet_payment,
    is_nonce_used,
    load_artifact,
    read,
    revert_data,
    settle_call,
    settled_logs,
)
from tests.support.encoding import calldata, error_selector

pytestmark = pytest.mark.anyio

# The hostile tokens ask for no signature.
UNSIGNED = {
    "validAfter": "0",
    "validBefore": "1",
    "authNonce": "0x" + "00" * 32,
    "authSignature": "0x",
}


async def deploy_token(devnet: Devnet, name: str) -> bytes:
    """Deployed, supported by the contract, and 10 units of it with the payer."""
    token = await devnet.deploy(load_artifact(name))
    support = calldata("setTokenSupported(address,bool)", token, True)
    await devnet.transact(devnet.deployer, devnet.contract, support)
    mint = calldata("mint(address,uint256)", devnet.payer.address, 10_000_000)
    await devnet.transact(devnet.deployer, token, mint)
    return token


@pytest.mark.parametrize("gasless", [False, True], ids=["allowance", "gasless"])
async def test_a_token_that_calls_back_finds_the_door_closed(devnet: Devnet, gasless: bool) -> None:
    token = await deploy_token(devnet, "ReentrantToken")
    await approve(devnet, token=token)
    await approve(devnet)
    header = devnet_payment(devnet, asset=token)
    inner = settle_call(devnet_payment(devnet, nonce="inner"))  # good in itself, and in USDC
    await devnet.transact(
        devnet.payer, token, calldata("arm(address,bytes)", devnet.contract, inner)
    )
    call = settle_call(header, UNSIGNED if gasless else None)
    await devnet.transact(devnet.signer, devnet.contract, call)

    assert await read(devnet, token, "attempted()", returns="bool")
    assert not await read(devnet, token, "succeeded()", returns="bool")
    answer = await read(devnet, token, "answer()", returns="bytes")
    assert answer == error_selector("ReentrancyGuardReentrantCall()")
    assert [log.token for log in await settled_logs(devnet)] == [token]
    # It was the moment that was wrong with the inner payment, and nothing else.
    await devnet.transact(devnet.signer, devnet.contract, inner)


async def test_a_token_that_replays_its_own_payment_is_refused(devnet: Devnet) -> None:
    token = await deploy_token(devnet, "ReentrantToken")
    await approve(devnet, token=token)
    call = settle_call(devnet_payment(devnet, asset=token))
    arm = calldata("arm(address,bytes)", devnet.contract, call)
    await devnet.transact(devnet.payer, token, arm)
    await devnet.transact(devnet.signer, devnet.contract, call)
    assert len(await settled_logs(devnet)) == 1
    assert await balance(devnet, devnet.payer.address, token) == 9_000_000


async def test_a_token_that_delivers_less_cannot_spend_what_others_left_here(
    devnet: Devnet,
) -> None:
    token = await deploy_token(devnet, "FeeOnTransferToken")
    left = calldata("mint(address,uint256)", devnet.contract, 5_000_000)
    await devnet.transact(devnet.deployer, token, left)
    header = devnet_payment(devnet, asset=token)
    answer = await revert_data(
        devnet, devnet.signer, devnet.contract, settle_call(header, UNSIGNED)
    )
    assert answer == error_selector("TransferFailed()")
    assert await balance(devnet, devnet.contract, token) == 5_000_000


@pytest.mark.parametrize("gasless", [False, True], ids=["allowance", "gasless"])
async def test_a_token_that_answers_false_has_not_paid(devnet: Devnet, gasless: bool) -> None:
    token = await deploy_token(devnet, "FalseReturningToken")
    header = devnet_payment(devnet, asset=token)
    call = settle_call(header, UNSIGNED if gasless else None)
    answer = await revert_data(devnet, devnet.signer, devnet.contract, call)
    assert answer == error_selector("TransferFailed()")
    assert not await is_nonce_used(devnet, header)


@pytest.mark.parametrize("gasless", [False, True], ids=["allowance", "gasless"])
async def test_a_token_without_return_values_pays(devnet: Devnet, gasless: bool) -> None:
    token = await deploy_token(devnet, "NoReturnToken")
    if not gasless:
        await approve(devnet, token=token)
    header = devnet_payment(devnet, asset=token)
    call = settle_call(header, UNSIGNED if gasless else None)
    await devnet.transact(devnet.signer, devnet.contract, call)
    assert await balance(devnet, devnet.seller.address, token) == 995_000
    assert await balance(devnet, devnet.fee_recipient.address, token) == 5_000
    assert await balance(devnet, devnet.contract, token) == 0


async def test_a_contract_that_is_no_token_pays_nothing(devnet: Devnet) -> None:
    support = calldata("setTokenSupported(address,bool)", devnet.multicall3, True)
    await devnet.transact(devnet.deployer, devnet.contract, support)
    header = devnet_payment(devnet, asset=devnet.multicall3)
    answer = await revert_data(devnet, devnet.signer, devnet.contract, settle_call(header))
    assert answer == error_selector("TransferFailed()")

"""The owner sets fee, tokens and recipients within limits, and can touch no payment."""

from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_utils.abi import event_signature_to_log_topic, function_signature_to_4byte_selector

from facilitator.chain.rpc import RPCError
from facilitator.commands.contracts import load
from facilitator.commands.devnet import Devnet
from tests.support.chain import (
    approve,
    devnet_payment,
    load_artifact,
    read,
    revert_data,
    settle_call,
    settled_logs,
    unhex,
)
from tests.support.encoding import calldata, error_selector

pytestmark = pytest.mark.anyio

ZERO = bytes(20)
OTHER = b"\x44" * 20

# Section 8 of the dialect, as selectors see it.
FUNCTIONS = {
    "settle(address,address,address,uint256,string,string,uint256,bytes)",
    "settleWithAuthorization(address,address,address,uint256,string,string,uint256,bytes,uint256,"
    "uint256,bytes32,bytes)",
    *("isNonceUsed(address,string)", "supportedTokens(address)", "tokenDecimals(address)"),
    *("authorizedServices(address)", "usedNonces(bytes32)", "getStats()", "protocolFeeBps()"),
    *("feeRecipient()", "totalSettlements()", "totalVolumeUSD()", "MAX_PAYMENT_AGE()"),
    *("PAYMENT_TYPEHASH()", "domainSeparator()"),
    "hashPayment(address,address,uint256,string,string,uint256)",
    *("setTokenSupported(address,bool)", "setTokenDecimals(address,uint8)"),
    *("setAuthorizedService(address,bool)", "setProtocolFee(uint256)"),
    *("setFeeRecipient(address)", "recoverTokens(address,uint256)"),
    *("transferOwnership(address)", "renounceOwnership()", "owner()"),
}
EVENTS = {
    "PaymentSettled(bytes32,address,address,address,uint256,uint256,string,uint256)",
    "ServiceAuthorized(address,bool)",
    "TokenSupported(address,bool)",
    "ProtocolFeeUpdated(uint256,uint256)",
    "FeeRecipientUpdated(address,address)",
    "OwnershipTransferred(address,address)",
}
ERRORS = {
    *("InvalidSignature()", "PaymentExpired()", "NonceAlreadyUsed()", "UnsupportedToken()"),
    *("InvalidAmount()", "InvalidRecipient()", "TransferFailed()"),
    # of the parts that it is made of
    *("OwnableUnauthorizedAccount(address)", "OwnableInvalidOwner(address)"),
    "ReentrancyGuardReentrantCall()",
}
OWNER_ONLY = [
    ("setTokenSupported(address,bool)", (OTHER, True)),
    ("setTokenDecimals(address,uint8)", (OTHER, 18)),
    ("setAuthorizedService(address,bool)", (OTHER, True)),
    ("setProtocolFee(uint256)", (1,)),
    ("setFeeRecipient(address)", (OTHER,)),
    ("recoverTokens(address,uint256)", (OTHER, 0)),
    ("transferOwnership(address)", (OTHER,)),
    ("renounceOwnership()", ()),
]


def signatures(name: str, kind: str) -> set[str]:
    artifact = load(name) if name == "X402Facilitator" else load_artifact(name)
    return {
        f"{entry['name']}({','.join(value['type'] for value in entry['inputs'])})"
        for entry in artifact.abi
        if entry["type"] == kind
    }


def test_the_interface_is_the_one_that_clients_know() -> None:
    assert signatures("X402Facilitator", "function") == FUNCTIONS
    assert signatures("X402Facilitator", "event") == EVENTS
    assert signatures("X402Facilitator", "error") == ERRORS


def test_the_older_deployment_has_the_same_interface() -> None:
    assert signatures("LegacyX402Facilitator", "function") >= FUNCTIONS
    assert signatures("LegacyX402Facilitator", "event") >= EVENTS
    assert signatures("LegacyX402Facilitator", "error") >= ERRORS


def test_the_invalid_signature_selector_is_the_known_one() -> None:
    assert function_signature_to_4byte_selector("InvalidSignature()").hex() == "8baa579f"


async def test_what_only_the_owner_may_do_nobody_else_may(devnet: Devnet) -> None:
    stranger = devnet.payer
    for signature, arguments in OWNER_ONLY:
        call = calldata(signature, *arguments)
        answer = await revert_data(devnet, stranger, devnet.contract, call)
        expected = error_selector("OwnableUnauthorizedAccount(address)")
        assert answer == expected + encode(["address"], [stranger.address]), signature


@pytest.mark.parametrize(
    ("call", "event", "words"),
    [
        (
            ("setTokenSupported(address,bool)", OTHER, True),
            "TokenSupported(address,bool)",
            (("bool",), (True,)),
        ),
        (
            ("setAuthorizedService(address,bool)", OTHER, True),
            "ServiceAuthorized(address,bool)",
            (("bool",), (True,)),
        ),
        (
            ("setProtocolFee(uint256)", 1_000),
            "ProtocolFeeUpdated(uint256,uint256)",
            (("uint256", "uint256"), (50, 1_000)),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
async def test_the_owners_changes_are_announced(
    devnet: Devnet, call: Any, event: str, words: Any
) -> None:
    receipt = await devnet.transact(devnet.deployer, devnet.contract, calldata(*call))
    (log,) = receipt["logs"]
    assert log["topics"][0] == "0x" + event_signature_to_log_topic(event).hex()
    types, values = words
    assert decode(types, unhex(log["data"])) == values


async def test_a_new_fee_recipient_gets_the_next_fee(devnet: Devnet) -> None:
    await approve(devnet)
    call = calldata("setFeeRecipient(address)", OTHER)
    receipt = await devnet.transact(devnet.deployer, devnet.contract, call)
    addresses = decode(["address", "address"], unhex(receipt["logs"][0]["data"]))
    assert addresses == ("0x" + devnet.fee_recipient.address.hex(), "0x" + OTHER.hex())
    await devnet.transact(devnet.signer, devnet.contract, settle_call(devnet_payment(devnet)))
    assert await read(devnet, devnet.usdc, "balanceOf(address)", OTHER) == 5_000


@pytest.mark.parametrize(
    ("signature", "argument", "why"),
    [
        ("setProtocolFee(uint256)", 1_001, "InvalidAmount()"),
        ("setFeeRecipient(address)", ZERO, "InvalidRecipient()"),
        ("transferOwnership(address)", ZERO, "OwnableInvalidOwner(address)"),
    ],
)
async def test_the_owner_has_limits_too(
    devnet: Devnet, signature: str, argument: object, why: str
) -> None:
    call = calldata(signature, argument)
    answer = await revert_data(devnet, devnet.deployer, devnet.contract, call)
    assert answer[:4] == error_selector(why)


async def test_a_token_can_be_stopped_and_allowed_again(devnet: Devnet) -> None:
    await approve(devnet)
    call = settle_call(devnet_payment(devnet))
    for supported in (False, True):
        change = calldata("setTokenSupported(address,bool)", devnet.usdc, supported)
        await devnet.transact(devnet.deployer, devnet.contract, change)
        if not supported:
            answer = await revert_data(devnet, devnet.signer, devnet.contract, call)
            assert answer == error_selector("UnsupportedToken()")
    await devnet.transact(devnet.signer, devnet.contract, call)


@pytest.mark.parametrize(
    ("decimals", "effective", "volume"),
    [
        (None, 6, 10**18),
        (0, 6, 10**18),
        (2, 2, 10**6 * 10**16),
        (18, 18, 10**6),
        (20, 20, 10**4),
        (95, 95, 0),
        (96, 96, 0),
        (255, 255, 0),
    ],
)
async def test_the_volume_counts_by_the_tokens_decimals(
    devnet: Devnet, decimals: int | None, effective: int, volume: int
) -> None:
    await approve(devnet)
    if decimals is not None:
        call = calldata("setTokenDecimals(address,uint8)", devnet.usdc, decimals)
        await devnet.transact(devnet.deployer, devnet.contract, call)
    known = await read(
        devnet, devnet.contract, "tokenDecimals(address)", devnet.usdc, returns="uint8"
    )
    assert known == effective
    await devnet.transact(devnet.signer, devnet.contract, settle_call(devnet_payment(devnet)))
    assert await read(devnet, devnet.contract, "totalVolumeUSD()") == volume
    assert await read(devnet, devnet.contract, "totalSettlements()") == 1


async def test_a_volume_beyond_a_word_stops_no_payment(devnet: Devnet) -> None:
    await approve(devnet)
    await devnet.transact(devnet.deployer, devnet.contract, calldata("setProtocolFee(uint256)", 0))
    await devnet.mint(devnet.payer.address, 2**230)
    for amount in (2**230, 1):
        header = devnet_payment(devnet, amount=amount)
        await devnet.transact(devnet.signer, devnet.contract, settle_call(header))
    assert await read(devnet, devnet.contract, "totalVolumeUSD()") == 2**256 - 1
    assert len(await settled_logs(devnet)) == 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"owner": ZERO}, "OwnableInvalidOwner(address)"),
        ({"fee_recipient": ZERO}, "InvalidRecipient()"),
        ({"tokens": [OTHER, ZERO]}, "UnsupportedToken()"),
        ({"network": ""}, "Error(string)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_contract_that_could_not_work_cannot_be_deployed(
    devnet: Devnet, changes: dict[str, object], why: str
) -> None:
    arguments = {"owner": OTHER, "fee_recipient": OTHER, "tokens": [OTHER], "network": "base"}
    artifact = load("X402Facilitator")
    with pytest.raises(RPCError) as refused:
        await devnet.deploy(artifact, *(arguments | changes).values())
    assert refused.value.data is not None
    assert unhex(refused.value.data)[:4] == error_selector(why)


async def test_the_constructors_values_are_the_contracts_settings(devnet: Devnet) -> None:
    artifact = load("X402Facilitator")
    owner, collector = b"\x51" * 20, b"\x52" * 20
    contract = await devnet.deploy(artifact, owner, collector, [OTHER, devnet.usdc], "base")
    for signature, expected in (("owner()", owner), ("feeRecipient()", collector)):
        value = await read(devnet, contract, signature, returns="address")
        assert unhex(value) == expected
    for token in (OTHER, devnet.usdc):
        assert await read(devnet, contract, "supportedTokens(address)", token, returns="bool")
    assert await read(devnet, contract, "protocolFeeBps()") == 50
    assert await read(devnet, contract, "MAX_PAYMENT_AGE()") == 300
    # and the network is what its payers sign
    await approve(devnet, spender=contract)
    for network, good in (("jeju", False), ("base", True)):
        call = settle_call(devnet_payment(devnet, contract=contract, network=network))
        if good:
            await devnet.transact(devnet.signer, contract, call)
        else:
            answer = await revert_data(devnet, devnet.signer, contract, call)
            assert answer == error_selector("InvalidSignature()")

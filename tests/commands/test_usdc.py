"""The test USDC moves as USDC does: by allowance, permit and authorization; contracts pay too."""

import time
from typing import Any

import pytest
from eth_abi.abi import decode
from eth_utils.abi import event_signature_to_log_topic, function_signature_to_4byte_selector

from facilitator.commands.devnet import Account, Devnet, DevnetOptions
from facilitator.config.networks import NETWORKS, Network
from tests.support.chain import (
    MAX_UINT256,
    balance,
    devnet_authorization,
    load_artifact,
    read,
    revert_data,
    unhex,
)
from tests.support.encoding import calldata, error_selector
from tests.support.signing import sign_typed_data, typed_data

pytestmark = pytest.mark.anyio

SPLIT = "uint8,bytes32,bytes32"
FIELDS = "address,address,uint256,uint256,uint256,bytes32"
FORMS = pytest.mark.parametrize("form", [SPLIT, "bytes"], ids=["split", "bytes"])
SHARE = 1_000_000


def signature_arguments(form: str, signature: bytes) -> tuple[object, ...]:
    if form == SPLIT:
        return signature[64], signature[:32], signature[32:64]
    return (signature,)


def authorized(
    name: str, form: str, payer: bytes, to: bytes, authorization: dict[str, Any], value: int = SHARE
) -> bytes:
    return calldata(
        f"{name}({FIELDS},{form})",
        payer,
        to,
        value,
        int(authorization["validAfter"]),
        int(authorization["validBefore"]),
        unhex(authorization["authNonce"]),
        *signature_arguments(form, unhex(authorization["authSignature"])),
    )


def sign(devnet: Devnet, account: Account, primary_type: str, message: dict[str, Any]) -> bytes:
    types = {
        "Permit": {
            "owner": "address",
            "spender": "address",
            "value": "uint256",
            "nonce": "uint256",
            "deadline": "uint256",
        },
        "CancelAuthorization": {"authorizer": "address", "nonce": "bytes32"},
    }
    fields = [{"name": name, "type": kind} for name, kind in types[primary_type].items()]
    return sign_typed_data(
        account.key,
        typed_data(
            primary_type,
            fields,
            message,
            name="USD Coin",
            version="2",
            chain_id=devnet.chain_id,
            verifying_contract=devnet.usdc,
        ),
    )


def reason(answer: bytes) -> str:
    """The text of an Error(string)."""
    assert answer[:4].hex() == "08c379a0"
    (text,) = decode(["string"], answer[4:])
    assert isinstance(text, str)
    return text


async def test_it_presents_itself_as_usdc(devnet: Devnet) -> None:
    for function, kind, expected in (
        ("name()", "string", "USD Coin"),
        ("symbol()", "string", "USDC"),
        ("version()", "string", "2"),
        ("decimals()", "uint8", 6),
    ):
        assert await read(devnet, devnet.usdc, function, returns=kind) == expected


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
async def test_it_hashes_under_the_domain_that_is_known_for_its_network(network: Network) -> None:
    """Else a gasless payment that is right for the real network would be wrong on the devnet."""
    options = DevnetOptions(
        port=0, block_time=None, chain_id=network.chain_id, network_name=network.name
    )
    async with Devnet.start(options) as devnet:
        known = network.usdc_at(devnet.usdc)
        message = typed_data(
            "Nothing",
            [],
            {},
            name=known.name,
            version=known.version,
            chain_id=network.chain_id,
            verifying_contract=devnet.usdc,
        )
        separator = await read(devnet, devnet.usdc, "DOMAIN_SEPARATOR()", returns="bytes32")
        assert separator == message.header
        assert await read(devnet, devnet.usdc, "name()", returns="string") == known.name


def test_both_overloads_have_the_known_selectors() -> None:
    name = "transferWithAuthorization"
    assert function_signature_to_4byte_selector(f"{name}({FIELDS},{SPLIT})").hex() == "e3ee160e"
    assert function_signature_to_4byte_selector(f"{name}({FIELDS},bytes)").hex() == "cf092995"


@FORMS
@pytest.mark.parametrize("name", ["transferWithAuthorization", "receiveWithAuthorization"])
async def test_an_authorization_moves_the_value_once(devnet: Devnet, name: str, form: str) -> None:
    payer, seller = devnet.payer.address, devnet.seller.address
    authorization = devnet_authorization(devnet, to=seller, primary_type=name[0].upper() + name[1:])
    call = authorized(name, form, payer, seller, authorization)
    before = await balance(devnet, seller)
    receipt = await devnet.transact(devnet.seller, devnet.usdc, call)
    assert await balance(devnet, seller) == before + SHARE
    used, transfer = receipt["logs"]  # in this order: it is how a payment is told in a block
    topic = event_signature_to_log_topic("AuthorizationUsed(address,bytes32)")
    authorizer = "0x" + (bytes(12) + payer).hex()
    assert used["topics"] == ["0x" + topic.hex(), authorizer, authorization["authNonce"]]
    assert transfer["topics"][1] == authorizer
    again = await revert_data(devnet, devnet.seller, devnet.usdc, call)
    assert reason(again) == "FiatTokenV2: authorization is used or canceled"


async def test_only_the_payee_may_send_a_receive(devnet: Devnet) -> None:
    authorization = devnet_authorization(
        devnet, to=devnet.seller.address, primary_type="ReceiveWithAuthorization"
    )
    call = authorized(
        "receiveWithAuthorization",
        "bytes",
        devnet.payer.address,
        devnet.seller.address,
        authorization,
    )
    answer = await revert_data(devnet, devnet.signer, devnet.usdc, call)
    assert reason(answer) == "FiatTokenV2: caller must be the payee"


@pytest.mark.parametrize(
    ("offset", "refused"),
    [
        (0, "FiatTokenV2: authorization is not yet valid"),
        (1, None),
        (9, None),
        (10, "FiatTokenV2: authorization is expired"),
    ],
)
async def test_an_authorization_holds_between_its_bounds(
    devnet: Devnet, offset: int, refused: str | None
) -> None:
    """Both bounds are outside: validAfter < block time < validBefore."""
    start = int(time.time()) + 1_000
    authorization = devnet_authorization(
        devnet, to=devnet.seller.address, valid_after=start, valid_before=start + 10
    )
    call = authorized(
        "transferWithAuthorization",
        "bytes",
        devnet.payer.address,
        devnet.seller.address,
        authorization,
    )
    if refused is not None:
        answer = await revert_data(devnet, devnet.signer, devnet.usdc, call, at=start + offset)
        assert reason(answer) == refused
    else:
        await devnet.rpc("evm_setNextBlockTimestamp", start + offset)
        await devnet.transact(devnet.signer, devnet.usdc, call)


@FORMS
async def test_a_canceled_authorization_is_worthless(devnet: Devnet, form: str) -> None:
    authorization = devnet_authorization(devnet, to=devnet.seller.address)
    nonce = unhex(authorization["authNonce"])
    payer = devnet.payer
    message = {"authorizer": payer.address, "nonce": nonce}
    signature = sign(devnet, payer, "CancelAuthorization", message)
    forged = sign(devnet, devnet.seller, "CancelAuthorization", message)

    def cancel(signature: bytes) -> bytes:
        return calldata(
            f"cancelAuthorization(address,bytes32,{form})",
            payer.address,
            nonce,
            *signature_arguments(form, signature),
        )

    answer = await revert_data(devnet, devnet.signer, devnet.usdc, cancel(forged))
    assert reason(answer) == "FiatTokenV2: invalid signature"
    receipt = await devnet.transact(devnet.signer, devnet.usdc, cancel(signature))
    topic = event_signature_to_log_topic("AuthorizationCanceled(address,bytes32)")
    assert receipt["logs"][0]["topics"][0] == "0x" + topic.hex()
    call = authorized(
        "transferWithAuthorization", form, payer.address, devnet.seller.address, authorization
    )
    answer = await revert_data(devnet, devnet.signer, devnet.usdc, call)
    assert reason(answer) == "FiatTokenV2: authorization is used or canceled"


async def test_a_permit_sets_an_allowance_once(devnet: Devnet) -> None:
    payer, deadline = devnet.payer, int(time.time()) + 600
    message = {
        "owner": payer.address,
        "spender": devnet.contract,
        "value": SHARE,
        "nonce": 0,
        "deadline": deadline,
    }
    signature = sign(devnet, payer, "Permit", message)
    call = calldata(
        f"permit(address,address,uint256,uint256,{SPLIT})",
        payer.address,
        devnet.contract,
        SHARE,
        deadline,
        *signature_arguments(SPLIT, signature),
    )
    late = await revert_data(devnet, devnet.signer, devnet.usdc, call, at=deadline + 1)
    assert reason(late) == "FiatTokenV2: permit is expired"
    await devnet.transact(devnet.signer, devnet.usdc, call)
    allowance = "allowance(address,address)"
    assert await read(devnet, devnet.usdc, allowance, payer.address, devnet.contract) == SHARE
    assert await read(devnet, devnet.usdc, "nonces(address)", payer.address) == 1
    again = await revert_data(devnet, devnet.signer, devnet.usdc, call)
    assert reason(again) == "EIP2612: invalid signature"


async def test_a_payer_with_code_is_asked_and_its_address_key_is_not(devnet: Devnet) -> None:
    """EIP-1271, with no falling back to ecrecover."""
    keeper, seller = devnet.accounts[4], devnet.seller.address
    code = await devnet.deploy(load_artifact("ContractWallet"), keeper.address)
    await devnet.mint(code, SHARE)
    message = devnet_authorization(devnet, payer=keeper, to=seller, owner=code)
    call = authorized("transferWithAuthorization", "bytes", code, seller, message)
    before = await balance(devnet, seller)
    await devnet.transact(devnet.signer, devnet.usdc, call)
    assert await balance(devnet, seller) == before + SHARE

    # The payer's key is known, but where there is code the code decides.
    runtime = await devnet.rpc("eth_getCode", "0x" + code.hex(), "latest")
    await devnet.rpc("anvil_setCode", "0x" + devnet.payer.address.hex(), runtime)
    call = authorized(
        "transferWithAuthorization",
        "bytes",
        devnet.payer.address,
        seller,
        devnet_authorization(devnet, to=seller),
    )
    answer = await revert_data(devnet, devnet.signer, devnet.usdc, call)
    assert reason(answer) == "FiatTokenV2: invalid signature"


async def test_only_the_owner_makes_money(devnet: Devnet) -> None:
    call = calldata("mint(address,uint256)", devnet.payer.address, 1)
    answer = await revert_data(devnet, devnet.payer, devnet.usdc, call)
    assert answer[:4] == error_selector("OwnableUnauthorizedAccount(address)")


async def test_a_balance_cannot_be_overdrawn_by_signature(devnet: Devnet) -> None:
    payer, seller = devnet.payer.address, devnet.seller.address
    authorization = devnet_authorization(devnet, to=seller, value=MAX_UINT256)
    call = authorized(
        "transferWithAuthorization", "bytes", payer, seller, authorization, MAX_UINT256
    )
    answer = await revert_data(devnet, devnet.signer, devnet.usdc, call)
    assert reason(answer) == "ERC20: transfer amount exceeds balance"


async def test_an_allowance_cannot_be_overdrawn(devnet: Devnet) -> None:
    call = calldata(
        "transferFrom(address,address,uint256)",
        *(devnet.payer.address, devnet.seller.address, SHARE),
    )
    answer = await revert_data(devnet, devnet.signer, devnet.usdc, call)
    assert reason(answer) == "ERC20: transfer amount exceeds allowance"

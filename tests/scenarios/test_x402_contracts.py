"""The smart wallets and tokens that tests put before the service do on a chain what they are there
for.
"""

from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from facilitator.chain.rpc import RPCError
from facilitator.commands.devnet import Devnet
from tests.support.chain import balance, load_artifact, revert_data, simulate, unhex
from tests.support.encoding import SPLIT, TRANSFER, WHOLE, calldata, refusal
from tests.support.x402 import AMOUNT, long_form, payload_of, v1_body, v2_body
from tests.support.x402_chain import (
    INVALID,
    Behaviour,
    Counterfactual,
    Fault,
    aggregate3_call,
    authorization_used,
    authorizations_used,
    code_at,
    counterfactual,
    delegate,
    deploy_factory,
    deploy_rogue_wallet,
    deploy_token,
    deploy_wallet,
    deployed_by,
    mint,
    pay,
    refused,
    transfer_call,
    transfers,
)

pytestmark = pytest.mark.anyio

FORMS = pytest.mark.parametrize("form", [SPLIT, WHOLE], ids=["split", "whole"])
SOMEBODY_ELSE = bytes(18) + b"\xde\xad"
CALL_GAS = 5_000_000  # what a simulation may spend


def bounded(devnet: Devnet, payload: dict[str, Any]) -> dict[str, str]:
    """The USDC's call as a node is asked about it by who does not trust the payer's code."""
    return {
        "from": "0x" + devnet.signer.address.hex(),
        "to": "0x" + devnet.usdc.hex(),
        "data": "0x" + transfer_call(payload).hex(),
        "gas": hex(CALL_GAS),
    }


@pytest.mark.parametrize("form", [SPLIT, WHOLE, None], ids=["split", "whole", "long"])
async def test_a_smart_wallet_pays_by_its_owners_signature(
    devnet: Devnet, form: str | None
) -> None:
    owner = devnet.accounts[4]
    wallet = await deploy_wallet(devnet, owner)
    reshape: dict[str, Any] = {} if form else {"signature": long_form(owner)}
    payload = payload_of(v2_body(devnet, payer=owner, owner=wallet, **reshape))
    forged = payload_of(v2_body(devnet, payer=devnet.accounts[5], owner=wallet, **reshape))
    assert len(unhex(payload["signature"])) == (65 if form else 192)
    assert await refused(devnet, forged, form) == INVALID
    await pay(devnet, payload, form)
    assert await balance(devnet, wallet) == 9_000_000


async def test_a_smart_wallet_can_take_its_word_back(devnet: Devnet) -> None:
    owner = devnet.accounts[4]
    wallet = await deploy_wallet(devnet, owner)
    payload = payload_of(v2_body(devnet, payer=owner, owner=wallet))
    await simulate(devnet, devnet.signer, devnet.usdc, transfer_call(payload))
    change = calldata("changeOwner(address)", devnet.accounts[5].address)
    await devnet.transact(owner, wallet, change)
    assert await refused(devnet, payload) == INVALID


@pytest.mark.parametrize("behaviour", [each for each in Behaviour if each != Behaviour.HUGE_ANSWER])
async def test_an_answer_that_is_not_the_magic_word_is_no_signature(
    devnet: Devnet, behaviour: Behaviour
) -> None:
    wallet = await deploy_rogue_wallet(devnet, behaviour)
    payload = payload_of(v2_body(devnet, owner=wallet))
    with pytest.raises(RPCError) as answer:
        await devnet.rpc("eth_call", bounded(devnet, payload), "latest")
    # what is left once all gas is burnt may not suffice for words
    if behaviour is not Behaviour.BURN_GAS:
        assert unhex(answer.value.data or "") == INVALID


async def test_what_follows_the_magic_word_costs_gas_and_says_nothing(devnet: Devnet) -> None:
    wallet = await deploy_rogue_wallet(devnet, Behaviour.HUGE_ANSWER)
    payload = payload_of(v2_body(devnet, owner=wallet))
    estimate: Any = await devnet.rpc("eth_estimateGas", bounded(devnet, payload))
    assert 2_000_000 < int(estimate, 16) < CALL_GAS  # a megabyte of memory has its price
    await pay(devnet, payload)
    assert await balance(devnet, wallet) == 9_000_000


@pytest.mark.parametrize("long", [False, True], ids=["65 bytes", "long"])
@pytest.mark.parametrize("once", [False, True], ids=["idempotent", "once"])
async def test_a_wallet_is_deployed_and_pays_in_one_transaction(
    devnet: Devnet, once: bool, long: bool
) -> None:
    """Multicall3 is who calls the factory, never the sender of the transaction."""
    owner, factory = devnet.accounts[4], await deploy_factory(devnet)
    wallet = await counterfactual(devnet, factory, owner, salt=b"\1" * 32, once=once)
    reshape: dict[str, Any] = {"signature": long_form(owner)} if long else {}
    payload = payload_of(v2_body(devnet, payer=owner, owner=wallet.address, **reshape))
    transfer = devnet.usdc, transfer_call(payload, WHOLE)
    both = aggregate3_call((factory, wallet.call), transfer)
    alone = refusal("ECRecover: invalid signature length") if long else INVALID
    assert await refused(devnet, payload, WHOLE) == alone
    assert await deployed_by(devnet, wallet) == bytes(20)

    await devnet.transact(devnet.signer, devnet.multicall3, both)
    assert await code_at(devnet, wallet.address) != b""
    assert await deployed_by(devnet, wallet) == devnet.multicall3
    assert await balance(devnet, wallet.address) == 9_000_000

    again = payload_of(v2_body(devnet, payer=owner, owner=wallet.address, **reshape))
    both = aggregate3_call((factory, wallet.call), (devnet.usdc, transfer_call(again, WHOLE)))
    if once:
        answer = await revert_data(devnet, devnet.signer, devnet.multicall3, both)
        assert answer == refusal("Multicall3: call failed")
        await pay(devnet, again, WHOLE)
    else:
        await devnet.transact(devnet.signer, devnet.multicall3, both)
    assert await balance(devnet, wallet.address) == 8_000_000


async def test_nothing_is_deployed_without_the_payment(devnet: Devnet) -> None:
    owner, factory = devnet.accounts[4], await deploy_factory(devnet)
    wallet = await counterfactual(devnet, factory, owner)
    forged = payload_of(v2_body(devnet, payer=devnet.payer, owner=wallet.address))
    both = aggregate3_call((factory, wallet.call), (devnet.usdc, transfer_call(forged, WHOLE)))
    with pytest.raises(RPCError):
        await devnet.transact(devnet.signer, devnet.multicall3, both)
    assert await code_at(devnet, wallet.address) == b""


async def test_a_wallets_address_is_the_one_that_create2_gives(devnet: Devnet) -> None:
    """EIP-1014: of the deployer, the salt, and the creation code with its arguments."""
    owner, factory, salt = devnet.payer, await deploy_factory(devnet), b"\2" * 32
    wallet = await counterfactual(devnet, factory, owner, salt=salt)
    code = load_artifact("Wallet1271").bytecode + encode(["address"], [owner.address])
    assert wallet.address == keccak(b"\xff" + factory + salt + keccak(code))[12:]


async def test_a_wrapped_signature_says_how_to_deploy_its_wallet(devnet: Devnet) -> None:
    """ERC-6492: (factory, call, signature), then the magic word."""
    wallet = Counterfactual(b"\x11" * 20, b"\x22" * 20, b"call")
    wrapped = wallet.wrap(b"signature")
    assert wrapped[:-32] == encode(
        ["address", "bytes", "bytes"], [wallet.factory, b"call", b"signature"]
    )
    assert wrapped[-32:].hex() == "6492" * 16
    # the token does not read it: what it gets is the signature within
    payload = payload_of(v2_body(devnet, signature=wallet.wrap))
    assert await refused(devnet, payload) == refusal("ECRecover: invalid signature length")


async def test_an_account_that_delegates_is_asked_as_a_wallet_is(devnet: Devnet) -> None:
    """EIP-7702: the account has code, so the code decides; without it its key pays again."""
    payer = devnet.payer
    asks = await devnet.deploy(load_artifact("Delegate7702"))
    silent = await devnet.deploy(load_artifact("SilentDelegate7702"))

    await delegate(devnet, payer, asks)
    assert await code_at(devnet, payer.address) == bytes.fromhex("ef0100") + asks
    await pay(devnet, payload_of(v2_body(devnet)))
    forged = payload_of(v2_body(devnet, payer=devnet.accounts[4], owner=payer.address))
    assert await refused(devnet, forged) == INVALID

    await delegate(devnet, payer, silent)
    payload = payload_of(v2_body(devnet))
    assert await refused(devnet, payload) == INVALID

    await delegate(devnet, payer)
    assert await code_at(devnet, payer.address) == b""
    await pay(devnet, payload)
    assert len(await transfers(devnet)) == 2


@FORMS
async def test_another_token_pays_under_its_own_domain(devnet: Devnet, form: str) -> None:
    token = await deploy_token(devnet, name="Euro of Tests", version="3", decimals=2)
    body = v1_body(devnet, token=token)
    assert body["paymentRequirements"]["extra"] == {"name": "Euro of Tests", "version": "3"}
    payload = payload_of(body)
    await devnet.transact(devnet.signer, token.address, transfer_call(payload, form))
    assert await balance(devnet, devnet.seller.address, token.address) == AMOUNT
    assert await authorization_used(devnet, payload, token)


async def test_a_token_without_the_bytes_overload_takes_split_signatures_only(
    devnet: Devnet,
) -> None:
    token = await deploy_token(devnet, "SplitSignatureToken")
    payload = payload_of(v2_body(devnet, token=token))
    answer = await revert_data(devnet, devnet.signer, token.address, transfer_call(payload, WHOLE))
    assert answer == b""
    await devnet.transact(devnet.signer, token.address, transfer_call(payload, SPLIT))
    assert await balance(devnet, devnet.seller.address, token.address) == AMOUNT

    wallet = await deploy_wallet(devnet, devnet.payer)
    await mint(devnet, token, wallet)
    payload = payload_of(v2_body(devnet, token=token, owner=wallet))
    answer = await revert_data(devnet, devnet.signer, token.address, transfer_call(payload))
    assert answer == refusal("invalid signature")


@pytest.mark.parametrize(
    ("fault", "moved", "used"),
    [
        (Fault.NO_TRANSFER, [], True),
        (Fault.SILENCE, [], False),
        (Fault.FEE, [("seller", 990_000), ("token", 10_000)], True),
        (Fault.WRONG_RECIPIENT, [("somebody else", AMOUNT)], True),
        (Fault.TRANSFER_FIRST, [("seller", AMOUNT)], True),
        (Fault.FOREIGN_EVENT, [], True),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
@FORMS
async def test_a_faulty_token_returns_as_if_it_had_paid(
    devnet: Devnet, form: str, fault: Fault, moved: list[tuple[str, int]], used: bool
) -> None:
    token = await deploy_token(devnet, "FaultyToken", fault)
    names = {
        devnet.seller.address: "seller",
        token.address: "token",
        SOMEBODY_ELSE: "somebody else",
    }
    payload = payload_of(v2_body(devnet, token=token))
    receipt = await devnet.transact(devnet.signer, token.address, transfer_call(payload, form))
    found = await transfers(devnet, token)
    assert [(names[transfer.recipient], transfer.value) for transfer in found] == moved
    assert await authorization_used(devnet, payload, token) is used
    assert len(await authorizations_used(devnet, token)) == used
    if fault is Fault.TRANSFER_FIRST:
        assert receipt["logs"][0]["topics"][0] == "0x" + TRANSFER.hex()
    if fault is Fault.FOREIGN_EVENT:
        foreign = receipt["logs"][1]
        assert foreign["topics"][0] == "0x" + TRANSFER.hex()
        assert foreign["address"] != "0x" + token.address.hex()


async def test_a_token_may_refuse_in_any_words(devnet: Devnet) -> None:
    token = await deploy_token(devnet, "FaultyToken", Fault.REFUSAL)
    payload = payload_of(v2_body(devnet, token=token))

    async def answer() -> bytes:
        return await revert_data(devnet, devnet.signer, token.address, transfer_call(payload))

    assert await answer() == refusal("Blacklistable: account is blacklisted")
    words = "no\n\u202e" + "!" * 1_000
    await devnet.transact(devnet.payer, token.address, calldata("setRefusal(string)", words))
    assert await answer() == refusal(words)
    await devnet.transact(devnet.payer, token.address, calldata("setRefusal(string)", ""))
    await devnet.transact(devnet.signer, token.address, transfer_call(payload))
    assert await balance(devnet, devnet.seller.address, token.address) == AMOUNT

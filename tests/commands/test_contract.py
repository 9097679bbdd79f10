"""The X402Facilitator contract pays out what its payer signed, once, in time, and nothing else."""

from typing import Any

import pytest
from eth_abi.packed import encode_packed
from eth_account import Account as Keys
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from facilitator.commands.devnet import Devnet
from tests.support.chain import (
    approve,
    balance,
    deploy_legacy,
    devnet_payment,
    is_nonce_used,
    read,
    revert_data,
    settle_call,
    settled_logs,
    simulate,
    unhex,
)
from tests.support.encoding import calldata, error_selector
from tests.support.signing import payment_message

pytestmark = pytest.mark.anyio

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
ZERO = bytes(20)


async def settle(devnet: Devnet, header: dict[str, Any]) -> dict[str, Any]:
    return await devnet.transact(devnet.signer, devnet.contract, settle_call(header))


async def refusal(devnet: Devnet, header: dict[str, Any]) -> bytes:
    return await revert_data(devnet, devnet.signer, devnet.contract, settle_call(header))


@pytest.mark.parametrize("scheme", ["exact", "upto"])
async def test_a_signed_payment_moves_the_amount_less_the_fee(devnet: Devnet, scheme: str) -> None:
    await approve(devnet)
    accounts = (devnet.payer, devnet.seller, devnet.fee_recipient)
    before = [await balance(devnet, account.address) for account in accounts]
    header = devnet_payment(devnet, scheme=scheme, amount=1_000_000)
    await settle(devnet, header)
    after = [await balance(devnet, account.address) for account in accounts]
    moved = [new - old for new, old in zip(after, before, strict=True)]
    assert moved == [-1_000_000, 995_000, 5_000]
    assert await balance(devnet, devnet.contract) == 0


async def test_the_event_tells_the_whole_payment(devnet: Devnet) -> None:
    await approve(devnet)
    header = devnet_payment(devnet, amount=777, resource="/weather?city=Zürich", nonce="n-1")
    receipt = await settle(devnet, header)
    (log,) = await settled_logs(devnet)
    block: Any = await devnet.rpc("eth_getBlockByNumber", receipt["blockNumber"], False)
    assert log.timestamp == int(block["timestamp"], 16)
    assert log.payment_id == keccak(
        encode_packed(
            ["address", "address", "string", "uint256"],
            [devnet.payer.address, devnet.seller.address, "n-1", log.timestamp],
        )
    )
    assert (log.payer, log.recipient) == (devnet.payer.address, devnet.seller.address)
    assert (log.token, log.amount, log.protocol_fee) == (devnet.usdc, 777, 3)
    assert log.resource == "/weather?city=Zürich"
    assert log.transaction_hash == receipt["transactionHash"]


async def test_settle_returns_the_payment_id_of_its_event(devnet: Devnet) -> None:
    await approve(devnet)
    moment = 2_000_000_000
    call = settle_call(devnet_payment(devnet, nonce="n-2", timestamp=moment))
    result = await simulate(devnet, devnet.signer, devnet.contract, call, at=moment)
    packed = devnet.payer.address + devnet.seller.address + b"n-2" + moment.to_bytes(32)
    assert result == keccak(packed)


async def test_a_payment_settles_once(devnet: Devnet) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    assert not await is_nonce_used(devnet, header)
    await settle(devnet, header)
    assert await is_nonce_used(devnet, header)
    assert await refusal(devnet, header) == error_selector("NonceAlreadyUsed()")
    # another payment under the same nonce, of either scheme, is a replay as well
    for scheme in ("exact", "upto"):
        other = devnet_payment(devnet, nonce=header["nonce"], amount=5, scheme=scheme)
        assert await refusal(devnet, other) == error_selector("NonceAlreadyUsed()")
    assert len(await settled_logs(devnet)) == 1


async def test_nonces_belong_to_their_payer(devnet: Devnet) -> None:
    for payer in (devnet.accounts[2], devnet.accounts[4]):
        await approve(devnet, payer)
        await settle(devnet, devnet_payment(devnet, payer=payer, nonce="the same"))
    key = keccak(devnet.payer.address + b"the same")
    used = await read(devnet, devnet.contract, "usedNonces(bytes32)", key, returns="bool")
    assert used
    assert len(await settled_logs(devnet)) == 2


async def test_anyone_may_submit_and_nobody_can_redirect(devnet: Devnet) -> None:
    await approve(devnet)
    stranger = devnet.accounts[7]
    header = devnet_payment(devnet)
    stolen = {**header, "payTo": "0x" + stranger.address.hex()}
    assert await refusal(devnet, stolen) == error_selector("InvalidSignature()")
    await devnet.transact(stranger, devnet.contract, settle_call(header))
    assert len(await settled_logs(devnet)) == 1


async def test_a_payment_is_good_for_300_seconds_and_not_for_301(devnet: Devnet) -> None:
    await approve(devnet)
    block: Any = await devnet.rpc("eth_getBlockByNumber", "latest", False)
    moment = int(block["timestamp"], 16) + 1_000
    await devnet.rpc("evm_setNextBlockTimestamp", moment)
    await settle(devnet, devnet_payment(devnet, timestamp=moment - 300))
    (log,) = await settled_logs(devnet)
    assert log.timestamp == moment
    call = settle_call(devnet_payment(devnet, timestamp=moment))
    await simulate(devnet, devnet.signer, devnet.contract, call, at=moment + 300)
    late = await revert_data(devnet, devnet.signer, devnet.contract, call, at=moment + 301)
    assert late == error_selector("PaymentExpired()")


@pytest.mark.parametrize("timestamp", [0, 2**256 - 1])
async def test_no_timestamp_overflows(devnet: Devnet, timestamp: int) -> None:
    """The contract knows no "in the future"; the service refuses that before."""
    await approve(devnet)
    header = devnet_payment(devnet, timestamp=timestamp)
    if timestamp == 0:
        assert await refusal(devnet, header) == error_selector("PaymentExpired()")
    else:
        await settle(devnet, header)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"amount": 0}, "InvalidAmount()"),
        ({"pay_to": ZERO}, "InvalidRecipient()"),
        ({"asset": b"\x11" * 20}, "UnsupportedToken()"),
        ({"network": "base"}, "InvalidSignature()"),
        ({"network": ""}, "InvalidSignature()"),
        ({"scheme": "subscription"}, "InvalidSignature()"),
        ({"scheme": "Exact"}, "InvalidSignature()"),
        ({"chain_id": 1}, "InvalidSignature()"),
        ({"contract": ZERO}, "InvalidSignature()"),
        # the order of the checks: amount, recipient, token, age, nonce, signature
        ({"amount": 0, "pay_to": ZERO}, "InvalidAmount()"),
        ({"pay_to": ZERO, "asset": b"\x11" * 20}, "InvalidRecipient()"),
        ({"asset": b"\x11" * 20, "timestamp": 0}, "UnsupportedToken()"),
        ({"timestamp": 0, "chain_id": 1}, "PaymentExpired()"),
    ],
)
async def test_what_must_not_settle_is_refused_by_name(
    devnet: Devnet, changes: dict[str, Any], why: str
) -> None:
    await approve(devnet)
    assert await refusal(devnet, devnet_payment(devnet, **changes)) == error_selector(why)


@pytest.mark.parametrize("member", ["amount", "resource", "nonce", "timestamp", "payer"])
async def test_every_member_is_under_the_signature(devnet: Devnet, member: str) -> None:
    await approve(devnet)
    header = devnet_payment(devnet)
    other = devnet_payment(devnet, amount=2, resource="/other", timestamp=header["timestamp"] + 1)
    other["payer"] = "0x" + devnet.accounts[4].address.hex()
    forged = {**header, member: other[member]}
    assert await refusal(devnet, forged) == error_selector("InvalidSignature()")


async def test_only_one_form_of_a_signature_counts(devnet: Devnet) -> None:
    """Low s and v 27 or 28, 65 bytes: no second spelling of a payment can exist."""
    await approve(devnet)
    header = devnet_payment(devnet)
    signature = unhex(header["signature"])
    r, s, v = signature[:32], int.from_bytes(signature[32:64]), signature[64]
    high = r + (ORDER - s).to_bytes(32) + bytes([55 - v])
    message = payment_message(header, contract=devnet.contract, chain_id=devnet.chain_id)
    assert Keys.recover_message(message, signature=high) == header["payer"]  # others accept it
    compact = r + (s | (v - 27) << 255).to_bytes(32)
    for form in (
        high,
        signature[:64] + bytes([v - 27]),
        signature[:64] + bytes([55 - v]),
        signature[:64] + bytes([v + 2]),
        compact,
        signature + b"\x00",
        signature[:64],
        b"",
    ):
        forged = {**header, "signature": "0x" + form.hex()}
        assert await refusal(devnet, forged) == error_selector("InvalidSignature()"), form.hex()
    await settle(devnet, header)


@pytest.mark.parametrize("signature", ["00" * 65, "00" * 64 + "1b", "ff" * 64 + "1c"])
async def test_a_signature_of_nobody_does_not_pay_from_the_zero_address(
    devnet: Devnet, signature: str
) -> None:
    header = {**devnet_payment(devnet), "signature": "0x" + signature, "payer": "0x" + "00" * 20}
    assert await refusal(devnet, header) == error_selector("InvalidSignature()")


async def test_money_that_is_not_there_or_not_allowed_is_transfer_failed(devnet: Devnet) -> None:
    assert await refusal(devnet, devnet_payment(devnet)) == error_selector("TransferFailed()")
    await approve(devnet, amount=1_000_000)
    assert await refusal(devnet, devnet_payment(devnet, amount=1_000_001)) == error_selector(
        "TransferFailed()"
    )
    await approve(devnet)
    owned = await balance(devnet, devnet.payer.address)
    assert await refusal(devnet, devnet_payment(devnet, amount=owned + 1)) == error_selector(
        "TransferFailed()"
    )
    await settle(devnet, devnet_payment(devnet, amount=owned))


async def test_the_fee_is_rounded_down_and_nothing_is_lost(devnet: Devnet) -> None:
    await approve(devnet)
    count = volume = 0
    for bps in (0, 1, 50, 333, 1_000):
        call = calldata("setProtocolFee(uint256)", bps)
        await devnet.transact(devnet.deployer, devnet.contract, call)
        for amount in (1, 10, 199, 200, 201, 9_999, 10_000, 10_001, 123_456_789):
            seller = await balance(devnet, devnet.seller.address)
            collected = await balance(devnet, devnet.fee_recipient.address)
            await settle(devnet, devnet_payment(devnet, amount=amount))
            fee = amount * bps // 10_000
            assert await balance(devnet, devnet.seller.address) == seller + amount - fee
            assert await balance(devnet, devnet.fee_recipient.address) == collected + fee
            assert (await settled_logs(devnet))[-1].protocol_fee == fee
            count, volume = count + 1, volume + amount
    stats = await read(
        devnet, devnet.contract, "getStats()", returns="uint256,uint256,uint256,address"
    )
    assert stats == (count, volume * 10**12, 1_000, "0x" + devnet.fee_recipient.address.hex())
    assert await balance(devnet, devnet.contract) == 0


async def test_an_amount_whose_fee_does_not_fit_into_a_word_cannot_settle(devnet: Devnet) -> None:
    await approve(devnet)
    answer = await refusal(devnet, devnet_payment(devnet, amount=2**256 - 1))
    assert answer == error_selector("Panic(uint256)") + (0x11).to_bytes(32)


async def test_the_contract_hashes_as_eth_account_does(devnet: Devnet) -> None:
    header = devnet_payment(devnet, resource="/größer", nonce="ñ", amount=12)
    digest = await read(
        devnet,
        devnet.contract,
        "hashPayment(address,address,uint256,string,string,uint256)",
        devnet.usdc,
        devnet.seller.address,
        12,
        "/größer",
        "ñ",
        header["timestamp"],
        returns="bytes32",
    )
    message = payment_message(header, contract=devnet.contract, chain_id=devnet.chain_id)
    assert digest == keccak(b"\x19" + message.version + message.header + message.body)


@pytest.mark.parametrize("chain_id", [420691, 1])
async def test_the_domain_follows_the_chain(devnet: Devnet, chain_id: int) -> None:
    """After a chain split a signature for one chain must not count on the other."""
    await devnet.rpc("anvil_setChainId", chain_id)
    message = encode_typed_data(
        {
            "name": "x402 Payment Protocol",
            "version": "1",
            "chainId": chain_id,
            "verifyingContract": "0x" + devnet.contract.hex(),
        },
        {"Empty": []},
        {},
    )
    separator = await read(devnet, devnet.contract, "domainSeparator()", returns="bytes32")
    assert separator == message.header


async def test_an_older_deployment_settles_the_same_payments(devnet: Devnet) -> None:
    legacy = await deploy_legacy(devnet)
    await approve(devnet, spender=legacy)
    for scheme in ("exact", "upto"):
        header = devnet_payment(devnet, contract=legacy, scheme=scheme)
        await devnet.transact(devnet.signer, legacy, settle_call(header))
        answer = await revert_data(devnet, devnet.signer, legacy, settle_call(header))
        assert answer == error_selector("NonceAlreadyUsed()")
    wrong = devnet_payment(devnet, contract=devnet.contract)
    answer = await revert_data(devnet, devnet.signer, legacy, settle_call(wrong))
    assert answer == error_selector("InvalidSignature()")
    assert [log.amount for log in await settled_logs(devnet, legacy)] == [1_000_000] * 2

"""The payments of the standard dialect that tests make pay on a chain, without the service."""

from typing import Any

import pytest
from eth_utils.address import to_checksum_address

from facilitator.commands.devnet import Devnet
from tests.support.encoding import AUTHORIZATION_USED, SPLIT, TRANSFER, WHOLE, refusal
from tests.support.signing import unhex
from tests.support.x402 import (
    AMOUNT,
    Reshape,
    compact,
    high_s,
    parity_v,
    payload_of,
    v1_body,
    v2_body,
)
from tests.support.x402_chain import (
    INVALID,
    Transfer,
    Used,
    authorization_used,
    authorizations_used,
    pay,
    refused,
    transfers,
)

pytestmark = pytest.mark.anyio

FORMS = pytest.mark.parametrize("form", [SPLIT, WHOLE], ids=["split", "whole"])


@FORMS
@pytest.mark.parametrize("make", [v1_body, v2_body], ids=["v1", "v2"])
async def test_a_payment_made_here_pays(devnet: Devnet, make: Any, form: str) -> None:
    payload = payload_of(make(devnet))
    assert not await authorization_used(devnet, payload)
    receipt = await pay(devnet, payload, form)
    assert [log["topics"][0] for log in receipt["logs"]] == [
        "0x" + AUTHORIZATION_USED.hex(),
        "0x" + TRANSFER.hex(),
    ]
    sent = receipt["transactionHash"]
    payer, nonce = devnet.payer.address, unhex(payload["authorization"]["nonce"])
    assert await transfers(devnet) == [Transfer(payer, devnet.seller.address, AMOUNT, sent)]
    assert await authorizations_used(devnet) == [Used(payer, nonce, sent)]
    assert await authorization_used(devnet, payload)
    again = await refused(devnet, payload, form)
    assert again == refusal("FiatTokenV2: authorization is used or canceled")


async def test_what_is_changed_before_signing_still_pays(devnet: Devnet) -> None:
    recipient = devnet.accounts[4].address
    asked = {"amount": "7", "payTo": to_checksum_address(recipient)}
    await pay(devnet, payload_of(v2_body(devnet, requirements=asked)))
    await pay(devnet, payload_of(v1_body(devnet, authorization={"value": "8"})))
    body = v2_body(devnet, accepted={"amount": "9"}, payment={"extensions": {"a": {}}})
    assert body["paymentPayload"]["accepted"] == {**body["paymentRequirements"], "amount": "9"}
    assert body["paymentPayload"]["extensions"] == {"a": {}}
    await pay(devnet, payload_of(body))
    moved = [(transfer.recipient, transfer.value) for transfer in await transfers(devnet)]
    seller = devnet.seller.address
    assert moved == [(recipient, 7), (seller, 8), (seller, AMOUNT)]


@pytest.mark.parametrize(
    "changes",
    [
        {"tampered": {"value": "999999"}},
        {"tampered": {"to": "0x" + "44" * 20}},
        {"tampered": {"nonce": "0x" + "55" * 32}},
        {"tampered": {"validAfter": "1"}},
        {"tampered": {"validBefore": str(2**256 - 1)}},
        {"tampered": {"from": "0x" + "66" * 20}},
        {"owner": b"\x66" * 20},
        {"domain": {"name": "USDC"}},
        {"domain": {"version": "1"}},
        {"domain": {"chain_id": 1}},
        {"domain": {"verifying_contract": bytes(20)}},
    ],
    ids=str,
)
async def test_what_is_changed_elsewhere_does_not_pay(
    devnet: Devnet, changes: dict[str, Any]
) -> None:
    assert await refused(devnet, payload_of(v2_body(devnet, **changes))) == INVALID


@pytest.mark.parametrize(
    ("reshape", "words"),
    [
        (high_s, "ECRecover: invalid signature 's' value"),
        (parity_v, "ECRecover: invalid signature 'v' value"),
        (compact, "ECRecover: invalid signature length"),
        (lambda signature: signature + b"\0", "ECRecover: invalid signature length"),
        (lambda signature: bytes(64) + signature[64:], "ECRecover: invalid signature"),
    ],
    ids=["high s", "v 0 or 1", "64 bytes", "66 bytes", "zeros"],
)
async def test_a_signature_has_one_form(devnet: Devnet, reshape: Reshape, words: str) -> None:
    """As in FiatTokenV2_2: low s, v 27 or 28, 65 bytes."""
    payload = payload_of(v2_body(devnet, signature=reshape))
    assert await refused(devnet, payload, WHOLE) == refusal(words)


async def test_bodies_have_the_members_that_official_clients_send(devnet: Devnet) -> None:
    v1, v2 = v1_body(devnet), v2_body(devnet)
    assert set(v1) == set(v2) == {"x402Version", "paymentPayload", "paymentRequirements"}
    assert set(v1["paymentPayload"]) == {"x402Version", "scheme", "network", "payload"}
    assert set(v2["paymentPayload"]) == {"x402Version", "resource", "accepted", "payload"}
    assert v1["paymentPayload"]["network"] == "jeju"
    assert v2["paymentPayload"]["accepted"] == v2["paymentRequirements"]
    assert v2["paymentRequirements"]["network"] == "eip155:420691"
    for body in (v1, v2):
        payload = payload_of(body)
        assert set(payload) == {"authorization", "signature"}
        members = {"from", "to", "value", "validAfter", "validBefore", "nonce"}
        assert set(payload["authorization"]) == members
        assert all(isinstance(value, str) for value in payload["authorization"].values())

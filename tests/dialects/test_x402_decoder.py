"""The laws of reading the standard dialect: what official clients write is read as it was meant,
anything else is told apart without an error of ours.
"""

import copy
import json
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.address import to_checksum_address
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.config.settings import load_config
from facilitator.dialects.detect import speaks_x402
from facilitator.dialects.x402.decode import Decoder, Unreadable, Unserved, X402Request
from facilitator.dialects.x402.encode import (
    not_settled,
    not_verified,
    settle_unreadable,
    verify_unreadable,
)
from facilitator.domain.payment import Reason
from facilitator.domain.schemes.eip3009 import Deployment, Eip3009Payment
from facilitator.ethereum.smart_wallets import MAGIC_SUFFIX, unwrap
from tests.support import rows
from tests.support.drawn import addresses, authorizations

CONFIG = load_config({"X402_PRIMARY_NETWORK": "base-sepolia"})
DECODER = Decoder(CONFIG.networks.values())
EXACT = rows.exact(chain_id=84532)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def body(payment: Eip3009Payment = EXACT, version: int = 2, **asked: Any) -> dict[str, Any]:
    """What a seller posts about it."""
    network = "base-sepolia" if version == 1 else "eip155:84532"
    requirements = {
        "scheme": "exact",
        "network": network,
        "maxAmountRequired" if version == 1 else "amount": str(payment.amount),
        "asset": to_checksum_address(payment.asset),
        "payTo": to_checksum_address(payment.pay_to),
        "maxTimeoutSeconds": 60,
        "extra": {"name": payment.domain_name, "version": payment.domain_version},
        **asked,
    }
    payload = {
        "signature": "0x" + payment.signature.hex(),
        "authorization": {
            "from": to_checksum_address(payment.payer),
            "to": to_checksum_address(payment.pay_to),
            "value": str(payment.amount),
            "validAfter": str(payment.valid_after),
            "validBefore": str(payment.valid_before),
            "nonce": "0x" + payment.authorization_nonce.hex(),
        },
    }
    chosen = {"scheme": "exact", "network": network} if version == 1 else {"accepted": requirements}
    return {
        "paymentPayload": {"x402Version": version, "payload": payload, **chosen},
        "paymentRequirements": requirements,
    }


def read(members: dict[str, Any]) -> X402Request:
    decoded = DECODER.decode(members)
    assert isinstance(decoded, X402Request), decoded
    return decoded


@given(authorizations, st.sampled_from([1, 2]), st.binary(max_size=200))
def test_what_was_signed_is_read_to_its_last_unit(
    drawn: Eip3009Payment, version: int, signature: bytes
) -> None:
    """Through JSON and back. Valid up to the second before validBefore."""
    assume(drawn.domain_name and drawn.domain_version)
    payment = replace(
        drawn,
        chain_id=84532,
        valid_from=drawn.valid_after,
        deadline=drawn.valid_before - 1,
        signature=signature,
        signed_by_key=False,  # which is not for the payer to say
    )
    members = json.loads(json.dumps(body(payment, version)))
    assert speaks_x402(members)
    decoded = read(members)
    assert decoded.payment == payment
    asked = decoded.requirements
    assert decoded.accepted == asked
    assert (asked.amount, asked.asset, asked.pay_to) == (
        payment.amount,
        payment.asset,
        payment.pay_to,
    )
    assert asked.domain == (payment.domain_name, payment.domain_version)
    assert decoded.version == version
    assert decoded.payer == members["paymentPayload"]["payload"]["authorization"]["from"]


@given(st.data(), st.sampled_from([1, 2]), json_values)
def test_whatever_stands_in_a_members_place_is_answered(
    data: st.DataObject, version: int, value: object
) -> None:
    """With one of three kinds of answer, each of which can be written as a reply."""
    members = copy.deepcopy(body(version=version))
    inner: dict[str, Any] = members
    while True:
        name = data.draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[name], dict) or not inner[name] or data.draw(st.booleans()):
            break
        inner = inner[name]
    inner[name] = value
    decoded = DECODER.decode(members)
    if isinstance(decoded, Unreadable):
        assert decoded.code in ("invalid_payload", "missing_parameters")
        assert json.loads(verify_unreadable(decoded))["isValid"] is False
        assert json.loads(settle_unreadable(decoded))["success"] is False
    elif isinstance(decoded, Unserved):
        assert json.loads(not_verified(decoded, decoded.refusal))["isValid"] is False
        assert json.loads(not_settled(decoded, decoded.refusal))["success"] is False
    else:
        assert decoded.payment.chain_id == 84532


@given(st.dictionaries(st.text(max_size=20), json_values, max_size=5), json_values, json_values)
def test_anything_at_all_is_answered(more: Any, payload: object, requirements: object) -> None:
    members = {**more, "paymentPayload": payload, "paymentRequirements": requirements}
    assert speaks_x402(members) is isinstance(payload, dict)
    assert not isinstance(DECODER.decode(members), X402Request)


@pytest.mark.parametrize(
    ("version", "network", "reason"),
    [
        (1, "eip155:84532", Reason.UNSUPPORTED_NETWORK),
        (2, "base-sepolia", Reason.UNSUPPORTED_NETWORK),
        (2, "eip155:084532", Reason.UNSUPPORTED_NETWORK),
        (2, "EIP155:84532", Reason.UNSUPPORTED_NETWORK),
        (2, "eip155:31337", Reason.UNSUPPORTED_NETWORK),
    ],
)
def test_a_network_has_one_name_in_each_version(version: int, network: str, reason: Reason) -> None:
    decoded = DECODER.decode(body(version=version, network=network))
    assert isinstance(decoded, Unserved)
    assert (decoded.refusal.reason, decoded.network) == (reason, network)


# --- ERC-6492


@given(addresses, st.binary(max_size=100), st.binary(max_size=100))
def test_what_was_wrapped_is_unwrapped(factory: bytes, call: bytes, inner: bytes) -> None:
    wrapped = encode(["address", "bytes", "bytes"], [factory, call, inner]) + MAGIC_SUFFIX
    found = unwrap(wrapped)
    assert found is not None
    assert (found.factory, found.factory_calldata, found.signature) == (factory, call, inner)
    assert unwrap(wrapped[:-1]) is None
    decoded = read(body(rows.exact(chain_id=84532, signature=wrapped))).payment
    assert decoded.signature == inner
    # whether its factory is listed is not for the payer to say
    assert decoded.deployment == Deployment(factory, call, listed=False)


def unwrapped(signature: bytes) -> bool:
    """Whether it could be read; never an error of ours, whatever offsets and lengths it says."""
    try:
        return unwrap(signature) is not None
    except ValueError:
        return False


@given(st.binary(max_size=400), st.integers(0, 400), st.binary(max_size=40))
def test_a_wrapping_that_cannot_be_read_is_a_plain_signature(
    noise: bytes, cut: int, more: bytes
) -> None:
    good = encode(["address", "bytes", "bytes"], [b"\x11" * 20, b"call", b"signature"])
    for inside in (noise, good[:cut] + more + good[cut:], good[:cut]):
        signature = inside + MAGIC_SUFFIX
        decoded = read(body(rows.exact(chain_id=84532, signature=signature))).payment
        plain = (decoded.signature, decoded.deployment) == (signature, None)
        assert plain is not unwrapped(signature)


SIZES = [0, 1, 31, 32, 64, 96, 2**31, 2**63, 2**64, 2**256 - 1]


@given(st.lists(st.sampled_from(SIZES), max_size=9))
def test_no_offset_and_no_length_is_too_large(words: list[int]) -> None:
    inside = b"".join(word.to_bytes(32) for word in words)
    assert unwrapped(inside + MAGIC_SUFFIX) <= (len(words) >= 3)

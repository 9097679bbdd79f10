"""The Jeju scheme: what a payer signs, who is believed to have signed it, and which two requests
mean the same payment.
"""

from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import _hash_eip191_message
from eth_utils.address import to_checksum_address
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes.jeju import (
    JejuPayment,
    TokenAuthorization,
    digest,
    payment_keys,
    recover_payer,
    request_digest,
)
from facilitator.ethereum.abi import MAX_UINT256
from tests.support import rows
from tests.support.drawn import addresses, payments
from tests.support.signing import payment_message, sign_payment, unhex

KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
PAYER = unhex(Account.from_key(KEY).address)
OTHER_KEY = bytes(31) + b"\7"
OTHER = unhex(Account.from_key(OTHER_KEY).address)
ZERO = bytes(20)


def header_of(payment: JejuPayment) -> dict[str, Any]:
    return {
        "scheme": payment.scheme,
        "network": payment.network,
        "asset": to_checksum_address(payment.asset),
        "payTo": to_checksum_address(payment.pay_to),
        "amount": payment.amount,
        "resource": payment.resource,
        "nonce": payment.authorization_nonce,
        "timestamp": payment.timestamp,
    }


def signed(key: bytes = KEY, *, contract: bytes = rows.CONTRACT, **changes: Any) -> JejuPayment:
    """A payment for rows.CONTRACT, signed by eth-account for `contract`."""
    plain = rows.payment(payer=PAYER, **changes)
    header = sign_payment(
        key,
        contract=contract,
        chain_id=plain.chain_id,
        asset=plain.asset,
        pay_to=plain.pay_to,
        amount=plain.amount,
        network=plain.network,
        resource=plain.resource,
        nonce=plain.authorization_nonce,
        timestamp=plain.timestamp,
        scheme=plain.scheme,
    )
    return replace(plain, signature=unhex(header["signature"]))


# --- what is signed


@given(payments, addresses)
def test_the_digest_is_that_of_eth_account(payment: JejuPayment, contract: bytes) -> None:
    """Any text, any integer, any contract."""
    message = payment_message(header_of(payment), contract=contract, chain_id=payment.chain_id)
    assert digest(payment, contract) == bytes(_hash_eip191_message(message))


@given(payments)
def test_the_payer_is_whom_eth_account_recovers(payment: JejuPayment) -> None:
    message = payment_message(
        header_of(payment), contract=payment.contract, chain_id=payment.chain_id
    )
    signature = bytes(Account.sign_message(message, KEY).signature)
    theirs = unhex(Account.recover_message(message, signature=signature))
    for spelt in (signature, signature[:64] + bytes((signature[64] - 27,))):
        ours = replace(payment, signature=spelt)
        assert recover_payer(ours, None) == recover_payer(ours, PAYER) == theirs == PAYER


@pytest.mark.parametrize(
    "changes",
    [
        {"scheme": "upto"},
        {"network": "base"},
        {"asset": bytes(20)},
        {"pay_to": bytes(20)},
        {"amount": 1_000_001},
        {"resource": "/api/other"},
        {"authorization_nonce": "f" * 32},
        {"timestamp": 1_700_000_001},
        {"chain_id": 1},
        {"contract": bytes(20)},
    ],
)
def test_every_field_is_signed(changes: dict[str, Any]) -> None:
    """Change one afterwards, and the payer is another, or nobody."""
    changed = replace(signed(), **changes)
    assert recover_payer(changed, None) != PAYER
    refusal = recover_payer(changed, PAYER)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.INVALID_SIGNATURE


def test_another_signer_than_the_claimed_payer_is_named() -> None:
    assert recover_payer(signed(OTHER_KEY), PAYER) == Refusal(
        Reason.INVALID_SIGNATURE,
        f"signed by {to_checksum_address(OTHER)}, not by payer {to_checksum_address(PAYER)}",
    )


def test_a_signature_for_the_zero_contract_is_told_which_contract_is_right() -> None:
    """The service that came before told its payers to sign for the zero address."""
    assert recover_payer(signed(contract=ZERO), PAYER) == Refusal(
        Reason.INVALID_SIGNATURE,
        "signed for verifyingContract 0x0000000000000000000000000000000000000000, "
        f"expected {to_checksum_address(rows.CONTRACT)}",
    )


def test_the_hint_is_for_the_claimed_payer_alone() -> None:
    """Somebody else's signature for the zero address is just somebody else's."""
    refusal = recover_payer(signed(OTHER_KEY, contract=ZERO), PAYER)
    assert isinstance(refusal, Refusal)
    assert refusal.found.startswith("signed by ")
    assert refusal.found.endswith(f", not by payer {to_checksum_address(PAYER)}")


def test_without_a_contract_the_zero_address_is_what_is_signed_for() -> None:
    unconfigured = replace(signed(contract=ZERO), contract=ZERO)
    assert recover_payer(unconfigured, PAYER) == PAYER
    assert isinstance(recover_payer(replace(signed(), contract=ZERO), PAYER), Refusal)


@given(st.binary(min_size=65, max_size=65))
def test_a_random_signature_never_makes_the_claimed_payer(signature: bytes) -> None:
    verdict = recover_payer(rows.payment(signature=signature), PAYER)
    assert isinstance(verdict, Refusal)
    assert verdict.reason is Reason.INVALID_SIGNATURE
    assert signature.hex() not in verdict.found


@given(st.binary(max_size=130).filter(lambda signature: len(signature) != 65))
def test_what_is_no_signature_is_refused_with_its_length(signature: bytes) -> None:
    verdict = recover_payer(rows.payment(signature=signature), None)
    expected = f"expected 65 bytes, got {len(signature)}"
    assert verdict == Refusal(Reason.INVALID_SIGNATURE, expected)


# --- identity

PULL = TokenAuthorization(
    valid_after=0,
    valid_before=MAX_UINT256,
    authorization_nonce=b"\x0a" * 32,
    signature=b"\x1c" * 65,
)


def gasless(**changes: Any) -> JejuPayment:
    return rows.payment(token_authorization=replace(PULL, **changes))


@given(st.binary(max_size=70), st.binary(max_size=70))
def test_identity_does_not_know_the_signature(one: bytes, other: bytes) -> None:
    """A signature has several spellings; the payment, its keys and its digest are the same."""
    first, second = rows.payment(signature=one), rows.payment(signature=other)
    assert payment_keys(first) == payment_keys(second)
    assert request_digest(first) == request_digest(second)


@pytest.mark.parametrize(
    "changes",
    [
        {"chain_id": 1},
        {"contract": bytes(20)},
        {"payer": bytes(20)},
        {"authorization_nonce": "0123456789abcdeF"},
    ],
)
def test_chain_contract_payer_and_nonce_make_the_identity(changes: dict[str, Any]) -> None:
    """What the contract's own one-shot nonce depends on."""
    assert payment_keys(replace(rows.payment(), **changes))[0] != payment_keys(rows.payment())[0]


@pytest.mark.parametrize(
    "changes",
    [{"amount": 2}, {"resource": "/b"}, {"pay_to": bytes(20)}, {"asset": bytes(20)}],
)
def test_nothing_else_does_but_it_is_another_request(changes: dict[str, Any]) -> None:
    """The same nonce for another amount is the same one-shot nonce, and not the same request."""
    changed = replace(rows.payment(), **changes)
    assert payment_keys(changed) == payment_keys(rows.payment())
    assert request_digest(changed) != request_digest(rows.payment())


def test_a_gasless_payment_uses_up_two_nonces() -> None:
    plain, pulled = payment_keys(rows.payment()), payment_keys(gasless())
    assert plain[1] is None
    assert pulled[0] == plain[0]
    assert pulled[1] is not None
    assert pulled[1] not in {pulled[0], payment_keys(gasless(authorization_nonce=bytes(32)))[1]}
    assert payment_keys(gasless(signature=b""))[1] == pulled[1]
    assert request_digest(gasless(signature=b"")) == request_digest(gasless())
    for changes in ({"valid_after": 1}, {"valid_before": 1}, {"authorization_nonce": bytes(32)}):
        assert request_digest(gasless(**changes)) != request_digest(gasless())


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"chain_id": 1}, False),
        ({"asset": bytes(20)}, False),
        ({"payer": bytes(20)}, False),
        ({"contract": bytes(20)}, True),
        ({"authorization_nonce": "another"}, True),
        ({"amount": 2}, True),
        ({"pay_to": bytes(20)}, True),
    ],
)
def test_chain_token_and_payer_make_the_identity_of_an_authorization(
    changes: dict[str, Any], same: bool
) -> None:
    """EIP-3009: the token keeps its nonces by authorizer, whoever the money is for."""
    changed = payment_keys(replace(gasless(), **changes))[1]
    assert (changed == payment_keys(gasless())[1]) == same


@given(payments, payments)
def test_different_nonces_never_share_a_key(one: JejuPayment, other: JejuPayment) -> None:
    def what(payment: JejuPayment) -> tuple[int, bytes, bytes, str]:
        return payment.chain_id, payment.contract, payment.payer, payment.authorization_nonce

    assert (payment_keys(one)[0] == payment_keys(other)[0]) == (what(one) == what(other))

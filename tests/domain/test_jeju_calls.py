"""The Jeju scheme on the chain: what is called, what is asked, and what the answers mean."""

from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes.jeju import (
    JejuPayment,
    TokenAuthorization,
    allowed_calls,
    explain_revert,
    fact_calls,
    read_facts,
    settlement_call,
)
from facilitator.ethereum.secp256k1 import ORDER, InvalidSignature
from tests.support import rows
from tests.support.drawn import payments, uints

NOW = 1_700_000_100
# r and s of no particular message: the calldata is the same for every signature that is one
GOOD = (7).to_bytes(32) + (9).to_bytes(32) + b"\x1b"
PULL = TokenAuthorization(
    valid_after=0, valid_before=2**40, authorization_nonce=b"\x0a" * 32, signature=GOOD
)
PLAIN = rows.payment(signature=GOOD)
GASLESS_PAYMENT = rows.payment(signature=GOOD, token_authorization=PULL)


# --- what is called

SETTLE_TYPES = ["address"] * 3 + ["uint256", "string", "string", "uint256", "bytes"]
SETTLE = "settle(address,address,address,uint256,string,string,uint256,bytes)"
GASLESS = SETTLE.replace("settle(", "settleWithAuthorization(").replace(
    ",bytes)", ",bytes,uint256,uint256,bytes32,bytes)"
)


def settle_arguments(payment: JejuPayment, signature: bytes) -> list[Any]:
    return [
        payment.payer,
        payment.pay_to,
        payment.asset,
        payment.amount,
        payment.resource,
        payment.authorization_nonce,
        payment.timestamp,
        signature,
    ]


@given(payments, st.integers(1, ORDER // 2), st.sampled_from([0, 1]))
def test_settle_is_called_as_eth_abi_encodes_it_with_v_that_the_contract_accepts(
    payment: JejuPayment, s: int, parity: int
) -> None:
    rs = (7).to_bytes(32) + s.to_bytes(32)
    good = rs + bytes((27 + parity,))
    expected = keccak(text=SETTLE)[:4] + encode(SETTLE_TYPES, settle_arguments(payment, good))
    for spelt in (good, rs + bytes((parity,))):
        call = settlement_call(replace(payment, signature=spelt))
        assert (call.target, call.calldata) == (payment.contract, expected)


@given(payments, uints, uints, st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_settle_with_authorization_is_called_as_eth_abi_encodes_it(
    payment: JejuPayment, after: int, before: int, nonce: bytes, token_signature: bytes
) -> None:
    """The token's own signature goes as it came: it may be a contract wallet's."""
    pull = TokenAuthorization(
        valid_after=after,
        valid_before=before,
        authorization_nonce=nonce,
        signature=token_signature,
    )
    call = settlement_call(replace(payment, signature=GOOD, token_authorization=pull))
    types = [*SETTLE_TYPES, "uint256", "uint256", "bytes32", "bytes"]
    values = [*settle_arguments(payment, GOOD), after, before, nonce, token_signature]
    assert call.target == payment.contract
    assert call.calldata == keccak(text=GASLESS)[:4] + encode(types, values)


def test_a_signer_may_call_what_settlement_calls_and_nothing_more() -> None:
    calls = {
        (call.target, call.selector) for call in map(settlement_call, (PLAIN, GASLESS_PAYMENT))
    }
    assert allowed_calls(rows.CONTRACT) == calls


@pytest.mark.parametrize("signature", [b"", GOOD[:64], GOOD + b"\0", GOOD[:64] + b"\2", bytes(65)])
def test_nothing_is_called_with_a_signature_that_the_contract_refuses(signature: bytes) -> None:
    for payment in (PLAIN, GASLESS_PAYMENT):
        with pytest.raises(InvalidSignature):
            settlement_call(replace(payment, signature=signature))


# --- facts


def call_bytes(signature: str, *values: Any) -> bytes:
    """A read as eth-abi encodes it."""
    types = signature[signature.index("(") + 1 : -1].split(",")
    return keccak(text=signature)[:4] + encode(types, values)


@given(payments, st.binary(min_size=32, max_size=32))
def test_the_facts_are_asked_of_the_contract_and_the_token(
    payment: JejuPayment, nonce: bytes
) -> None:
    """A gasless payment needs no allowance, but an authorization that the token has not seen."""
    payer, contract, asset = payment.payer, payment.contract, payment.asset
    used = call_bytes("isNonceUsed(address,string)", payer, payment.authorization_nonce)
    expected = [
        (contract, used),
        (contract, call_bytes("supportedTokens(address)", asset)),
        (asset, call_bytes("balanceOf(address)", payer)),
    ]
    allowance = (asset, call_bytes("allowance(address,address)", payer, contract))
    state = (asset, call_bytes("authorizationState(address,bytes32)", payer, nonce))
    pulled = replace(payment, token_authorization=replace(PULL, authorization_nonce=nonce))
    for asked, last in ((payment, allowance), (pulled, state)):
        calls = [(call.target, call.calldata) for call in fact_calls(asked)]
        assert calls == [*expected, last]


@given(
    st.lists(st.binary(max_size=64) | uints.map(lambda n: n.to_bytes(32)), min_size=4, max_size=4)
)
def test_garbage_makes_no_facts(answers: list[bytes]) -> None:
    """What is not exactly one word counts as zero: nothing is supported or owned because of it."""
    used, supported, balance, last = (
        int.from_bytes(answer) if len(answer) == 32 else 0 for answer in answers
    )
    facts = read_facts(PLAIN, tuple(answers))
    assert facts.contract_deployed == (len(answers[1]) == 32)
    assert (facts.authorization_used, facts.asset_supported) == (used != 0, supported != 0)
    assert (facts.balance, facts.allowance) == (balance, last)
    assert not facts.token_authorization_used
    pulled = read_facts(GASLESS_PAYMENT, tuple(answers))
    assert pulled.allowance is None
    assert pulled.token_authorization_used == (last != 0)


# --- why the contract refuses


def error(signature: str, *values: Any) -> bytes:
    """The revert data of a custom error."""
    types = [kind for kind in signature[signature.index("(") + 1 : -1].split(",") if kind]
    return keccak(text=signature)[:4] + encode(types, values)


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (
            error("InvalidSignature()"),
            Refusal(Reason.INVALID_SIGNATURE, "the contract does not accept it"),
        ),
        (error("NonceAlreadyUsed()"), Refusal(Reason.AUTHORIZATION_USED_ON_CHAIN)),
        (error("UnsupportedToken()"), Refusal(Reason.UNSUPPORTED_ASSET)),
        (error("InvalidRecipient()"), Refusal(Reason.INVALID_RECIPIENT)),
        (error("InvalidAmount()"), Refusal(Reason.TRANSACTION_REVERTED)),
        (error("TransferFailed()"), Refusal(Reason.TRANSACTION_REVERTED)),
        (error("Error(string)", "no"), Refusal(Reason.TRANSACTION_REVERTED)),
        (b"", Refusal(Reason.TRANSACTION_REVERTED)),
        (error("InvalidSignature()")[:3], Refusal(Reason.TRANSACTION_REVERTED)),
        (
            error("ERC20InsufficientBalance(address,uint256,uint256)", rows.PAYER, 3, 1_000_000),
            Refusal(Reason.INSUFFICIENT_BALANCE, "3", "1000000"),
        ),
        (
            error("ERC20InsufficientAllowance(address,uint256,uint256)", rows.CONTRACT, 0, 2**200),
            Refusal(Reason.INSUFFICIENT_ALLOWANCE, "0", str(2**200)),
        ),
    ],
)
def test_the_contracts_own_errors_have_their_reasons(data: bytes, refusal: Refusal) -> None:
    """A selector is looked at whole; what is not known has simply reverted."""
    assert explain_revert(PLAIN, data, NOW) == refusal


@pytest.mark.parametrize("length", [4, 35, 36, 99, 101, 132])
def test_a_token_error_of_another_shape_invents_no_amounts(length: int) -> None:
    whole = error("ERC20InsufficientBalance(address,uint256,uint256)", rows.PAYER, 3, 4)
    data = whole.ljust(length, b"\0")[:length]
    assert explain_revert(PLAIN, data, NOW) == Refusal(Reason.TRANSACTION_REVERTED)


@pytest.mark.parametrize("now", [0, PLAIN.deadline, PLAIN.deadline + 1, PLAIN.deadline + 90])
def test_what_the_chain_calls_expired_is_past_its_deadline_by_any_clock(now: int) -> None:
    """Ours may be behind the chain's: the age that is told is still above the most it may be."""
    seen = str(max(now, PLAIN.deadline + 1))
    expected = Refusal(Reason.EXPIRED, seen, str(PLAIN.deadline))
    assert explain_revert(PLAIN, error("PaymentExpired()"), now) == expected


@given(st.binary(max_size=150), uints)
def test_no_revert_data_ever_raises(data: bytes, now: int) -> None:
    assert explain_revert(PLAIN, data, now).reason in Reason

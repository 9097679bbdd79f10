"""What the chain shows of EIP-3009 payments: the log that proves one, and no other; facts against
one, in their order; and why a token refused.
"""

from itertools import permutations
from typing import Any

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.payment import Reason, Refusal
from facilitator.domain.schemes.eip3009 import (
    Deployment,
    Eip3009Payment,
    diagnose,
    diagnosis_calls,
    fact_calls,
    facts,
    find_proof,
    proof_filter,
)
from facilitator.ethereum.receipts import Log
from tests.support import rows
from tests.support.drawn import authorizations, uints
from tests.support.encoding import AUTHORIZATION_USED, TRANSFER, refusal

PAYMENT = rows.exact()
OTHER = b"\x0e" * 20
CODE, NONE = b"\x60", b""
YES, NO = (1).to_bytes(32), bytes(32)


def word(address: bytes) -> bytes:
    return encode(["address"], [address])


def log(index: int, *topics: bytes, data: bytes = b"", address: bytes = rows.ASSET) -> Log:
    return Log(
        address=address,
        topics=topics,
        data=data,
        index=index,
        transaction_hash=b"\x77" * 32,
        block_number=99,
        block_hash=b"\x99" * 32,
    )


def used(index: int, payment: Eip3009Payment = PAYMENT, **changes: Any) -> Log:
    asset = changes.pop("address", payment.asset)
    payment = replace(payment, **changes)
    topics = (AUTHORIZATION_USED, word(payment.payer), payment.authorization_nonce)
    return log(index, *topics, address=asset)


def moved(index: int, payment: Eip3009Payment = PAYMENT, **changes: Any) -> Log:
    asset = changes.pop("address", payment.asset)
    payment = replace(payment, **changes)
    topics = (TRANSFER, word(payment.payer), word(payment.pay_to))
    return log(index, *topics, data=payment.amount.to_bytes(32), address=asset)


def proven(*logs: Log, payment: Eip3009Payment = PAYMENT) -> int | None:
    """The index of the log that proves it."""
    proof = find_proof(payment, logs, 0)
    return None if proof is None else proof.log_index


@given(authorizations, st.integers(0, 2**31), st.integers(1, 2**31), st.integers(0, 2**40))
def test_a_payments_two_logs_prove_it(
    payment: Eip3009Payment, index: int, more: int, timestamp: int
) -> None:
    logs = [used(index, payment), moved(index + more, payment)]
    for order in (logs, logs[::-1]):  # a node's order does not matter, the chain's does
        proof = find_proof(payment, order, timestamp)
        assert proof is not None
        assert (proof.transaction_hash, proof.block_number) == (b"\x77" * 32, 99)
        assert (proof.log_index, proof.fee) == (index + more, 0)
        assert proof.reference == payment.authorization_nonce


@pytest.mark.parametrize(
    "logs",
    [
        [],
        [used(1)],
        [moved(1)],
        [moved(1), used(2)],
        [used(1), moved(2, amount=999_999)],
        [used(1), moved(2, amount=1_000_001)],
        [used(1), moved(2, pay_to=OTHER)],
        [used(1), moved(2, payer=OTHER)],
        [used(1), moved(2, address=OTHER)],
        [used(1, address=OTHER), moved(2)],
        [used(1, payer=OTHER), moved(2)],
        [used(1, authorization_nonce=OTHER + bytes(12)), moved(2)],
        [used(1), used(2, authorization_nonce=bytes(32)), moved(3)],
        [used(1), used(2, payer=OTHER), moved(3)],
        [used(1), log(2, TRANSFER, word(rows.PAYER)), moved(3)],
        # the nonce was used for something else, and then the same amount paid for another reason
        [used(1), moved(2, pay_to=OTHER), moved(3)],
        [used(1), moved(2, amount=0), moved(3)],
        [used(1), moved(2, pay_to=rows.PAYER), moved(3), moved(4)],
        [used(1), replace(moved(2), data=b"")],
        [used(1), replace(moved(2), data=moved(2).data + bytes(32))],
        [used(1), replace(moved(2), data=moved(2).data[1:])],
        [log(1), log(2, AUTHORIZATION_USED), moved(3)],
    ],
)
def test_nothing_else_proves_it(logs: list[Log]) -> None:
    assert proven(*logs) is None


def test_what_stands_beside_its_own_logs_does_not_matter() -> None:
    """Other payments, other tokens, other people's money, each before or after."""
    assert proven(used(1), moved(2), moved(3)) == 2
    assert proven(moved(1), used(2), moved(3)) == 3
    assert proven(used(1), moved(2, payer=OTHER), moved(3)) == 3
    assert proven(used(1), moved(2, address=OTHER), moved(3)) == 3
    assert proven(used(1), used(2, address=OTHER), moved(3)) == 3
    assert proven(used(1, authorization_nonce=bytes(32)), moved(2), used(3), moved(4)) == 4
    assert proven(used(1), moved(2), used(3, authorization_nonce=bytes(32)), moved(4)) == 2
    assert proven(log(0), used(1), log(2), moved(3)) == 3


def test_two_payments_never_have_one_proof() -> None:
    """In any order of the logs of two that are alike but for their nonces."""
    one, other = PAYMENT, rows.exact(authorization_nonce=bytes(32))
    logs = [used(0, one), used(0, other), moved(0), moved(0)]
    both = 0
    for order in permutations(logs):
        mined = [replace(each, index=index) for index, each in enumerate(order)]
        found = proven(*mined, payment=one), proven(*mined, payment=other)
        if None not in found:
            both += 1
            assert found[0] != found[1]
    assert both > 0


@given(authorizations)
def test_the_filter_asks_for_the_use_of_its_nonce(payment: Eip3009Payment) -> None:
    wanted = proof_filter(payment)
    assert wanted.address == payment.asset
    assert wanted.topics == used(1, payment).topics


# --- facts


def seen(
    payment: Eip3009Payment = PAYMENT,
    payer: bytes = NONE,
    asset: bytes = CODE,
    state: bytes = NO,
    balance: bytes = YES,
) -> Reason | None:
    found = facts(payment, (payer, asset, state, balance)).refusal
    return None if found is None else found.reason


def test_the_first_fact_against_a_payment_is_the_one_reported() -> None:
    forged = rows.exact(signed_by_key=False)
    deployment = Deployment(OTHER, b"", listed=False)
    wrapped = replace(forged, deployment=deployment)
    everything: dict[str, Any] = {"asset": NONE, "state": NONE, "balance": NONE}
    assert seen() is None
    assert seen(forged, **everything) is Reason.INVALID_SIGNATURE
    assert seen(wrapped, **everything) is Reason.UNLISTED_FACTORY
    assert seen(replace(PAYMENT, deployment=deployment)) is Reason.UNLISTED_FACTORY
    listed = replace(wrapped, deployment=replace(deployment, listed=True))
    assert seen(listed) is None
    # a payer with code is asked itself
    assert seen(forged, payer=CODE) is seen(wrapped, payer=CODE) is None
    assert seen(**everything) is Reason.ASSET_NOT_DEPLOYED
    assert seen(state=NONE) is Reason.ASSET_WITHOUT_AUTHORIZATIONS
    assert seen(state=YES + bytes(32)) is Reason.ASSET_WITHOUT_AUTHORIZATIONS
    assert seen(state=YES, balance=NONE) is Reason.AUTHORIZATION_USED
    assert seen(state=b"\xff" * 32) is Reason.AUTHORIZATION_USED


@given(uints)
def test_what_can_be_spent_is_the_balance(balance: int) -> None:
    found = facts(PAYMENT, (NONE, CODE, NO, balance.to_bytes(32)))
    assert (found.spendable, found.authorization_used) == (balance, False)
    for answer in (b"", balance.to_bytes(32) + b"\0", balance.to_bytes(32)[1:]):
        assert facts(PAYMENT, (NONE, CODE, YES, answer)).spendable == 0
    assert facts(PAYMENT, (NONE, CODE, YES, b"")).authorization_used is True
    assert facts(PAYMENT, (NONE, CODE, b"", b"")).authorization_used is False


# --- why


def text(value: str) -> bytes:
    return encode(["string"], [value])


def why(data: bytes = b"", **changes: bytes) -> Refusal:
    answers = {
        **{"payer": NONE, "asset": CODE, "state": NO, "balance": (10**6).to_bytes(32)},
        **{"name": text("USD Coin"), "version": text("2")},
        **changes,
    }
    return diagnose(PAYMENT, tuple(answers.values()), data, 0)


def test_the_first_cause_that_fits_is_the_one_reported() -> None:
    wrong = {"state": YES, "name": text("x"), "version": text("1"), "balance": NO}
    reasons = [
        Reason.AUTHORIZATION_USED,
        Reason.ASSET_NAME_MISMATCH,
        Reason.ASSET_VERSION_MISMATCH,
        Reason.INSUFFICIENT_BALANCE,
    ]
    for start, reason in enumerate(reasons):
        assert why(**dict(list(wrong.items())[start:])).reason is reason
    assert why().reason is Reason.TRANSACTION_REVERTED
    short = (999_999).to_bytes(32)
    assert why(balance=short) == Refusal(Reason.INSUFFICIENT_BALANCE, "999999", "1000000")
    assert len(diagnosis_calls(PAYMENT)) == 6
    assert diagnosis_calls(PAYMENT)[:4] == fact_calls(PAYMENT)


@given(st.binary(max_size=200))
def test_a_token_may_answer_anything_when_it_is_asked_for_its_name(answer: bytes) -> None:
    assert why(name=answer).reason in (Reason.ASSET_NAME_MISMATCH, Reason.TRANSACTION_REVERTED)
    assert why(version=answer).reason is not Reason.ASSET_NAME_MISMATCH


@given(st.binary(max_size=300))
def test_whatever_a_token_reverts_with_is_told_in_short_printable_words(data: bytes) -> None:
    for reverted in (data, refusal("x")[:4] + data):
        told = why(reverted)
        assert told.reason is Reason.TRANSACTION_REVERTED
        assert len(told.found) <= 200
        assert told.found.isprintable()


@given(st.text())
def test_a_tokens_own_words_are_repeated(words: str) -> None:
    words = words.encode(errors="replace").decode()
    expected = "".join(char for char in words if char.isprintable())[:200]
    assert why(refusal(words)).found == expected
    assert why().found == "no reason given"
    assert why(b"\x12\x34\x56\x78\x9a").found == "0x12345678"

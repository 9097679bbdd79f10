"""The log that proves a Jeju payment: that one, and no other."""

from collections.abc import Callable
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from facilitator.domain.payment import Proof
from facilitator.domain.schemes.jeju import JejuPayment, find_proof
from facilitator.ethereum.receipts import Log
from tests.support import rows
from tests.support.drawn import payments, uints

BLOCK_TIME = 1_700_000_042
FEE = 5_000
EVENT = "PaymentSettled(bytes32,address,address,address,uint256,uint256,string,uint256)"
DATA_TYPES = ["address", "uint256", "uint256", "string", "uint256"]


def payment_id(payment: JejuPayment, timestamp: int = BLOCK_TIME) -> bytes:
    packed = payment.payer + payment.pay_to + payment.authorization_nonce.encode()
    return keccak(packed + timestamp.to_bytes(32))


def settled_data(payment: JejuPayment) -> bytes:
    values = [payment.asset, payment.amount, FEE, payment.resource, BLOCK_TIME]
    return encode(DATA_TYPES, values)


def settled_log(payment: JejuPayment) -> Log:
    """What the contract emits for it."""
    return Log(
        address=payment.contract,
        topics=(
            keccak(text=EVENT),
            payment_id(payment),
            encode(["address"], [payment.payer]),
            encode(["address"], [payment.pay_to]),
        ),
        data=settled_data(payment),
        index=3,
        transaction_hash=b"\x77" * 32,
        block_number=99,
        block_hash=b"\x99" * 32,
    )


def proof_of(payment: JejuPayment) -> Proof:
    return Proof(b"\x77" * 32, 3, 99, payment_id(payment), FEE)


@given(payments)
def test_the_log_of_the_payment_proves_it(payment: JejuPayment) -> None:
    assert find_proof(payment, [settled_log(payment)], BLOCK_TIME) == proof_of(payment)


def test_it_is_found_among_others_and_only_where_it_is() -> None:
    payment = rows.payment()
    other = rows.payment(authorization_nonce="another")
    log, noise = settled_log(payment), settled_log(other)
    assert find_proof(payment, [noise, log, noise], BLOCK_TIME) == proof_of(payment)
    assert find_proof(payment, [noise, noise], BLOCK_TIME) is None
    assert find_proof(payment, [], BLOCK_TIME) is None


LOG_CHANGES: list[Callable[[Log], Log]] = [
    lambda log: replace(log, address=b"\xc1" * 20),
    lambda log: replace(log, address=b""),
    lambda log: replace(log, topics=()),
    lambda log: replace(log, topics=log.topics[:3]),
    lambda log: replace(log, topics=(*log.topics, bytes(32))),
    lambda log: replace(log, topics=(keccak(text="Other(uint256)"), *log.topics[1:])),
    lambda log: replace(log, topics=(log.topics[0], bytes(32), *log.topics[2:])),
    lambda log: replace(log, topics=(*log.topics[:2], bytes(32), log.topics[3])),
    lambda log: replace(log, topics=(*log.topics[:3], bytes(32))),
    lambda log: replace(log, topics=(*log.topics[:2], log.topics[3], log.topics[2])),
    lambda log: replace(log, data=b""),
]


@pytest.mark.parametrize("change", LOG_CHANGES)
def test_a_log_of_another_contract_event_payer_or_recipient_proves_nothing(
    change: Callable[[Log], Log],
) -> None:
    payment = rows.payment()
    assert find_proof(payment, [change(settled_log(payment))], BLOCK_TIME) is None


@pytest.mark.parametrize("timestamp", [BLOCK_TIME - 1, BLOCK_TIME + 1, 0, 1_700_000_000])
def test_the_block_time_is_part_of_the_payment_id(timestamp: int) -> None:
    payment = rows.payment()
    assert find_proof(payment, [settled_log(payment)], timestamp) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"contract": b"\xc1" * 20},
        {"payer": b"\x01" * 20},
        {"pay_to": b"\x01" * 20},
        {"asset": b"\x01" * 20},
        {"amount": 999_999},
        {"amount": 1_000_001},
        {"resource": "/api/repor"},
        {"resource": ""},
        {"authorization_nonce": "0123456789abcde"},
        {"authorization_nonce": ""},
    ],
)
def test_the_log_of_one_payment_does_not_prove_another(changes: dict[str, Any]) -> None:
    log = settled_log(rows.payment())
    assert find_proof(rows.payment(**changes), [log], BLOCK_TIME) is None


@given(st.integers(0, 319))
def test_data_that_is_cut_short_proves_nothing(length: int) -> None:
    payment = rows.payment()
    log = settled_log(payment)
    needed = len(log.data) - 32 + len(payment.resource)
    cut = replace(log, data=log.data[: min(length, needed - 1)])
    assert find_proof(payment, [cut], BLOCK_TIME) is None


@given(
    st.binary(max_size=400)
    | st.lists(uints, max_size=9).map(
        lambda numbers: b"".join(number.to_bytes(32) for number in numbers)
    )
)
def test_garbage_never_raises_and_proves_nothing(data: bytes) -> None:
    payment = rows.payment()
    log = replace(settled_log(payment), data=data)
    assert find_proof(payment, [log, settled_log(payment)], BLOCK_TIME) == proof_of(payment)
    assert find_proof(payment, [log], BLOCK_TIME) is None


@given(st.integers(0, 4), uints, st.integers(0, 31), st.integers(1, 255))
@example(3, 2**63, 31, 8)  # a length or an offset that no buffer has
@example(3, 2**256 - 1, 0, 255)
def test_a_damaged_word_never_raises(word: int, value: int, place: int, bits: int) -> None:
    """Offsets and lengths among them; a fee or a time in the data binds nobody."""
    payment = rows.payment()
    log = settled_log(payment)
    start = 32 * word
    whole = log.data[:start] + value.to_bytes(32) + log.data[start + 32 :]
    byte = log.data[start + place] ^ bits
    flipped = log.data[: start + place] + bytes((byte,)) + log.data[start + place + 1 :]
    for data in (whole, flipped):
        found = find_proof(payment, [replace(log, data=data)], BLOCK_TIME)
        if word in (0, 1, 3) and data != log.data:
            assert found is None

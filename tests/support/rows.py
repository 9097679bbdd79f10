"""Payments, transactions and settlements for tests of the pure core: plain values by default, and
whatever the test is about by name.
"""

from typing import Any

from msgspec.structs import replace

from facilitator.domain.payment import Proof
from facilitator.domain.schemes.eip3009 import Eip3009Payment
from facilitator.domain.schemes.jeju import JejuPayment
from facilitator.domain.settlement import (
    Attempt,
    Settlement,
    SettlementState,
    Transaction,
    TransactionKind,
    TransactionState,
)
from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import GWEI, Fees
from facilitator.ethereum.receipts import Block, Receipt

CONTRACT = bytes.fromhex("c0" * 20)
ASSET = bytes.fromhex("a5" * 20)
PAYER = bytes.fromhex("9a" * 20)
SELLER = bytes.fromhex("5e" * 20)
SIGNER = bytes.fromhex("51" * 20)


def payment(**changes: Any) -> JejuPayment:
    """A payment of 1 USDC; its signature is no signature."""
    plain = JejuPayment(
        chain_id=420691,
        payer=PAYER,
        asset=ASSET,
        pay_to=SELLER,
        amount=1_000_000,
        valid_from=1_700_000_000 - 60,
        deadline=1_700_000_000 + 300,
        signature=bytes(65),
        contract=CONTRACT,
        scheme="exact",
        network="jeju",
        resource="/api/report",
        authorization_nonce="0123456789abcdef",
        timestamp=1_700_000_000,
    )
    return replace(plain, **changes)


def attempt(number: int, *, fees: Fees | None = None, signed_at: int = 0) -> Attempt:
    return Attempt(
        hash=number.to_bytes(32), raw=b"", fees=fees or Fees(2 * GWEI, GWEI), signed_at=signed_at
    )


def transaction(**changes: Any) -> Transaction:
    """Pending, with one attempt (number 1, signed at 0) for account nonce 7."""
    plain = Transaction(
        id=1,
        chain_id=420691,
        signer=SIGNER,
        account_nonce=7,
        kind=TransactionKind.SETTLE,
        call=Call(CONTRACT, b"\1\2\3\4"),
        gas_limit=150_000,
        state=TransactionState.PENDING,
        block_number=None,
        attempts=(attempt(1),),
    )
    return replace(plain, **changes)


def settlement(**changes: Any) -> Settlement:
    """A pending one."""
    plain = Settlement(
        id="settlement",
        key="key",
        request_digest=bytes(32),
        dialect="jeju",
        payment=payment(),
        state=SettlementState.PENDING,
        version=0,
        waiter=None,
        waiter_until=0,
        replied_success_at=None,
        proof=None,
        refusal=None,
        created_at=0,
        updated_at=0,
    )
    return replace(plain, **changes)


def block(number: int) -> Block:
    return Block(number, number.to_bytes(32), (number - 1).to_bytes(32), 1_700_000_000 + number)


def receipt(number: int, block_number: int, *, succeeded: bool = True) -> Receipt:
    """Of the attempt with that number."""
    return Receipt(
        transaction_hash=number.to_bytes(32),
        block_number=block_number,
        block_hash=block_number.to_bytes(32),
        succeeded=succeeded,
        logs=(),
        gas_used=100_000,
        gas_cost=10**14,
    )


def proof(number: int = 1, block_number: int = 100) -> Proof:
    return Proof(number.to_bytes(32), 0, block_number, bytes(32), 5_000)


def exact(**changes: Any) -> Eip3009Payment:
    """An authorization of 1 USDC; its signature is none, but counts as the payer's own."""
    plain = Eip3009Payment(
        chain_id=420691,
        payer=PAYER,
        asset=ASSET,
        pay_to=SELLER,
        amount=1_000_000,
        valid_from=1_700_000_000,
        deadline=1_700_000_059,
        signature=b"\x01" * 64 + b"\x1b",
        authorization_nonce=b"\x4e" * 32,
        valid_after=1_700_000_000,
        valid_before=1_700_000_060,
        domain_name="USD Coin",
        domain_version="2",
        signed_by_key=True,
    )
    return replace(plain, **changes)

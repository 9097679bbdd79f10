"""The smallest rows that a journal takes, for its laws."""

from msgspec.structs import replace

from facilitator.domain.payment import Proof, Reason, Refusal
from facilitator.domain.schemes.jeju import JejuPayment
from facilitator.domain.settlement import (
    Attempt,
    SettlementState,
    TransactionKind,
    TransactionState,
)
from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import Fees
from facilitator.journal.store import (
    Claimed,
    NewSettlement,
    NewTransaction,
    SettlementChange,
    SettlementRecord,
    Store,
    TransactionChange,
)

CHAIN = 420691
SIGNER = b"\x01" * 20
MAX_UINT256 = 2**256 - 1


def payment(number: int = 1, amount: int = 5, payer: bytes = b"\x02" * 20) -> JejuPayment:
    return JejuPayment(
        chain_id=CHAIN,
        payer=payer,
        asset=b"\x03" * 20,
        pay_to=b"\x04" * 20,
        amount=amount,
        valid_from=0,
        deadline=2**63,
        signature=b"\x05" * 65,
        contract=b"\x06" * 20,
        scheme="exact",
        network="jeju",
        resource="/ü",
        authorization_nonce=f"n{number}",
        timestamp=1,
    )


def new_settlement(number: int = 1, **changes: object) -> NewSettlement:
    new = NewSettlement(
        key=f"key-{number}",
        second_key=None,
        request_digest=b"digest-%d" % number,
        dialect="jeju",
        payment=payment(number),
        available=MAX_UINT256,
        waiter="me",
        waiter_until=1_000,
    )
    return replace(new, **changes)


def new_transaction(signer: bytes = SIGNER, floor: int = 0) -> NewTransaction:
    """Its bytes name the signer and the account nonce, so that no two are the same."""

    def sign(account_nonce: int) -> Attempt:
        raw = signer + account_nonce.to_bytes(8)
        return Attempt(hash=raw.rjust(32, b"\0"), raw=raw, fees=Fees(100, 10), signed_at=7)

    return NewTransaction(
        chain_id=CHAIN,
        signer=signer,
        nonce_floor=floor,
        kind=TransactionKind.SETTLE,
        call=Call(b"\x06" * 20, b"\x07" * 300),
        gas_limit=100_000,
        sign=sign,
    )


async def claim(store: Store, number: int = 1, **changes: object) -> Claimed:
    claimed = await store.claim(new_settlement(number, **changes), new_transaction(), now=1)
    assert isinstance(claimed, Claimed), claimed
    return claimed


def proof(number: int = 1) -> Proof:
    return Proof(
        transaction_hash=number.to_bytes(32),
        log_index=3,
        block_number=9,
        reference=b"\x08" * 32,
        fee=MAX_UINT256,
    )


async def confirm(store: Store, claimed: Claimed, the_proof: Proof) -> bool:
    change = SettlementChange(
        id=claimed.settlement.id,
        version=claimed.settlement.version,
        state=SettlementState.CONFIRMED,
        proof=the_proof,
    )
    end = TransactionChange(id=claimed.transaction.id, state=TransactionState.MINED, block_number=9)
    return bool(await store.record([end], [change], now=2))


async def fail(store: Store, claimed: Claimed) -> None:
    change = SettlementChange(
        id=claimed.settlement.id,
        version=claimed.settlement.version,
        state=SettlementState.FAILED,
        refusal=Refusal(Reason.TRANSACTION_REVERTED),
    )
    end = TransactionChange(id=claimed.transaction.id, state=TransactionState.MINED, block_number=9)
    [_] = await store.record([end], [change], now=2)


async def record_of(store: Store, claimed: Claimed) -> SettlementRecord:
    record = await store.get(claimed.settlement.id)
    assert record is not None
    return record

"""Convert rows of the journal to Structs and back, the same for every engine."""

import msgspec

from facilitator.domain.payment import Proof, Refusal
from facilitator.domain.schemes import AnyPayment
from facilitator.domain.settlement import (
    Attempt,
    Settlement,
    SettlementState,
    Transaction,
    TransactionKind,
    TransactionState,
)
from facilitator.ethereum.abi import Call
from facilitator.ethereum.fees import Fees
from facilitator.journal.engine import Row, StoreError

# The columns that the readers below read, by name: a statement that PostgreSQL has prepared with
# `*` fails once a later migration adds a column.
SETTLEMENT = (
    "id, key, idempotency_key, request_digest, dialect, payment, state,"
    " version, listener, listener_until, replied_success_at, proof_transaction, proof_log_index,"
    " proof_block_number, proof_reference, proof_fee, refusal, traceparent, created_at, updated_at"
)
TRANSACTION = (
    "id, chain_id, signer, account_nonce, kind, target, calldata, gas_limit, state, block_number,"
    " gas_cost, l1_fee"
)
ATTEMPT = "hash, transaction_id, raw, max_fee_per_gas, max_priority_fee_per_gas, signed_at"

_payments = msgspec.json.Decoder(AnyPayment)
_refusals = msgspec.json.Decoder(Refusal)


def payment_text(payment: AnyPayment) -> str:
    """Return a payment as JSON; its integers have no limit of size."""
    return msgspec.json.encode(payment).decode()


def refusal_text(refusal: Refusal | None) -> str | None:
    """Return a refusal as JSON, None for none."""
    return None if refusal is None else msgspec.json.encode(refusal).decode()


def read_settlement(row: Row) -> Settlement:
    """Read a row of `settlement`. StoreError for a word that only a newer version knows."""
    try:
        return Settlement(
            id=row["id"],
            key=row["key"],
            idempotency_key=row["idempotency_key"],
            request_digest=row["request_digest"],
            dialect=row["dialect"],
            payment=_payments.decode(row["payment"]),
            state=SettlementState(row["state"]),
            version=row["version"],
            waiter=row["listener"],
            waiter_until=row["listener_until"],
            replied_success_at=row["replied_success_at"],
            proof=_proof(row),
            refusal=None if row["refusal"] is None else _refusals.decode(row["refusal"]),
            created_at=row["created_at"],
            updated_at=row["updated_at"],
            traceparent=row["traceparent"],
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreError(f"settlement {row['id']} cannot be read: {error}") from None


def _proof(row: Row) -> Proof | None:
    if row["proof_transaction"] is None:
        return None
    return Proof(
        transaction_hash=row["proof_transaction"],
        log_index=row["proof_log_index"],
        block_number=row["proof_block_number"],
        reference=row["proof_reference"],
        fee=int(row["proof_fee"]),
    )


def proof_columns(proof: Proof | None) -> tuple[object, ...]:
    """Return the five proof_ columns, in the order of the table."""
    if proof is None:
        return (None,) * 5
    return (
        proof.transaction_hash,
        proof.log_index,
        proof.block_number,
        proof.reference,
        str(proof.fee),
    )


def read_attempt(row: Row) -> Attempt:
    """Read a row of `attempt`."""
    fees = Fees(row["max_fee_per_gas"], row["max_priority_fee_per_gas"])
    return Attempt(hash=row["hash"], raw=row["raw"], fees=fees, signed_at=row["signed_at"])


def attempt_columns(attempt: Attempt) -> tuple[object, ...]:
    """Return the columns of an attempt without `transaction_id`, in the order of ATTEMPT."""
    fees = attempt.fees
    return (
        attempt.hash,
        attempt.raw,
        fees.max_fee_per_gas,
        fees.max_priority_fee_per_gas,
        attempt.signed_at,
    )


def read_transaction(row: Row, attempts: tuple[Attempt, ...]) -> Transaction:
    """Read a row of `transaction`, given its attempts. StoreError as in `read_settlement`."""
    try:
        kind, state = TransactionKind(row["kind"]), TransactionState(row["state"])
    except ValueError as error:
        raise StoreError(f"transaction {row['id']} cannot be read: {error}") from None
    return Transaction(
        id=row["id"],
        chain_id=row["chain_id"],
        signer=row["signer"],
        account_nonce=row["account_nonce"],
        kind=kind,
        call=Call(row["target"], row["calldata"]),
        gas_limit=row["gas_limit"],
        state=state,
        block_number=row["block_number"],
        attempts=attempts,
        gas_cost=None if row["gas_cost"] is None else int(row["gas_cost"]),
        l1_fee=int(row["l1_fee"]),
    )

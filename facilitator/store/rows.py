"""Rows of the journal into Structs and back, the same for every engine."""

import json
from collections.abc import Mapping

import msgspec

from facilitator.ethereum.fees import Fees
from facilitator.ethereum.transactions import Call
from facilitator.payments import Proof, Refusal
from facilitator.schemes.jeju import JejuPayment
from facilitator.settlement import (
    Attempt,
    Settlement,
    Transaction,
)

# What drivers give for a row, by column name.
Row = Mapping[str, object]


def payment_text(payment: JejuPayment) -> str:
    """A payment as JSON. By way of the standard library: msgspec's own stops at 64-bit integers."""
    return json.dumps(msgspec.to_builtins(payment), separators=(",", ":"))


def refusal_text(refusal: Refusal | None) -> str | None:
    """A refusal as JSON."""
    return None if refusal is None else msgspec.json.encode(refusal).decode()


def read_settlement(row: Row) -> Settlement:
    """A row of `settlement`."""
    return msgspec.convert(
        {
            **row,
            "payment": msgspec.convert(json.loads(str(row["payment"])), JejuPayment),
            "refusal": _refusal(row["refusal"]),
            "proof": _proof(row),
        },
        Settlement,
    )


def _refusal(text: object) -> Refusal | None:
    return None if text is None else msgspec.json.decode(str(text), type=Refusal)


def _proof(row: Row) -> Proof | None:
    if row["proof_transaction"] is None:
        return None
    return msgspec.convert(
        {
            "transaction_hash": row["proof_transaction"],
            "log_index": row["proof_log_index"],
            "block_number": row["proof_block_number"],
            "reference": row["proof_reference"],
            "fee": int(str(row["proof_fee"])),
        },
        Proof,
    )


def proof_columns(proof: Proof | None) -> tuple[object, ...]:
    """The five proof_ columns, in the order of the table."""
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
    """A row of `attempt`."""
    fees = msgspec.convert(row, Fees)
    return msgspec.convert({**row, "fees": fees}, Attempt)


def read_transaction(row: Row, attempts: tuple[Attempt, ...]) -> Transaction:
    """A row of `transaction` with its attempts."""
    call = Call(_bytes(row["target"]), _bytes(row["calldata"]))
    return msgspec.convert({**row, "call": call, "attempts": attempts}, Transaction)


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value

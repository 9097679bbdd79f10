"""What the journal's operations are in SQL: functions of a connection, inside a transaction.

Text that is pasted into a statement is a constant of this module; every value is bound.
"""

import sqlite3
import uuid
from collections.abc import Sequence

from facilitator.settlement import (
    Attempt,
    Settlement,
    SettlementState,
    Transaction,
    TransactionState,
)
from facilitator.store import (
    Claimed,
    IdempotencyKeyTaken,
    NewSettlement,
    NewTransaction,
    Overcommitted,
    SettlementChange,
    Taken,
    TransactionChange,
)
from facilitator.store.queries import OPEN, find, get
from facilitator.store.rows import (
    payment_text,
    proof_columns,
    read_settlement,
    refusal_text,
)


def claim(
    new: NewSettlement, transaction: NewTransaction, now: int, db: sqlite3.Connection
) -> Claimed | Taken | IdempotencyKeyTaken | Overcommitted:
    keys = tuple(key for key in (new.key, new.second_key) if key is not None)
    found = find(keys, db)
    if found is not None:
        reopened = (
            found.state is SettlementState.FAILED
            and found.key == new.key
            and found.request_digest == new.request_digest
        )
        if not reopened:
            return Taken(found)
    elif new.idempotency_key is not None:
        row = db.execute(
            "SELECT * FROM settlement WHERE tenant = ? AND idempotency_key = ?",
            (new.tenant, new.idempotency_key),
        ).fetchone()
        if row is not None:
            return IdempotencyKeyTaken(read_settlement(row))
    left = new.available - _committed(new, db)
    if left < new.payment.amount:
        return Overcommitted(left)
    settlement = _insert(new, now, db) if found is None else _reopen(found, new, now, db)
    signed = sign(transaction, now, db)
    _join(settlement.id, signed, db)
    return Claimed(settlement, signed)


def _committed(new: NewSettlement, db: sqlite3.Connection) -> int:
    payment = new.payment
    rows = db.execute(
        f"""SELECT amount FROM settlement
            WHERE chain_id = ? AND asset = ? AND payer = ? AND state IN {OPEN}""",
        (payment.chain_id, payment.asset, payment.payer),
    )
    return sum(int(amount) for (amount,) in rows)


def _insert(new: NewSettlement, now: int, db: sqlite3.Connection) -> Settlement:
    payment = new.payment
    settlement = Settlement(
        id=uuid.uuid4().hex,
        key=new.key,
        idempotency_key=new.idempotency_key,
        request_digest=new.request_digest,
        dialect=new.dialect,
        payment=payment,
        state=SettlementState.PENDING,
        version=1,
        listener=new.listener,
        listener_until=new.listener_until,
        replied_success_at=None,
        proof=None,
        refusal=None,
        created_at=now,
        updated_at=now,
    )
    db.execute(
        """INSERT INTO settlement (id, key, second_key, tenant, idempotency_key, body_digest,
               request_digest, dialect, chain_id, asset, payer, amount, payment, state, version,
               listener, listener_until, traceparent, created_at, updated_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', 1, ?, ?, ?, ?, ?)""",
        (
            settlement.id,
            new.key,
            new.second_key,
            new.tenant,
            new.idempotency_key,
            new.body_digest,
            new.request_digest,
            new.dialect,
            payment.chain_id,
            payment.asset,
            payment.payer,
            str(payment.amount),
            payment_text(payment),
            new.listener,
            new.listener_until,
            new.traceparent,
            now,
            now,
        ),
    )
    return settlement


def _reopen(found: Settlement, new: NewSettlement, now: int, db: sqlite3.Connection) -> Settlement:
    # The signature may be spelt anew, and is what the next transaction carries. The failure that
    # was told is none any more.
    db.execute(
        """UPDATE settlement SET state = 'pending', version = version + 1, refusal = NULL,
               reply = NULL, payment = ?, listener = ?, listener_until = ?, updated_at = ?
           WHERE id = ?""",
        (payment_text(new.payment), new.listener, new.listener_until, now, found.id),
    )
    return get(db, found.id)


def keep_reply(settlement_id: str, reply: bytes, db: sqlite3.Connection) -> None:
    db.execute(
        "UPDATE settlement SET reply = ? WHERE id = ? AND state IN ('failed', 'lost')",
        (reply, settlement_id),
    )


def settle_again(
    settlement_id: str,
    version: int,
    transaction: NewTransaction,
    now: int,
    db: sqlite3.Connection,
) -> Transaction | None:
    changed = db.execute(
        f"""UPDATE settlement SET version = version + 1, updated_at = ?
            WHERE id = ? AND version = ? AND state IN {OPEN}""",
        (now, settlement_id, version),
    ).rowcount
    if not changed:
        return None
    signed = sign(transaction, now, db)
    _join(settlement_id, signed, db)
    return signed


def sign(new: NewTransaction, now: int, db: sqlite3.Connection) -> Transaction:
    """Hand out the next account nonce, have the call signed with it, and keep the bytes."""
    nonce = raise_nonce_floor(new.chain_id, new.signer, new.nonce_floor, db)
    db.execute(
        "UPDATE signer SET next_nonce = ? WHERE chain_id = ? AND address = ?",
        (nonce + 1, new.chain_id, new.signer),
    )
    attempt = new.sign(nonce)
    columns = (new.chain_id, new.signer, nonce, new.kind, new.call.target, new.call.calldata)
    transaction_id = db.execute(
        """INSERT INTO "transaction" (chain_id, signer, account_nonce, kind, target, calldata,
               gas_limit, state, created_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?)""",
        (*columns, new.gas_limit, now),
    ).lastrowid
    assert transaction_id is not None
    _insert_attempt(transaction_id, attempt, db)
    return Transaction(
        id=transaction_id,
        chain_id=new.chain_id,
        signer=new.signer,
        account_nonce=nonce,
        kind=new.kind,
        call=new.call,
        gas_limit=new.gas_limit,
        state=TransactionState.PENDING,
        block_number=None,
        attempts=(attempt,),
    )


def raise_nonce_floor(chain_id: int, signer: bytes, floor: int, db: sqlite3.Connection) -> int:
    (next_nonce,) = db.execute(
        """INSERT INTO signer (chain_id, address, next_nonce) VALUES (?, ?, ?)
           ON CONFLICT DO UPDATE SET next_nonce = max(next_nonce, excluded.next_nonce)
           RETURNING next_nonce""",
        (chain_id, signer, floor),
    ).fetchone()
    return int(next_nonce)


def _join(settlement_id: str, transaction: Transaction, db: sqlite3.Connection) -> None:
    db.execute(
        """INSERT INTO settlement_transaction (settlement_id, transaction_id, position)
           VALUES (?, ?, 0)""",
        (settlement_id, transaction.id),
    )


def add_attempt(transaction_id: int, attempt: Attempt, db: sqlite3.Connection) -> bool:
    pending = db.execute(
        """SELECT 1 FROM "transaction" WHERE id = ? AND state = 'pending'""", (transaction_id,)
    ).fetchone()
    if pending is not None:
        _insert_attempt(transaction_id, attempt, db)
    return pending is not None


def _insert_attempt(transaction_id: int, attempt: Attempt, db: sqlite3.Connection) -> None:
    db.execute(
        """INSERT INTO attempt (hash, transaction_id, raw, max_fee_per_gas,
               max_priority_fee_per_gas, signed_at)
           VALUES (?, ?, ?, ?, ?, ?)""",
        (
            attempt.hash,
            transaction_id,
            attempt.raw,
            attempt.fees.max_fee_per_gas,
            attempt.fees.max_priority_fee_per_gas,
            attempt.signed_at,
        ),
    )


def record(
    transactions: Sequence[TransactionChange],
    settlements: Sequence[SettlementChange],
    now: int,
    db: sqlite3.Connection,
) -> tuple[Settlement, ...]:
    for each in transactions:
        db.execute(
            """UPDATE "transaction" SET state = ?, block_number = ? WHERE id = ?""",
            (each.state, each.block_number, each.id),
        )
    changed = []
    for change in settlements:
        # OR IGNORE leaves out a proof that is another settlement's already.
        done = db.execute(
            """UPDATE OR IGNORE settlement SET state = ?, version = version + 1, refusal = ?,
                   proof_transaction = ?, proof_log_index = ?, proof_block_number = ?,
                   proof_reference = ?, proof_fee = ?, updated_at = ?
               WHERE id = ? AND version = ?""",
            (
                change.state,
                refusal_text(change.refusal),
                *proof_columns(change.proof),
                now,
                change.id,
                change.version,
            ),
        ).rowcount
        if done:
            changed.append(get(db, change.id))
    return tuple(changed)

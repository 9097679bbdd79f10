"""What the journal's operations are in SQL: functions of a connection, inside a transaction.

Text that is pasted into a statement is a constant of this module; every value is bound.
"""

import sqlite3
import uuid
from collections.abc import Sequence

from facilitator.settlement import Attempt, Settlement, SettlementState, Transaction
from facilitator.store import (
    Claimed,
    Counts,
    IdempotencyKeyTaken,
    NewSettlement,
    NewTransaction,
    OpenWork,
    Overcommitted,
    Ride,
    SettlementChange,
    Taken,
    TransactionChange,
)
from facilitator.store.rows import (
    payment_text,
    proof_columns,
    read_attempt,
    read_settlement,
    read_transaction,
    refusal_text,
)

_OPEN = "('pending', 'reorged')"


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
            return IdempotencyKeyTaken(read_settlement(dict(row)))
    left = new.available - _committed(new, db)
    if left < new.payment.amount:
        return Overcommitted(left)
    settlement_id = _insert(new, now, db) if found is None else _reopen(found, new, now, db)
    signed = sign(transaction, now, db)
    _join(settlement_id, signed, db)
    return Claimed(get(db, settlement_id), signed)


def _committed(new: NewSettlement, db: sqlite3.Connection) -> int:
    payment = new.payment
    rows = db.execute(
        f"""SELECT amount FROM settlement
            WHERE chain_id = ? AND asset = ? AND payer = ? AND state IN {_OPEN}""",
        (payment.chain_id, payment.asset, payment.payer),
    )
    return sum(int(amount) for (amount,) in rows)


def _insert(new: NewSettlement, now: int, db: sqlite3.Connection) -> str:
    settlement_id = uuid.uuid4().hex
    payment = new.payment
    db.execute(
        """INSERT INTO settlement (id, key, second_key, tenant, idempotency_key, request_digest,
               dialect, chain_id, asset, payer, amount, payment, state, version, listener,
               listener_until, traceparent, created_at, updated_at)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', 1, ?, ?, ?, ?, ?)""",
        (
            settlement_id,
            new.key,
            new.second_key,
            new.tenant,
            new.idempotency_key,
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
    return settlement_id


def _reopen(found: Settlement, new: NewSettlement, now: int, db: sqlite3.Connection) -> str:
    # The signature may be spelt anew, and is what the next transaction carries.
    db.execute(
        """UPDATE settlement SET state = 'pending', version = version + 1, refusal = NULL,
               payment = ?, listener = ?, listener_until = ?, updated_at = ? WHERE id = ?""",
        (payment_text(new.payment), new.listener, new.listener_until, now, found.id),
    )
    return found.id


def settle_again(
    settlement_id: str,
    version: int,
    transaction: NewTransaction,
    now: int,
    db: sqlite3.Connection,
) -> Transaction | None:
    changed = db.execute(
        f"""UPDATE settlement SET version = version + 1, updated_at = ?
            WHERE id = ? AND version = ? AND state IN {_OPEN}""",
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
    return _transactions(db, "SELECT ?", (transaction_id,))[transaction_id]


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
        "INSERT INTO settlement_transaction VALUES (?, ?, 0)", (settlement_id, transaction.id)
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
        "INSERT INTO attempt VALUES (?, ?, ?, ?, ?, ?)",
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


def find(keys: tuple[str, ...], db: sqlite3.Connection) -> Settlement | None:
    for key in keys:
        for column in ("key", "second_key"):
            row = db.execute(f"SELECT * FROM settlement WHERE {column} = ?", (key,)).fetchone()
            if row is not None:
                return read_settlement(dict(row))
    return None


def get(db: sqlite3.Connection, settlement_id: str) -> Settlement:
    row = db.execute("SELECT * FROM settlement WHERE id = ?", (settlement_id,)).fetchone()
    if row is None:
        raise LookupError("no such settlement")
    return read_settlement(dict(row))


def open_work(chain_id: int, db: sqlite3.Connection) -> OpenWork:
    pending = """SELECT id FROM "transaction" WHERE chain_id = ? AND state = 'pending'"""
    chosen = f"""SELECT id FROM settlement WHERE chain_id = ? AND state IN {_OPEN}
                 UNION SELECT settlement_id FROM settlement_transaction
                 WHERE transaction_id IN ({pending})"""
    carrying = "SELECT transaction_id FROM settlement_transaction"
    fillers = _transactions(db, f"{pending} AND id NOT IN ({carrying})", (chain_id,))
    return OpenWork(rides=rides(db, chosen, (chain_id, chain_id)), fillers=tuple(fillers.values()))


def counts(chain_id: int, db: sqlite3.Connection) -> Counts:
    """How many settlements of a chain there are, from an index alone."""
    rows = db.execute(
        "SELECT state, count(*) FROM settlement WHERE chain_id = ? GROUP BY state", (chain_id,)
    )
    found = {state: number for state, number in rows}
    pending = found.get("pending", 0) + found.get("reorged", 0)
    return Counts(sum(found.values()), pending, found.get("confirmed", 0))


def rides(db: sqlite3.Connection, chosen: str, parameters: tuple[object, ...]) -> tuple[Ride, ...]:
    """The settlements whose ids `chosen` selects, each with all its transactions."""
    settlements = db.execute(
        f"SELECT * FROM settlement WHERE id IN ({chosen}) ORDER BY created_at, id", parameters
    ).fetchall()
    joins = db.execute(
        f"""SELECT settlement_id, transaction_id FROM settlement_transaction
            WHERE settlement_id IN ({chosen}) ORDER BY transaction_id""",
        parameters,
    ).fetchall()
    carried = f"""SELECT transaction_id FROM settlement_transaction
                  WHERE settlement_id IN ({chosen})"""
    transactions = _transactions(db, carried, parameters)
    carriers: dict[str, list[Transaction]] = {}
    for settlement_id, transaction_id in joins:
        carriers.setdefault(settlement_id, []).append(transactions[transaction_id])
    return tuple(
        Ride(read_settlement(dict(row)), tuple(carriers.get(row["id"], ()))) for row in settlements
    )


def _transactions(
    db: sqlite3.Connection, chosen: str, parameters: tuple[object, ...]
) -> dict[int, Transaction]:
    """The transactions whose ids `chosen` selects, with their attempts in the order of signing."""
    attempts: dict[int, list[Attempt]] = {}
    for row in db.execute(
        f"SELECT * FROM attempt WHERE transaction_id IN ({chosen}) ORDER BY rowid", parameters
    ):
        attempts.setdefault(row["transaction_id"], []).append(read_attempt(dict(row)))
    return {
        row["id"]: read_transaction(dict(row), tuple(attempts[row["id"]]))
        for row in db.execute(
            f'SELECT * FROM "transaction" WHERE id IN ({chosen}) ORDER BY id', parameters
        )
    }

"""What is forgotten once it is finished and old, and what of it is still known, in SQL.

Functions of a connection, inside a transaction, as in `statements`. A settlement leaves with its
transactions, but for those that carry another one too. Its keys stay as long as its payment could
be presented again: a chain that is asked may lag, and one log must not prove a payment twice.
"""

import json
import sqlite3
from collections.abc import Sequence

from facilitator.domain.settlement import Settlement, SettlementState
from facilitator.journal.rows import Row, read_settlement

# As in the index of the schema, or it is not used.
FINISHED = "('confirmed', 'failed', 'lost')"
ENDED = "('final', 'superseded')"

# Milliseconds past a payment's deadline for which its keys are kept: clocks differ.
KEY_MARGIN_MS = 3_600_000
_LATEST = 2**63 - 1


def keys_needed_until(settlement: Settlement, now: int) -> int | None:
    """Until when a payment's keys must be known after it was forgotten, unix milliseconds.

    None where they need not be: one that FAILED may be tried again, and one whose deadline has
    passed is refused for that.
    """
    if settlement.state is SettlementState.FAILED:
        return None
    until = min(settlement.payment.deadline * 1000 + KEY_MARGIN_MS, _LATEST)
    return until if until > now else None


def forget(
    chain_id: int, horizon: int, before: int, now: int, limit: int, db: sqlite3.Connection
) -> int:
    rows = db.execute(
        f"""SELECT * FROM settlement
            WHERE chain_id = ? AND state IN {FINISHED} AND updated_at < ? AND listener_until < ?
                AND (proof_block_number IS NULL OR proof_block_number <= ?)
                AND NOT EXISTS (
                    SELECT 1 FROM settlement_transaction
                        JOIN "transaction" ON "transaction".id = transaction_id
                    WHERE settlement_id = settlement.id AND "transaction".state NOT IN {ENDED})
            ORDER BY updated_at LIMIT ?""",
        (chain_id, before, before, horizon, limit),
    ).fetchall()
    for row in rows:
        _keep_keys(dict(row), now, db)
    settlements = json.dumps([row["id"] for row in rows])
    joins = "FROM settlement_transaction WHERE settlement_id IN (SELECT value FROM json_each(?))"
    carriers = db.execute(f"SELECT DISTINCT transaction_id {joins}", (settlements,)).fetchall()
    db.execute(f"DELETE {joins}", (settlements,))
    db.execute(
        "DELETE FROM settlement WHERE id IN (SELECT value FROM json_each(?))", (settlements,)
    )
    fillers = db.execute(
        f"""SELECT id FROM "transaction"
            WHERE chain_id = ? AND kind = 'fill' AND created_at < ? AND state IN {ENDED}
                AND NOT EXISTS (
                    SELECT 1 FROM settlement_transaction WHERE transaction_id = "transaction".id)
            LIMIT ?""",
        (chain_id, before, limit),
    ).fetchall()
    _delete_transactions([number for (number,) in (*carriers, *fillers)], db)
    # A payment has two keys at most: what is forgotten in one call is gone in one as well.
    db.execute(
        """DELETE FROM used_key WHERE key IN (
               SELECT key FROM used_key WHERE chain_id = ? AND needed_until <= ? LIMIT ?)""",
        (chain_id, now, 2 * limit),
    )
    return len(rows)


def _keep_keys(row: Row, now: int, db: sqlite3.Connection) -> None:
    settlement = read_settlement(row)
    until = keys_needed_until(settlement, now)
    if until is None:
        return
    if settlement.proof is not None:
        transaction_hash = settlement.proof.transaction_hash
    else:
        (transaction_hash,) = db.execute(
            """SELECT hash FROM settlement_transaction JOIN attempt USING (transaction_id)
                   JOIN "transaction" ON "transaction".id = transaction_id
               WHERE settlement_id = ?
               ORDER BY transaction_id DESC,
                   CASE kind WHEN 'fill' THEN -attempt.rowid ELSE attempt.rowid END DESC
               LIMIT 1""",
            (settlement.id,),
        ).fetchone()
    for key in (row["key"], row["second_key"]):
        if key is not None:
            db.execute(
                """INSERT INTO used_key (key, chain_id, transaction_hash, needed_until)
                   VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING""",
                (key, settlement.payment.chain_id, transaction_hash, until),
            )


def _delete_transactions(ids: Sequence[int], db: sqlite3.Connection) -> None:
    """Those of them that carry nothing any more."""
    alone = """SELECT value FROM json_each(?)
               EXCEPT SELECT transaction_id FROM settlement_transaction
               WHERE transaction_id IN (SELECT value FROM json_each(?))"""
    numbers = json.dumps(ids)
    db.execute(f"DELETE FROM attempt WHERE transaction_id IN ({alone})", (numbers, numbers))
    db.execute(f'DELETE FROM "transaction" WHERE id IN ({alone})', (numbers, numbers))


def used_by(keys: Sequence[str], db: sqlite3.Connection) -> bytes | None:
    for key in keys:
        row = db.execute("SELECT transaction_hash FROM used_key WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return bytes(row["transaction_hash"])
    return None

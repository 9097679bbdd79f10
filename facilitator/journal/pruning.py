"""Deleting what is finished and old, and the keys of it that must still be known.

Functions of a connection, inside a transaction, with locks in the order of `operations`. A
settlement is deleted with its transactions, but for those that carry another one too. Its keys stay
as long as its payment could be presented again: a chain that is asked may lag, and one log must not
prove a payment twice.
"""

from collections.abc import Sequence

from facilitator.domain.settlement import Settlement, SettlementState
from facilitator.journal.engine import Connection
from facilitator.journal.rows import SETTLEMENT, read_settlement

# As in the index of the schema, or it is not used.
FINISHED = "('confirmed', 'failed', 'lost')"
ENDED = "('final', 'superseded')"

# Milliseconds past a payment's deadline for which its keys are kept: clocks differ.
KEY_MARGIN_MS = 3_600_000
_LATEST = 2**63 - 1

_CHOSEN = f"""chain_id = $1 AND state IN {FINISHED} AND updated_at < $2 AND listener_until < $2
    AND (proof_block_number IS NULL OR proof_block_number <= $3)
    AND NOT EXISTS (
        SELECT 1 FROM settlement_transaction
            JOIN "transaction" ON "transaction".id = transaction_id
        WHERE settlement_id = settlement.id AND "transaction".state NOT IN {ENDED})"""
_CARRIES_NOTHING = """NOT EXISTS (
    SELECT 1 FROM settlement_transaction WHERE transaction_id = "transaction".id)"""


async def forget(
    db: Connection, chain_id: int, *, horizon: int, before: int, now: int, limit: int
) -> int:
    """Delete up to `limit` settlements of a chain that are CONFIRMED, FAILED or LOST, neither
    changed nor waited for since `before`, their proof at block `horizon` at most, and all their
    transactions FINAL or SUPERSEDED: with those that carry nothing else, and as many fillers of
    that age. Return how many settlements were deleted.

    Of one that did not FAIL `used_by` knows the keys until an hour after its payment's deadline.
    Idempotency keys and replies are gone. What is left of the gas budgets does not change, nor do
    the account nonces that are handed out next.
    """
    about = chain_id, before, horizon
    found = await db.fetch(
        f"SELECT id FROM settlement WHERE {_CHOSEN} ORDER BY updated_at LIMIT $4", *about, limit
    )
    carriers = await db.fetch(
        """SELECT id FROM "transaction" WHERE id IN (
               SELECT transaction_id FROM settlement_transaction WHERE settlement_id = ANY($1))
           ORDER BY id FOR UPDATE""",
        [row["id"] for row in found],
    )
    # Looked at again under the locks: one may have been opened again, or revived, in between.
    rows = await db.fetch(
        f"""SELECT {SETTLEMENT} FROM settlement WHERE id = ANY($4) AND {_CHOSEN}
            ORDER BY id FOR UPDATE""",
        *about,
        [row["id"] for row in found],
    )
    for row in rows:
        await _keep_keys(db, read_settlement(row), now)
    settlements = [row["id"] for row in rows]
    for table, column in (("settlement_transaction", "settlement_id"), ("settlement", "id")):
        await db.execute(f"DELETE FROM {table} WHERE {column} = ANY($1)", settlements)
    fillers = await db.fetch(
        f"""SELECT id FROM "transaction"
            WHERE chain_id = $1 AND kind = 'fill' AND created_at < $2 AND state IN {ENDED}
                AND {_CARRIES_NOTHING}
            LIMIT $3 FOR UPDATE SKIP LOCKED""",
        chain_id,
        before,
        limit,
    )
    await _delete_transactions(db, [row["id"] for row in (*carriers, *fillers)])
    # A payment has two keys at most: the keys that one call keeps, one call can delete.
    await db.execute(
        """DELETE FROM used_key WHERE key IN (
               SELECT key FROM used_key WHERE chain_id = $1 AND needed_until <= $2 LIMIT $3)""",
        chain_id,
        now,
        2 * limit,
    )
    return len(rows)


def _keys_needed_until(settlement: Settlement, now: int) -> int | None:
    """Until when a payment's keys must be known after it was forgotten, unix milliseconds.

    None where they need not be: one that FAILED may be tried again, and one whose deadline has
    passed is refused for that.
    """
    if settlement.state is SettlementState.FAILED:
        return None
    until = min(settlement.payment.deadline * 1000 + KEY_MARGIN_MS, _LATEST)
    return until if until > now else None


async def _keep_keys(db: Connection, settlement: Settlement, now: int) -> None:
    until = _keys_needed_until(settlement, now)
    if until is None:
        return
    if settlement.proof is not None:
        transaction_hash = settlement.proof.transaction_hash
    else:
        transaction_hash = await db.fetchval(
            """SELECT hash FROM settlement_transaction JOIN attempt USING (transaction_id)
                   JOIN "transaction" ON "transaction".id = transaction_id
               WHERE settlement_id = $1
               ORDER BY transaction_id DESC,
                   CASE kind WHEN 'fill' THEN -attempt.number ELSE attempt.number END DESC
               LIMIT 1""",
            settlement.id,
        )
    await db.execute(
        """INSERT INTO used_key (key, chain_id, transaction_hash, needed_until)
           SELECT key, chain_id, $2::bytea, $3::bigint FROM settlement WHERE id = $1
           UNION ALL SELECT second_key, chain_id, $2::bytea, $3::bigint FROM settlement
               WHERE id = $1 AND second_key IS NOT NULL
           ON CONFLICT DO NOTHING""",
        settlement.id,
        transaction_hash,
        until,
    )


async def _delete_transactions(db: Connection, ids: list[int]) -> None:
    """Those of them that carry nothing any more."""
    rows = await db.fetch(
        f'SELECT id FROM "transaction" WHERE id = ANY($1) AND {_CARRIES_NOTHING}', ids
    )
    alone = [row["id"] for row in rows]
    await db.execute("DELETE FROM attempt WHERE transaction_id = ANY($1)", alone)
    await db.execute('DELETE FROM "transaction" WHERE id = ANY($1)', alone)


async def used_by(db: Connection, keys: Sequence[str]) -> bytes | None:
    """The hash of the transaction of a settlement that was forgotten, and that had one of these
    keys; None where there was none whose payment could still be presented.
    """
    found = await db.fetchval(
        "SELECT transaction_hash FROM used_key WHERE key = ANY($1) LIMIT 1", list(keys)
    )
    return None if found is None else bytes(found)

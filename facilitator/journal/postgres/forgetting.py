"""What is forgotten once it is finished and old, in PostgreSQL: see `forgetting`.

Functions of a connection, inside a transaction. Locks in the order of `postgres_signed`.
"""

from collections.abc import Sequence

from facilitator.journal.forgetting import ENDED, FINISHED, keys_needed_until
from facilitator.journal.postgres.pool import Connection
from facilitator.journal.rows import SETTLEMENT, Row, read_settlement

_CHOSEN = f"""chain_id = $1 AND state IN {FINISHED} AND updated_at < $2 AND listener_until < $2
    AND (proof_block_number IS NULL OR proof_block_number <= $3)
    AND NOT EXISTS (
        SELECT FROM settlement_transaction
            JOIN "transaction" ON "transaction".id = transaction_id
        WHERE settlement_id = settlement.id AND "transaction".state NOT IN {ENDED})"""


async def forget(
    chain_id: int, horizon: int, before: int, now: int, limit: int, db: Connection
) -> int:
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
        f"""SELECT {SETTLEMENT}, second_key FROM settlement WHERE id = ANY($4) AND {_CHOSEN}
            ORDER BY id FOR UPDATE""",
        *about,
        [row["id"] for row in found],
    )
    for row in rows:
        await _keep_keys(row, now, db)
    settlements = [row["id"] for row in rows]
    for table, column in (("settlement_transaction", "settlement_id"), ("settlement", "id")):
        await db.execute(f"DELETE FROM {table} WHERE {column} = ANY($1)", settlements)
    fillers = await db.fetch(
        f"""SELECT id FROM "transaction"
            WHERE chain_id = $1 AND kind = 'fill' AND created_at < $2 AND state IN {ENDED}
                AND NOT EXISTS (
                    SELECT FROM settlement_transaction WHERE transaction_id = "transaction".id)
            LIMIT $3 FOR UPDATE SKIP LOCKED""",
        chain_id,
        before,
        limit,
    )
    await _delete_transactions([row["id"] for row in (*carriers, *fillers)], db)
    await db.execute(
        """DELETE FROM used_key WHERE key IN (
               SELECT key FROM used_key WHERE chain_id = $1 AND needed_until <= $2 LIMIT $3)""",
        chain_id,
        now,
        2 * limit,
    )
    return len(rows)


async def _keep_keys(row: Row, now: int, db: Connection) -> None:
    settlement = read_settlement(row)
    until = keys_needed_until(settlement, now)
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
                   CASE kind WHEN 'fill' THEN -number ELSE number END DESC
               LIMIT 1""",
            settlement.id,
        )
    await db.execute(
        """INSERT INTO used_key (key, chain_id, transaction_hash, needed_until)
           SELECT key, $2, $3, $4 FROM unnest($1::text[]) AS key ON CONFLICT DO NOTHING""",
        [key for key in (row["key"], row["second_key"]) if key is not None],
        settlement.payment.chain_id,
        transaction_hash,
        until,
    )


async def _delete_transactions(ids: Sequence[int], db: Connection) -> None:
    """Those of them that carry nothing any more."""
    rows = await db.fetch(
        """SELECT id FROM unnest($1::bigint[]) AS id WHERE NOT EXISTS (
               SELECT FROM settlement_transaction WHERE transaction_id = id)""",
        ids,
    )
    alone = [row["id"] for row in rows]
    await db.execute("DELETE FROM attempt WHERE transaction_id = ANY($1)", alone)
    await db.execute('DELETE FROM "transaction" WHERE id = ANY($1)', alone)


async def used_by(keys: Sequence[str], db: Connection) -> bytes | None:
    found = await db.fetchval(
        "SELECT transaction_hash FROM used_key WHERE key = ANY($1) LIMIT 1", keys
    )
    return None if found is None else bytes(found)

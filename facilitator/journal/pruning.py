"""Deletes settlements that are finished and old, and keeps their keys while they are needed.

Functions of a connection, inside a transaction, with locks in the order of `operations`. A
settlement is deleted with its transactions, except those that carry another settlement too. Its
keys are kept in `used_key` until its payment can no longer be presented. Without them a payment
that is presented again would be claimed anew: an endpoint that lags may show its nonce as unused,
and the log that proved it once would prove it a second time.
"""

from collections.abc import Sequence

from facilitator.domain.settlement import Settlement, SettlementState
from facilitator.journal.engine import Connection
from facilitator.journal.rows import SETTLEMENT, read_settlement

# As in the schema's partial index, which is not used otherwise.
FINISHED = "('confirmed', 'failed', 'lost')"
ENDED = "('final', 'superseded')"

# Milliseconds after a payment's deadline for which its keys are kept, since clocks differ.
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
    """Delete up to `limit` settlements of a chain and return how many were deleted.

    A settlement is deleted if it is CONFIRMED, FAILED or LOST, was neither changed nor waited for
    since `before`, has no proof above block `horizon`, and all its transactions are FINAL or
    SUPERSEDED. Transactions that then carry nothing are deleted with it, and up to `limit` fillers
    that are FINAL or SUPERSEDED and older than `before`.

    The keys of a settlement that did not FAIL are kept in `used_key` until KEY_MARGIN_MS after its
    payment's deadline; its idempotency key and reply are deleted. Gas budgets and the next account
    nonces stay as they are.
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
    # Chosen again under the locks: a settlement may have been reopened, or a transaction revived.
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
    # A settlement has at most two keys, so a call deletes as many expired ones as it may insert.
    await db.execute(
        """DELETE FROM used_key WHERE key IN (
               SELECT key FROM used_key WHERE chain_id = $1 AND needed_until <= $2 LIMIT $3)""",
        chain_id,
        now,
        2 * limit,
    )
    return len(rows)


def _keys_needed_until(settlement: Settlement, now: int) -> int | None:
    """Return until when the keys of a deleted settlement must be kept, unix milliseconds.

    None where they need not be: a payment that FAILED may be tried again, and one that is past its
    deadline is refused anyway.
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
    """Delete those of the transactions that carry no settlement any more."""
    rows = await db.fetch(
        f'SELECT id FROM "transaction" WHERE id = ANY($1) AND {_CARRIES_NOTHING}', ids
    )
    alone = [row["id"] for row in rows]
    await db.execute("DELETE FROM attempt WHERE transaction_id = ANY($1)", alone)
    await db.execute('DELETE FROM "transaction" WHERE id = ANY($1)', alone)


async def used_by(db: Connection, keys: Sequence[str]) -> bytes | None:
    """Return the transaction hash of a deleted settlement that had one of these keys; None where
    none of the keys is kept.
    """
    found = await db.fetchval(
        "SELECT transaction_hash FROM used_key WHERE key = ANY($1) LIMIT 1", list(keys)
    )
    return None if found is None else bytes(found)

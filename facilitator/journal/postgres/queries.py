"""What the journal is asked, in PostgreSQL: functions of a connection, inside a transaction.

The same questions as in `queries`, by the same indexes.
"""

from collections.abc import Sequence

from facilitator.domain.settlement import Attempt, Settlement, Transaction
from facilitator.journal.postgres.pool import Connection
from facilitator.journal.queries import OPEN
from facilitator.journal.rows import (
    ATTEMPT,
    SETTLEMENT,
    TRANSACTION,
    read_attempt,
    read_settlement,
    read_transaction,
)
from facilitator.journal.store import KeptReply, OpenWork, SettlementRecord

# $1 is the chain everywhere below.
_PENDING = """SELECT id FROM "transaction" WHERE chain_id = $1 AND state = 'pending'"""
_MINED = """SELECT id FROM "transaction" WHERE chain_id = $1 AND state = 'mined'"""


async def find(key: str, db: Connection) -> Settlement | None:
    """One that has it as its first key goes before one that has it as its second."""
    row = await db.fetchrow(
        f"""SELECT {SETTLEMENT} FROM settlement WHERE key = $1 OR second_key = $1
           ORDER BY key <> $1 LIMIT 1""",
        key,
    )
    return None if row is None else read_settlement(row)


async def get(db: Connection, settlement_id: str) -> Settlement:
    row = await db.fetchrow(f"SELECT {SETTLEMENT} FROM settlement WHERE id = $1", settlement_id)
    if row is None:
        raise LookupError("no such settlement")
    return read_settlement(row)


async def get_record(settlement_id: str, db: Connection) -> SettlementRecord | None:
    found = await _records(db, "SELECT $1::text", settlement_id)
    return found[0] if found else None


async def find_transaction(transaction_hash: bytes, db: Connection) -> Settlement | None:
    """Of several that one transaction carries, the first; somebody else's may prove one as well."""
    row = await db.fetchrow(
        f"""SELECT {SETTLEMENT} FROM attempt
               JOIN settlement_transaction USING (transaction_id)
               JOIN settlement ON settlement.id = settlement_id
           WHERE hash = $1 ORDER BY position LIMIT 1""",
        transaction_hash,
    )
    if row is None:
        row = await db.fetchrow(
            f"SELECT {SETTLEMENT} FROM settlement WHERE proof_transaction = $1 LIMIT 1",
            transaction_hash,
        )
    return None if row is None else read_settlement(row)


async def find_reply(tenant: str, idempotency_key: str, db: Connection) -> KeptReply | None:
    row = await db.fetchrow(
        "SELECT body_digest, reply FROM settlement WHERE tenant = $1 AND idempotency_key = $2",
        tenant,
        idempotency_key,
    )
    return None if row is None else KeptReply(row["body_digest"] or b"", row["reply"])


async def open_work(chain_id: int, db: Connection) -> OpenWork:
    chosen = f"""SELECT id FROM settlement WHERE chain_id = $1 AND state IN {OPEN}
                 UNION SELECT settlement_id FROM settlement_transaction
                 WHERE transaction_id IN ({_PENDING})"""
    return await _work(db, chosen, _PENDING, (chain_id,), (chain_id,))


async def watched(chain_id: int, horizon: int, db: Connection) -> OpenWork:
    chosen = f"""SELECT settlement_id FROM settlement_transaction WHERE transaction_id IN ({_MINED})
                 UNION SELECT id FROM settlement WHERE chain_id = $1 AND state = 'confirmed'
                 AND proof_block_number > $2"""
    return await _work(db, chosen, _MINED, (chain_id, horizon), (chain_id,))


async def _work(
    db: Connection,
    chosen: str,
    mine: str,
    parameters: tuple[object, ...],
    own_parameters: tuple[object, ...],
) -> OpenWork:
    """The settlements that `chosen` selects, and those of `mine` that carry none."""
    lone = f"""{mine} AND NOT EXISTS (SELECT FROM settlement_transaction
                                      WHERE transaction_id = "transaction".id)"""
    fillers = await transactions(db, lone, *own_parameters)
    records = await _records(db, chosen, *parameters)
    return OpenWork(records=tuple(records), fillers=tuple(fillers.values()))


async def outstanding(
    chain_id: int, asset: bytes, payer: bytes, db: Connection
) -> tuple[Settlement, ...]:
    rows = await db.fetch(
        f"""SELECT {SETTLEMENT} FROM settlement
            WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND state IN {OPEN}""",
        chain_id,
        asset,
        payer,
    )
    return tuple(read_settlement(row) for row in rows)


async def ended(settlement_ids: Sequence[str], db: Connection) -> frozenset[str]:
    rows = await db.fetch(
        f"SELECT id FROM settlement WHERE id = ANY($1) AND state NOT IN {OPEN}", settlement_ids
    )
    return frozenset(row["id"] for row in rows)


async def in_flight(chain_id: int, db: Connection) -> dict[bytes, int]:
    rows = await db.fetch(
        """SELECT signer, count(*) AS pending FROM "transaction"
           WHERE chain_id = $1 AND state = 'pending' GROUP BY signer""",
        chain_id,
    )
    return {row["signer"]: row["pending"] for row in rows}


async def _records(db: Connection, chosen: str, *parameters: object) -> list[SettlementRecord]:
    settlements = await db.fetch(
        f"SELECT {SETTLEMENT} FROM settlement WHERE id IN ({chosen}) ORDER BY created_at, id",
        *parameters,
    )
    if not settlements:
        return []
    ids = [row["id"] for row in settlements]
    joins = await db.fetch(
        """SELECT settlement_id, transaction_id FROM settlement_transaction
           WHERE settlement_id = ANY($1) ORDER BY transaction_id""",
        ids,
    )
    riding = await transactions(
        db, "SELECT unnest($1::bigint[])", [row["transaction_id"] for row in joins]
    )
    carriers: dict[str, list[Transaction]] = {}
    for row in joins:
        carriers.setdefault(row["settlement_id"], []).append(riding[row["transaction_id"]])
    return [
        SettlementRecord(read_settlement(row), tuple(carriers.get(row["id"], ())))
        for row in settlements
    ]


async def transactions(db: Connection, chosen: str, *parameters: object) -> dict[int, Transaction]:
    """The transactions whose ids `chosen` selects, with their attempts in the order of signing."""
    rows = await db.fetch(
        f'SELECT {TRANSACTION} FROM "transaction" WHERE id IN ({chosen}) ORDER BY id', *parameters
    )
    if not rows:
        return {}
    attempts: dict[int, list[Attempt]] = {}
    for row in await db.fetch(
        f"SELECT {ATTEMPT} FROM attempt WHERE transaction_id = ANY($1) ORDER BY number",
        [row["id"] for row in rows],
    ):
        attempts.setdefault(row["transaction_id"], []).append(read_attempt(row))
    return {row["id"]: read_transaction(row, tuple(attempts[row["id"]])) for row in rows}

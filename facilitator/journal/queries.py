"""What is read from the journal, each query once for every engine.

Coroutines that take a connection, inside a transaction. Each finds its rows by an index, so that
the finished ones, whose number only grows, cost nothing.
"""

from collections.abc import Sequence

from facilitator.domain.settlement import (
    Attempt,
    OpenWork,
    Settlement,
    SettlementCounts,
    SettlementRecord,
    Transaction,
)
from facilitator.journal.engine import Connection
from facilitator.journal.records import KeptReply
from facilitator.journal.rows import (
    ATTEMPT,
    SETTLEMENT,
    TRANSACTION,
    read_attempt,
    read_settlement,
    read_transaction,
)

# As in the indexes of the schema, or they are not used.
OPEN = "('pending', 'reorged')"

# $1 is the chain.
_PENDING = """SELECT id FROM "transaction" WHERE chain_id = $1 AND state = 'pending'"""
_MINED = """SELECT id FROM "transaction" WHERE chain_id = $1 AND state = 'mined'"""


async def find(db: Connection, key: str) -> Settlement | None:
    """Return the settlement that has this key as its first or second one; None without one."""
    row = await db.fetchrow(
        f"""SELECT {SETTLEMENT} FROM settlement WHERE key = $1 OR second_key = $1
            ORDER BY key <> $1 LIMIT 1""",
        key,
    )
    return None if row is None else read_settlement(row)


async def get_settlement(db: Connection, settlement_id: str) -> Settlement:
    """Return the settlement with this id. LookupError where there is none."""
    row = await db.fetchrow(f"SELECT {SETTLEMENT} FROM settlement WHERE id = $1", settlement_id)
    if row is None:
        raise LookupError("no such settlement")
    return read_settlement(row)


async def get(db: Connection, settlement_id: str) -> SettlementRecord | None:
    """Return one settlement with its transactions; None for an unknown id."""
    found = await _records(db, "id = $1", settlement_id)
    return found[0] if found else None


async def find_transaction(db: Connection, transaction_hash: bytes) -> Settlement | None:
    """Return the settlement that this transaction was signed for, the first of several that it
    carries; else one that its log proves, since a stranger's transaction may prove one as well.
    """
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


async def find_reply(db: Connection, tenant: str, idempotency_key: str) -> KeptReply | None:
    """Return what is kept under an idempotency key; None where no claimed payment had it."""
    row = await db.fetchrow(
        "SELECT body_digest, reply FROM settlement WHERE tenant = $1 AND idempotency_key = $2",
        tenant,
        idempotency_key,
    )
    return None if row is None else KeptReply(row["body_digest"] or b"", row["reply"])


async def open_work(db: Connection, chain_id: int) -> OpenWork:
    """Return the settlements that are PENDING or REORGED or have a PENDING transaction, and the
    PENDING fillers.
    """
    chosen = f"""SELECT id FROM settlement WHERE chain_id = $1 AND state IN {OPEN}
                 UNION SELECT settlement_id FROM settlement_transaction
                 WHERE transaction_id IN ({_PENDING})"""
    return OpenWork(
        records=await _records(db, f"id IN ({chosen})", chain_id),
        fillers=await _fillers(db, _PENDING, chain_id),
    )


async def watched(db: Connection, chain_id: int, horizon: int) -> OpenWork:
    """Return what a reorg could still undo: settlements with a MINED transaction, or CONFIRMED by
    a proof above block `horizon`, whoever sent it; and MINED fillers.
    """
    chosen = f"""SELECT settlement_id FROM settlement_transaction WHERE transaction_id IN ({_MINED})
                 UNION SELECT id FROM settlement WHERE chain_id = $1 AND state = 'confirmed'
                 AND proof_block_number > $2"""
    return OpenWork(
        records=await _records(db, f"id IN ({chosen})", chain_id, horizon),
        fillers=await _fillers(db, _MINED, chain_id),
    )


async def _fillers(db: Connection, chosen: str, chain_id: int) -> tuple[Transaction, ...]:
    """Return those of the transactions that `chosen` selects by id that carry no settlement."""
    alone = f"""{chosen} AND NOT EXISTS (SELECT 1 FROM settlement_transaction
                                         WHERE transaction_id = "transaction".id)"""
    return tuple((await transactions(db, f"id IN ({alone})", chain_id)).values())


async def outstanding(
    db: Connection, chain_id: int, asset: bytes, payer: bytes
) -> tuple[Settlement, ...]:
    """Return the settlements of a payer and asset that are PENDING or REORGED."""
    rows = await db.fetch(
        f"""SELECT {SETTLEMENT} FROM settlement
            WHERE chain_id = $1 AND asset = $2 AND payer = $3 AND state IN {OPEN}""",
        chain_id,
        asset,
        payer,
    )
    return tuple(read_settlement(row) for row in rows)


async def in_flight(db: Connection, chain_id: int) -> dict[bytes, int]:
    """Return how many PENDING transactions each signer has on a chain (no entry: none)."""
    rows = await db.fetch(
        """SELECT signer, count(*) AS pending FROM "transaction"
           WHERE chain_id = $1 AND state = 'pending' GROUP BY signer""",
        chain_id,
    )
    return {row["signer"]: row["pending"] for row in rows}


async def settlement_counts(db: Connection, chain_id: int) -> SettlementCounts:
    """Return how many settlements are in each state, and since when the oldest is pending. The
    open ones are counted here; triggers keep a tally of the finished ones.
    """
    rows = await db.fetch(
        f"""SELECT state, count(*) AS number, min(created_at) AS oldest FROM settlement
            WHERE chain_id = $1 AND state IN {OPEN} GROUP BY state
            UNION ALL SELECT state, sum(number)::bigint, NULL FROM settlement_tally
            WHERE chain_id = $1 GROUP BY state""",
        chain_id,
    )
    states = {row["state"]: row["number"] for row in rows if row["number"]}
    oldest = [row["oldest"] for row in rows if row["state"] == "pending"]
    return SettlementCounts(states, oldest[0] if oldest else None)


async def ended(db: Connection, settlement_ids: Sequence[str]) -> frozenset[str]:
    """Return those of the settlements that are neither PENDING nor REORGED."""
    rows = await db.fetch(
        f"SELECT id FROM settlement WHERE id = ANY($1) AND state NOT IN {OPEN}",
        list(settlement_ids),
    )
    return frozenset(row["id"] for row in rows)


async def _records(db: Connection, where: str, *parameters: object) -> tuple[SettlementRecord, ...]:
    settlements = await db.fetch(
        f"SELECT {SETTLEMENT} FROM settlement WHERE {where} ORDER BY created_at, id", *parameters
    )
    if not settlements:
        return ()
    joins = await db.fetch(
        """SELECT settlement_id, transaction_id FROM settlement_transaction
           WHERE settlement_id = ANY($1) ORDER BY transaction_id""",
        [row["id"] for row in settlements],
    )
    carrying = await transactions(db, "id = ANY($1)", [row["transaction_id"] for row in joins])
    carriers: dict[str, list[Transaction]] = {}
    for row in joins:
        carriers.setdefault(row["settlement_id"], []).append(carrying[row["transaction_id"]])
    return tuple(
        SettlementRecord(read_settlement(row), tuple(carriers.get(row["id"], ())))
        for row in settlements
    )


async def transactions(db: Connection, where: str, *parameters: object) -> dict[int, Transaction]:
    """Return the transactions that meet a condition, by id, with their attempts in the order of
    signing.
    """
    rows = await db.fetch(
        f'SELECT {TRANSACTION} FROM "transaction" WHERE {where} ORDER BY id', *parameters
    )
    if not rows:
        return {}
    attempts: dict[int, list[Attempt]] = {}
    for row in await db.fetch(
        f"""SELECT {ATTEMPT} FROM attempt WHERE transaction_id = ANY($1)
            ORDER BY attempt.number""",
        [row["id"] for row in rows],
    ):
        attempts.setdefault(row["transaction_id"], []).append(read_attempt(row))
    return {row["id"]: read_transaction(row, tuple(attempts[row["id"]])) for row in rows}

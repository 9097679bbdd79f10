"""What the journal is asked, in SQL: functions of a connection, inside a transaction.

Each looks only at the rows that it is about, by an index: the finished ones, which only ever grow
in number, cost nothing. Text that is pasted into a statement is a constant of the program; every
value is bound.
"""

import sqlite3

from facilitator.domain.settlement import Attempt, Settlement, SettlementCounts, Transaction
from facilitator.journal.rows import read_attempt, read_settlement, read_transaction
from facilitator.journal.store import KeptReply, OpenWork, SettlementRecord

Parameters = tuple[object, ...] | dict[str, object]

# As in the indexes of the schema, or they are not used.
OPEN = "('pending', 'reorged')"


def find(keys: tuple[str, ...], db: sqlite3.Connection) -> Settlement | None:
    for key in keys:
        for column in ("key", "second_key"):
            row = db.execute(f"SELECT * FROM settlement WHERE {column} = ?", (key,)).fetchone()
            if row is not None:
                return read_settlement(row)
    return None


def get(db: sqlite3.Connection, settlement_id: str) -> Settlement:
    row = db.execute("SELECT * FROM settlement WHERE id = ?", (settlement_id,)).fetchone()
    if row is None:
        raise LookupError("no such settlement")
    return read_settlement(row)


def find_transaction(transaction_hash: bytes, db: sqlite3.Connection) -> Settlement | None:
    """Of several that one transaction carries, the first; somebody else's may prove one as well."""
    row = db.execute(
        """SELECT settlement.* FROM attempt
               JOIN settlement_transaction USING (transaction_id)
               JOIN settlement ON settlement.id = settlement_id
           WHERE hash = ? ORDER BY position LIMIT 1""",
        (transaction_hash,),
    ).fetchone()
    if row is None:
        row = db.execute(
            "SELECT * FROM settlement WHERE proof_transaction = ? LIMIT 1", (transaction_hash,)
        ).fetchone()
    return None if row is None else read_settlement(row)


def find_reply(tenant: str, idempotency_key: str, db: sqlite3.Connection) -> KeptReply | None:
    row = db.execute(
        "SELECT body_digest, reply FROM settlement WHERE tenant = ? AND idempotency_key = ?",
        (tenant, idempotency_key),
    ).fetchone()
    return None if row is None else KeptReply(row["body_digest"] or b"", row["reply"])


def open_work(chain_id: int, db: sqlite3.Connection) -> OpenWork:
    pending = _in_state("pending")
    chosen = f"""SELECT id FROM settlement WHERE chain_id = :chain AND state IN {OPEN}
                 UNION SELECT settlement_id FROM settlement_transaction
                 WHERE transaction_id IN ({pending})"""
    return _work(db, chosen, pending, {"chain": chain_id})


def watched(chain_id: int, horizon: int, db: sqlite3.Connection) -> OpenWork:
    mined = _in_state("mined")
    chosen = f"""SELECT settlement_id FROM settlement_transaction WHERE transaction_id IN ({mined})
                 UNION SELECT id FROM settlement WHERE chain_id = :chain AND state = 'confirmed'
                 AND proof_block_number > :horizon"""
    return _work(db, chosen, mined, {"chain": chain_id, "horizon": horizon})


def _in_state(state: str) -> str:
    return f"""SELECT id FROM "transaction" WHERE chain_id = :chain AND state = '{state}'"""


def _work(db: sqlite3.Connection, chosen: str, mine: str, parameters: Parameters) -> OpenWork:
    """The settlements that `chosen` selects, and those of `mine` that carry none."""
    carrying = "SELECT transaction_id FROM settlement_transaction"
    fillers = transactions(db, f"{mine} AND id NOT IN ({carrying})", parameters)
    return OpenWork(records=records(db, chosen, parameters), fillers=tuple(fillers.values()))


def outstanding(
    chain_id: int, asset: bytes, payer: bytes, db: sqlite3.Connection
) -> tuple[Settlement, ...]:
    rows = db.execute(
        f"""SELECT * FROM settlement
            WHERE chain_id = ? AND asset = ? AND payer = ? AND state IN {OPEN}""",
        (chain_id, asset, payer),
    )
    return tuple(read_settlement(row) for row in rows)


def in_flight(chain_id: int, db: sqlite3.Connection) -> dict[bytes, int]:
    rows = db.execute(
        """SELECT signer, count(*) FROM "transaction"
           WHERE chain_id = ? AND state = 'pending' GROUP BY signer""",
        (chain_id,),
    )
    return {signer: pending for signer, pending in rows}


def counts(chain_id: int, db: sqlite3.Connection) -> SettlementCounts:
    """The open ones are counted, of the finished ones a tally is kept."""
    rows = db.execute(
        f"""SELECT state, count(*), min(created_at) FROM settlement
            WHERE chain_id = :chain AND state IN {OPEN} GROUP BY state
            UNION ALL SELECT state, number, NULL FROM settlement_tally
            WHERE chain_id = :chain AND number > 0""",
        {"chain": chain_id},
    ).fetchall()
    oldest = [since for state, _, since in rows if state == "pending"]
    return SettlementCounts(
        {state: number for state, number, _ in rows}, oldest[0] if oldest else None
    )


def records(
    db: sqlite3.Connection, chosen: str, parameters: Parameters
) -> tuple[SettlementRecord, ...]:
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
    riding = transactions(db, carried, parameters)
    carriers: dict[str, list[Transaction]] = {}
    for settlement_id, transaction_id in joins:
        carriers.setdefault(settlement_id, []).append(riding[transaction_id])
    return tuple(
        SettlementRecord(read_settlement(row), tuple(carriers.get(row["id"], ())))
        for row in settlements
    )


def transactions(
    db: sqlite3.Connection, chosen: str, parameters: Parameters
) -> dict[int, Transaction]:
    """The transactions whose ids `chosen` selects, with their attempts in the order of signing."""
    attempts: dict[int, list[Attempt]] = {}
    for row in db.execute(
        f"SELECT * FROM attempt WHERE transaction_id IN ({chosen}) ORDER BY rowid", parameters
    ):
        attempts.setdefault(row["transaction_id"], []).append(read_attempt(row))
    return {
        row["id"]: read_transaction(row, tuple(attempts[row["id"]]))
        for row in db.execute(
            f'SELECT * FROM "transaction" WHERE id IN ({chosen}) ORDER BY id', parameters
        )
    }

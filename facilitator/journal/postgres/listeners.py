"""Who hears what became of a settlement, in PostgreSQL: functions of a connection, inside a
transaction that writes.
"""

from facilitator.domain.settlement import Settlement
from facilitator.journal.postgres.leases import keep_others_out
from facilitator.journal.postgres.pool import Connection
from facilitator.journal.postgres.queries import get


async def listen(
    settlement_id: str, listener: str, until: int, now: int, db: Connection
) -> Settlement:
    await db.execute(
        """UPDATE settlement SET listener = $1, listener_until = $2
           WHERE id = $3 AND replied_success_at IS NULL
           AND (listener IS NULL OR listener_until <= $4)""",
        listener,
        until,
        settlement_id,
        now,
    )
    return await get(db, settlement_id)


async def renew(settlement_id: str, listener: str, until: int, db: Connection) -> bool:
    renewed = await db.fetchval(
        """UPDATE settlement SET listener_until = $1
           WHERE id = $2 AND listener = $3 RETURNING true""",
        until,
        settlement_id,
        listener,
    )
    return renewed is not None


async def let_go(settlement_id: str, listener: str, db: Connection) -> None:
    await db.execute(
        "UPDATE settlement SET listener = NULL WHERE id = $1 AND listener = $2",
        settlement_id,
        listener,
    )


async def mark_success_replied(
    settlement_id: str,
    listener: str,
    now: int,
    reply: bytes | None,
    db: Connection,
    *,
    again: bool = False,
) -> bool:
    """As the protocol says. `again`: this very call may have been committed before."""
    told = await db.fetchval(
        """UPDATE settlement SET replied_success_at = $1, reply = $2
           WHERE id = $3 AND listener = $4 AND state = 'confirmed'
           AND replied_success_at IS NULL RETURNING true""",
        now,
        reply,
        settlement_id,
        listener,
    )
    if told is None and again:
        told = await db.fetchval(
            """SELECT true FROM settlement
               WHERE id = $1 AND listener = $2 AND replied_success_at = $3""",
            settlement_id,
            listener,
            now,
        )
    return told is not None


async def mark_all_replied(now: int, db: Connection) -> int:
    await keep_others_out(db)
    status = await db.execute(
        """UPDATE settlement SET replied_success_at = $1
           WHERE replied_success_at IS NULL AND state NOT IN ('failed', 'lost')""",
        now,
    )
    return int(status.split()[-1])


async def keep_reply(settlement_id: str, reply: bytes, db: Connection) -> None:
    await db.execute(
        "UPDATE settlement SET reply = $1 WHERE id = $2 AND state IN ('failed', 'lost')",
        reply,
        settlement_id,
    )

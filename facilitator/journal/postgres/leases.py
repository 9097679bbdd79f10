"""Whose turn it is to watch a chain: leases with fencing tokens, by the database's clock alone.

A process that was frozen, or cut off, may not know that its lease has ended. So it writes under a
share lock of the lease's row, and only while the token there is its own: who takes the lease waits
for what is being written, and nothing is written after that.
"""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from facilitator.journal.engine import Connection, LostLease, StoreLocked
from facilitator.journal.postgres.connection import PostgresConnection
from facilitator.journal.postgres.pool import Operation
from facilitator.journal.store import Fence

T = TypeVar("T")

# Milliseconds after its lease has ended in which a process may come back to it: one whose chain
# does not answer waits 10 s for that, and as long again before it tries once more.
COMES_BACK_MS = 20_000

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"


async def lead(db: Connection, chain_id: int, holder: str, lease_ms: int) -> int | None:
    # Who does not get the lease must not lock its row, or it could hold up what the holder writes:
    # so no ON CONFLICT DO UPDATE, which locks the row whatever its WHERE says.
    token = await db.fetchval(
        f"""WITH held AS (
                UPDATE chain_loop SET holder = $2, held_until = {_NOW} + $3::bigint,
                    fencing_token = fencing_token + (holder <> $2)::int
                WHERE chain_id = $1 AND (holder = $2 OR held_until <= {_NOW})
                RETURNING fencing_token
            ), first AS (
                INSERT INTO chain_loop (chain_id, holder, held_until, fencing_token)
                SELECT $1, $2, {_NOW} + $3::bigint, 1
                WHERE NOT EXISTS (SELECT FROM chain_loop WHERE chain_id = $1)
                ON CONFLICT (chain_id) DO NOTHING
                RETURNING fencing_token
            ) SELECT fencing_token FROM held UNION ALL SELECT fencing_token FROM first""",
        chain_id,
        holder,
        lease_ms,
    )
    return None if token is None else int(token)


async def step_down(db: Connection, chain_id: int, holder: str) -> None:
    await db.execute(
        "UPDATE chain_loop SET held_until = 0 WHERE chain_id = $1 AND holder = $2", chain_id, holder
    )


async def refuse_shared(db: Connection) -> None:
    """Raise StoreLocked where a process has a chain's lease, or has lost it a moment ago and did
    not step down. Leases, since nothing else of a process can be seen behind PgBouncer.
    """
    row = await db.fetchrow(
        f"""SELECT chain_id, held_until + $1::bigint - {_NOW} AS remaining FROM chain_loop
            WHERE held_until + $1::bigint > {_NOW} ORDER BY held_until DESC LIMIT 1""",
        COMES_BACK_MS,
    )
    if row is not None:
        raise StoreLocked(
            f"a replica uses this journal (it watches chain {row['chain_id']}): stop all replicas"
            f" first; if none runs, one was killed: try again in {-(-row['remaining'] // 1000)} s"
        )


async def keep_others_out(db: Connection) -> None:
    """As `refuse_shared`; until this transaction ends, nobody takes a lease or writes by one."""
    await db.execute("LOCK TABLE chain_loop IN EXCLUSIVE MODE")
    await refuse_shared(db)


class _Pool(Protocol):
    async def write(self, operation: Operation[T], locks: Iterable[int] = ()) -> T: ...

    async def read(self, operation: Operation[T]) -> T: ...


class FencedPool:
    """A pool through which nothing is written without the lease."""

    def __init__(self, pool: _Pool, fence: Fence) -> None:
        self._pool = pool
        self._fence = fence

    async def write(self, operation: Operation[T], locks: Iterable[int] = ()) -> T:
        """As the pool does; LostLease where the lease is another process's by now."""
        # As of now: what waits for a connection must not be written by a later lease.
        chain_id, token = self._fence.chain_id, self._fence.token

        async def fenced(db: PostgresConnection) -> T:
            held = await db.fetchval(
                """SELECT true FROM chain_loop
                   WHERE chain_id = $1 AND fencing_token = $2 FOR SHARE""",
                chain_id,
                token,
            )
            if held is None:
                raise LostLease("another replica watches this chain now")
            return await operation(db)

        return await self._pool.write(fenced, locks)

    async def read(self, operation: Operation[T]) -> T:
        """As the pool does."""
        return await self._pool.read(operation)

    look_up = read

    async def close(self) -> None:
        """The pool is its owner's to close."""

"""The tables of `schema` in PostgreSQL, and their migration.

The steps are the same ones, in PostgreSQL's words; so a step that is added there is one here.
"""

import re

from facilitator.journal.postgres.pool import Connection, Pool
from facilitator.journal.postgres.tally import TALLY
from facilitator.journal.schema import APPLICATION_ID, MIGRATIONS, refuse_newer
from facilitator.journal.store import StoreError

# Seconds. Replicas that start together wait for the one that migrates.
MIGRATION_TIMEOUT = 600.0
# A step that waits for a lock has all others wait behind it: rather give up, and be started again.
MIGRATION_LOCK_TIMEOUT_MS = 5_000

_WORDS = (
    (r"\bINTEGER NOT NULL PRIMARY KEY\b", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
    (r"\bINTEGER\b", "BIGINT"),
    (r"\bBLOB\b", "BYTEA"),
    (r"\) STRICT(, WITHOUT ROWID)?;", ");"),
    # So that an operator may make those of a very large table beforehand, with CONCURRENTLY.
    (r"\bCREATE INDEX\b", "CREATE INDEX IF NOT EXISTS"),
)
# By number of the step: what SQLite has by itself. Attempts are told apart by their rowid there.
_BESIDE = {0: "ALTER TABLE attempt ADD COLUMN number BIGINT GENERATED ALWAYS AS IDENTITY;"}


# By number of the step: what is done in another way here.
_INSTEAD = {5: TALLY}


def in_postgres(number: int) -> str:
    """A step of the schema, counted from 0, as PostgreSQL takes it."""
    step = _INSTEAD.get(number, MIGRATIONS[number])
    for pattern, word in _WORDS:
        step = re.sub(pattern, word, step)
    return step + _BESIDE.get(number, "")


async def version_of(pool: Pool) -> int:
    """How many steps were made. Raises StoreError."""
    return await pool.read(_version)


async def migrate(pool: Pool) -> tuple[int, int]:
    """Bring the tables up to date: how many steps were made before, and are now.

    Each step is a transaction of its own, so that its locks are held for that step alone. Of
    several replicas that start at once, one makes a step and the others wait for it. Raises
    StoreError, where the schema is too new for this program as well.
    """
    before = after = await version_of(pool)
    refuse_newer(before)
    while after < len(MIGRATIONS):
        after = await pool.write(_make_step)
    return before, after


async def _version(db: Connection) -> int:
    # Not by to_regclass: it answers from a cache that waiting for an advisory lock leaves as it is.
    there = await db.fetchval(
        """SELECT true FROM pg_tables
           WHERE tablename = 'facilitator_schema' AND schemaname = ANY (current_schemas(false))"""
    )
    if there is None:
        return 0
    return int(await db.fetchval("SELECT version FROM facilitator_schema"))


async def _make_step(db: Connection) -> int:
    """The next one, unless all were made meanwhile: how many there are made now."""
    await db.execute("SET LOCAL lock_timeout = 0")
    # Of the transaction, not of the session: PgBouncer may give the next one to somebody else.
    await db.execute(f"SELECT pg_advisory_xact_lock({APPLICATION_ID})", timeout=MIGRATION_TIMEOUT)
    await db.execute(f"SET LOCAL lock_timeout = {MIGRATION_LOCK_TIMEOUT_MS}")
    made = await _version(db)
    refuse_newer(made)
    if made >= len(MIGRATIONS):
        return made
    if made == 0:
        await db.execute(
            """CREATE TABLE facilitator_schema (version BIGINT NOT NULL);
               INSERT INTO facilitator_schema VALUES (0);"""
        )
    await db.execute(in_postgres(made), timeout=MIGRATION_TIMEOUT)
    await db.execute("UPDATE facilitator_schema SET version = $1", made + 1)
    return made + 1


async def refuse_forgetful(pool: Pool) -> None:
    """A server that acknowledges what a crash may take away keeps no journal. Raises StoreError."""
    if await pool.read(lambda db: db.fetchval("SHOW synchronous_commit")) == "off":
        raise StoreError("synchronous_commit is off in PostgreSQL: a crash would lose payments")

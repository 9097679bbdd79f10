"""The tables of `schema` in PostgreSQL, and their migration.

The steps are the same ones, in PostgreSQL's words; so a step that is added there is one here.

Triggers put down each settlement that is finished, or is so no more, as a row of its own in the
tally: a counter that all of them raised would have every replica wait for every other one. What the
rows come to is exact at any moment, and now and then they are folded into a few.
"""

import re

from facilitator.journal.engine import StoreError
from facilitator.journal.postgres.connection import PostgresConnection
from facilitator.journal.postgres.pool import Pool
from facilitator.journal.schema import APPLICATION_ID, FIRST_VERSION, MIGRATIONS, next_step

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
_TALLY = """
    CREATE TABLE settlement_tally (
        chain_id BIGINT NOT NULL,
        state TEXT NOT NULL,
        number BIGINT NOT NULL
    );
    CREATE INDEX settlement_tally_chain ON settlement_tally (chain_id);
    CREATE FUNCTION settlement_tally() RETURNS trigger LANGUAGE plpgsql AS $tally$
    BEGIN
        IF TG_OP <> 'INSERT' AND OLD.state IN ('confirmed', 'failed', 'lost') THEN
            INSERT INTO settlement_tally VALUES (OLD.chain_id, OLD.state, -1);
        END IF;
        IF TG_OP <> 'DELETE' AND NEW.state IN ('confirmed', 'failed', 'lost') THEN
            INSERT INTO settlement_tally VALUES (NEW.chain_id, NEW.state, 1);
        END IF;
        RETURN NULL;
    END $tally$;
    CREATE TRIGGER tally_inserted AFTER INSERT ON settlement FOR EACH ROW
        WHEN (NEW.state IN ('confirmed', 'failed', 'lost')) EXECUTE FUNCTION settlement_tally();
    CREATE TRIGGER tally_updated AFTER UPDATE OF state ON settlement FOR EACH ROW
        WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION settlement_tally();
    CREATE TRIGGER tally_deleted AFTER DELETE ON settlement FOR EACH ROW
        EXECUTE FUNCTION settlement_tally();
"""

# By number of the step: what SQLite has by itself (its rowid is the order of attempts), or in
# another way.
_NUMBER = "ALTER TABLE attempt ADD COLUMN number BIGINT GENERATED ALWAYS AS IDENTITY;"
_BESIDE = {0: _NUMBER + _TALLY}


def in_postgres(number: int) -> str:
    """A step of the schema, counted from 0, as PostgreSQL takes it."""
    step = MIGRATIONS[number]
    for pattern, word in _WORDS:
        step = re.sub(pattern, word, step)
    return step + _BESIDE.get(number, "")


async def version_of(pool: Pool) -> int:
    """The version of the tables; 0 where there are none yet. Raises StoreError."""
    return await pool.read(_version)


async def migrate(pool: Pool) -> tuple[int, int]:
    """Bring the tables up to date: their version before, and now.

    Each step is a transaction of its own, so that its locks are held for that step alone. Of
    several replicas that start at once, one makes a step and the others wait for it. Raises
    StoreError, where the schema is too new for this program as well.
    """
    before = after = await version_of(pool)
    while next_step(after) is not None:
        after = await pool.write(_make_step)
    return before, after


async def _version(db: PostgresConnection) -> int:
    # Not by to_regclass: it answers from a cache that waiting for an advisory lock leaves as it is.
    there = await db.fetchval(
        """SELECT true FROM pg_tables
           WHERE tablename = 'facilitator_schema' AND schemaname = ANY (current_schemas(false))"""
    )
    if there is None:
        return 0
    return int(await db.fetchval("SELECT version FROM facilitator_schema"))


async def _make_step(db: PostgresConnection) -> int:
    """The next one, unless all were made meanwhile: the version of the tables now."""
    await db.execute("SET LOCAL lock_timeout = 0")
    # Of the transaction, not of the session: PgBouncer may give the next one to somebody else.
    await db.execute(f"SELECT pg_advisory_xact_lock({APPLICATION_ID})", timeout=MIGRATION_TIMEOUT)
    await db.execute(f"SET LOCAL lock_timeout = {MIGRATION_LOCK_TIMEOUT_MS}")
    before = await _version(db)
    step = next_step(before)
    if step is None:
        return before
    if before == 0:
        await db.execute(
            """CREATE TABLE facilitator_schema (version BIGINT NOT NULL);
               INSERT INTO facilitator_schema VALUES (0);"""
        )
    await db.execute(in_postgres(step), timeout=MIGRATION_TIMEOUT)
    await db.execute("UPDATE facilitator_schema SET version = $1", FIRST_VERSION + step)
    return FIRST_VERSION + step


async def refuse_forgetful(pool: Pool) -> None:
    """A server that acknowledges what a crash may take away keeps no journal. Raises StoreError."""
    if await pool.read(lambda db: db.fetchval("SHOW synchronous_commit")) == "off":
        raise StoreError("synchronous_commit is off in PostgreSQL: a crash would lose payments")

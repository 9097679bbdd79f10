"""Brings a journal's tables up to date, and copies a journal from a SQLite file into an empty
PostgreSQL database. No service may run on either meanwhile. Settlements in flight are copied as
well, and the next start of the service resumes them.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from facilitator.config.database import PostgreSQL
from facilitator.journal.engine import StoreError
from facilitator.journal.open import require_asyncpg
from facilitator.journal.pruning import FINISHED
from facilitator.journal.schema import APPLICATION_ID, KNOWN_VERSION, next_step
from facilitator.journal.sqlite.connection import connect_reader
from facilitator.journal.sqlite.file import refuse_moved, version_of
from facilitator.journal.sqlite.store import SQLiteStore

if TYPE_CHECKING:
    from facilitator.journal.postgres.connection import PostgresConnection
    from facilitator.journal.postgres.pool import Pool

# Tables with the column that their rows are ordered by, each after those that it refers to. The
# rowid of an attempt gives the order of signing.
TABLES: Mapping[str, str] = {
    "settlement": "rowid",
    "transaction": "id",
    "attempt": "rowid",
    "settlement_transaction": "settlement_id",
    "signer": "chain_id",
    "gas_spent": "chain_id",
    "used_key": "key",
}
# Settlements counted by state, by triggers: derived from the rows, so it is not copied.
TALLY = "settlement_tally"
# The replicas that watch chains; not copied. A row in the target means that it has been served.
LEASES = "chain_loop"

BATCH = 5_000  # rows a COPY; reading as many takes far less than PostgreSQL's idle timeout
COPY_TIMEOUT = 600.0  # seconds for one table or batch


async def schema_version(database: Path | PostgreSQL) -> int:
    """Return the schema version of the journal, 0 where there are no tables yet. Writes nothing
    and does not disturb a running service. Raises StoreError.
    """
    if isinstance(database, Path):
        version = _version_of_file(database)
    else:
        version = await _on_server(database, only_look=True)
    next_step(version)  # raises for a version that it does not know
    return version


async def migrate(database: Path | PostgreSQL) -> None:
    """Make the schema steps that are missing. Raises StoreError, StoreLocked where a service runs
    on the SQLite file.
    """
    if isinstance(database, Path):
        await (await SQLiteStore.open(database)).close()
    else:
        await _on_server(database, only_look=False)


async def _on_server(database: PostgreSQL, *, only_look: bool) -> int:
    require_asyncpg()
    from facilitator.journal.postgres import schema as postgres_schema  # noqa: PLC0415 - only where asyncpg is there
    from facilitator.journal.postgres.pool import Pool  # noqa: PLC0415

    pool = await Pool.open(database)
    try:
        if only_look:
            return await postgres_schema.version_of(pool)
        _, version = await postgres_schema.migrate(pool)
        return version
    finally:
        await pool.close()


def _version_of_file(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        uri = f"file:{quote(str(path.resolve()))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            refuse_moved(db)
            (application,) = db.execute("PRAGMA application_id").fetchone()
            version = version_of(db)
    except (sqlite3.Error, StoreError) as error:
        raise StoreError(f"cannot read the journal {path}: {error}") from None
    if version and application != APPLICATION_ID:
        raise StoreError(f"cannot read the journal {path}: it is the database of another program")
    return version


async def copy_journal(source: Path, target: PostgreSQL) -> dict[str, int]:
    """Copy everything in the file, in one transaction; return the number of rows by table. The
    file's tables are brought up to date, its rows stay as they are, and before the commit it is
    marked as moved, so that nothing opens it any more.

    Raises StoreError, StoreLocked where a service runs on the file, and writes nothing where the
    target holds any rows. Where it is unknown whether the commit happened, the file stays marked:
    no service can run on it, so the two are never both in use.
    """
    if not await schema_version(source):
        raise StoreError(f"there is no journal {source}")
    require_asyncpg()
    from facilitator.journal.postgres import schema as postgres_schema  # noqa: PLC0415 - only where asyncpg is there
    from facilitator.journal.postgres.pool import Pool  # noqa: PLC0415

    held = await SQLiteStore.open(source)  # locks out other processes
    try:
        _refuse_newer(source, await schema_version(source))
        pool = await Pool.open(target)
        try:
            await postgres_schema.refuse_forgetful(pool)
            _, version = await postgres_schema.migrate(pool)
            _refuse_newer(target, version)
            return await _copy(source, target, pool, held)
        finally:
            await pool.close()
    finally:
        await held.close()


def _refuse_newer(journal: Path | PostgreSQL, version: int) -> None:
    """Raise StoreError for a newer schema: it may have columns that this program does not copy."""
    if version != KNOWN_VERSION:
        raise StoreError(
            f"the journal {journal} has schema version {version}, this program {KNOWN_VERSION}:"
            " copy with the newer program"
        )


async def _copy(
    source: Path, target: PostgreSQL, pool: "Pool", held: SQLiteStore
) -> dict[str, int]:
    async def copy(db: "PostgresConnection") -> dict[str, int]:
        # A service that starts meanwhile waits, and then finds the whole journal.
        names = ", ".join(f'"{name}"' for name in (*TABLES, LEASES))
        await db.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
        for name in (*TABLES, LEASES):
            if await db.fetchval(f'SELECT EXISTS (SELECT FROM "{name}")'):
                raise StoreError(f"the journal {target} is not empty: there are rows in {name}")
        rows = {}
        with closing(connect_reader(source)) as reader:
            for name, order in TABLES.items():
                columns = [column[1] for column in reader.execute(f'PRAGMA table_info("{name}")')]
                for batch in _batches(reader, name, columns, order):
                    await db.driver.copy_records_to_table(
                        name, records=batch, columns=columns, timeout=COPY_TIMEOUT
                    )
                (there,) = reader.execute(f'SELECT count(*) FROM "{name}"').fetchone()
                copied = await db.fetchval(f'SELECT count(*) FROM "{name}"')
                if copied != there:
                    raise StoreError(f"{copied} of {there} rows of {name} were copied")
                rows[name] = there
        # Rebuild the tally compactly: its trigger has inserted a row for each finished settlement.
        await db.execute(f"DELETE FROM {TALLY}")
        await db.execute(
            f"""INSERT INTO {TALLY} SELECT chain_id, state, count(*) FROM settlement
                WHERE state IN {FINISHED} GROUP BY chain_id, state""",
            timeout=COPY_TIMEOUT,
        )
        # The copied transactions keep their ids; the next one is numbered after them.
        await db.execute(
            """SELECT setval(pg_get_serial_sequence('"transaction"', 'id'),
                             coalesce(max(id), 0) + 1, false) FROM "transaction" """
        )
        # Before the commit, so that a service can never run on both.
        await held.mark_moved(str(target))
        return rows

    from facilitator.journal.postgres.pool import CommitUnknown  # noqa: PLC0415 - as above

    try:
        return await pool.write(copy)
    except CommitUnknown as unknown:
        raise StoreError(
            f"{unknown}; look into {target}. Where the rows are there, the move is done. Where none"
            f" are, take {source} into use again (`facilitator migrate --reopen`), and copy anew"
        ) from None
    except sqlite3.Error as error:
        raise StoreError(f"the journal {source} cannot be read: {error}") from None


def _batches(
    reader: sqlite3.Connection, name: str, columns: list[str], order: str
) -> Iterator[list[tuple[object, ...]]]:
    names = ", ".join(f'"{column}"' for column in columns)
    cursor = reader.execute(f'SELECT {names} FROM "{name}" ORDER BY {order}')
    while batch := cursor.fetchmany(BATCH):
        yield [tuple(row) for row in batch]

"""Bringing a journal's tables up to date, apart from running the service."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from facilitator.config.database import PostgreSQL
from facilitator.journal.open import require_asyncpg
from facilitator.journal.schema import APPLICATION_ID, refuse_newer
from facilitator.journal.sqlite.moved import refuse_moved
from facilitator.journal.sqlite.store import SQLiteStore
from facilitator.journal.store import StoreError


async def schema_version(database: Path | PostgreSQL) -> int:
    """How many steps the journal's tables are through; 0 where there are none yet. Nothing is
    written, and a running service is not disturbed. Raises StoreError.
    """
    if isinstance(database, Path):
        version = _version_of_file(database)
    else:
        version = await _on_server(database, only_look=True)
    refuse_newer(version)
    return version


async def migrate(database: Path | PostgreSQL) -> None:
    """Make the steps that are missing. Raises StoreError, StoreLocked where a service runs on the
    SQLite file.
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
            (version,) = db.execute("PRAGMA user_version").fetchone()
    except (sqlite3.Error, StoreError) as error:
        raise StoreError(f"cannot read the journal {path}: {error}") from None
    if version and application != APPLICATION_ID:
        raise StoreError(f"cannot read the journal {path}: it is the database of another program")
    return int(version)

"""The journal that the configuration names, whichever engine keeps it."""

import importlib.util
from pathlib import Path

from facilitator.config.database import PostgreSQL
from facilitator.journal.sqlite.store import SQLiteStore
from facilitator.journal.store import Store, StoreError


async def open_store(database: Path | PostgreSQL) -> Store:
    """Open a journal and bring its tables up to date. Raises StoreError, whose one line says why
    that cannot be done.
    """
    if isinstance(database, Path):
        return await SQLiteStore.open(database)
    require_asyncpg()
    from facilitator.journal.postgres.store import PostgresStore  # noqa: PLC0415 - only where it is there

    return await PostgresStore.open(database)


def require_asyncpg() -> None:
    """Raise StoreError where the optional package is missing."""
    if importlib.util.find_spec("asyncpg") is None:
        raise StoreError(
            "asyncpg is not installed, which a journal in PostgreSQL needs: install"
            " the extra `postgres`, or name a SQLite file in DATABASE_URL"
        )

"""The engines that keep a journal: every law of the store is tested on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # so that tests/conftest.py may be loaded without a database
    from facilitator.journal.store import Store
    from tests.support.postgres import Server

ENGINES = ("sqlite", "postgres", "pgbouncer")
DATABASE = "laws"
MOVED = "moved"  # where a journal is moved to

# TRUNCATE makes every file of a table anew: only those that hold something are worth that.
EMPTY = """
    DO $$ DECLARE name text; filled boolean; BEGIN
        FOR name IN SELECT quote_ident(tablename) FROM pg_tables
            WHERE schemaname = 'public' AND tablename <> 'facilitator_schema'
        LOOP
            EXECUTE 'SELECT EXISTS (SELECT FROM ' || name || ')' INTO filled;
            IF filled THEN
                EXECUTE 'TRUNCATE ' || name || ' RESTART IDENTITY CASCADE';
            END IF;
        END LOOP;
    END $$"""

Engine = Callable[[], Awaitable["Store"]]


def engine_of(name: str, request: pytest.FixtureRequest, folder: Path) -> Engine:
    """What opens one and the same journal, empty at first, again and again."""
    if name == "sqlite":
        from facilitator.journal.sqlite.store import SQLiteStore

        return lambda: SQLiteStore.open(folder / "journal.db")
    import asyncpg

    from facilitator.journal.postgres.store import PostgresStore
    from tests.support.postgres import settings

    server: Server = request.getfixturevalue("postgres")
    way: Server = request.getfixturevalue(name)
    # Behind PgBouncer a statement is gone with the transaction that prepared it.
    cache = 100 if way is server else 0
    first = asyncio.Lock()
    emptied = False

    async def opened() -> Store:
        nonlocal emptied
        async with first:
            if not emptied:
                connection = await asyncpg.connect(server.url(DATABASE))
                await connection.execute(EMPTY)
                await connection.close()
                emptied = True
        return await PostgresStore.open(settings(way.url(DATABASE), statement_cache=cache))

    return opened


def empty(server: Server) -> None:
    """Every table without a row, but for the one that says which tables there are."""
    server.execute(DATABASE, EMPTY)

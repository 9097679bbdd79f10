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

# TRUNCATE makes every file of a table anew, which takes longer than a test writes: it is for large
# tables only. Replicas fire no triggers, of foreign keys neither, so that any order will do.
EMPTY = """
    DO $$ DECLARE name text; BEGIN
        SET LOCAL session_replication_role = replica;
        FOR name IN SELECT quote_ident(tablename) FROM pg_tables
            WHERE schemaname = 'public' AND tablename <> 'facilitator_schema'
        LOOP
            IF pg_relation_size(name::regclass) > 500000 THEN
                EXECUTE 'TRUNCATE ' || name || ' CASCADE';
            ELSE
                EXECUTE 'DELETE FROM ' || name;
            END IF;
        END LOOP;
        PERFORM setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
            FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL;
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

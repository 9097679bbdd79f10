"""The engines that keep a journal: every law of the store is tested on each of them."""

from __future__ import annotations

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

Engine = Callable[[], Awaitable["Store"]]


def engine_of(name: str, request: pytest.FixtureRequest, folder: Path) -> Engine:
    """What opens one and the same journal, empty at first, again and again."""
    if name == "sqlite":
        from facilitator.journal.sqlite.store import SQLiteStore

        return lambda: SQLiteStore.open(folder / "journal.db")
    from facilitator.journal.postgres.store import PostgresStore
    from tests.support.postgres import settings

    server: Server = request.getfixturevalue("postgres")
    way: Server = request.getfixturevalue(name)
    empty(server)
    # Behind PgBouncer a statement is gone with the transaction that prepared it.
    cache = 100 if way is server else 0
    return lambda: PostgresStore.open(settings(way.url(DATABASE), statement_cache=cache))


def empty(server: Server) -> None:
    """Every table without a row, but for the one that says which tables there are."""
    server.execute(
        DATABASE,
        """DO $$ DECLARE tables text; BEGIN
               SELECT string_agg(quote_ident(tablename), ', ') INTO tables FROM pg_tables
                   WHERE schemaname = 'public' AND tablename <> 'facilitator_schema';
               IF tables IS NOT NULL THEN
                   EXECUTE 'TRUNCATE ' || tables || ' RESTART IDENTITY';
               END IF;
           END $$""",
    )

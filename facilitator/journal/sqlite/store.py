"""The journal in one SQLite file, for one process."""

import os
import sqlite3
from functools import partial
from pathlib import Path

from facilitator.journal.engine import Operation, StoreError, T
from facilitator.journal.sqlite.connection import run_through
from facilitator.journal.sqlite.file import mark_moved, open_file, version_of
from facilitator.journal.sqlite.writer import Writer
from facilitator.journal.store import Store


class SQLiteEngine:
    """Runs what writes in a thread that commits for many at once."""

    def __init__(self, writer: Writer, reader: sqlite3.Connection, lock: int) -> None:
        self.writer = writer
        self._reader = reader
        self._lock: int | None = lock

    async def write(self, operation: Operation[T]) -> T:
        """As the protocol says."""
        return await self.writer.run(partial(run_through, operation))

    async def read(self, operation: Operation[T]) -> T:
        """As the protocol says: nothing is written meanwhile."""
        return await self.write(operation)

    async def look_up(self, operation: Operation[T]) -> T:
        """Look up rows by an index, in the caller's own thread: a few pages from memory, where
        handing it to another thread costs ten times as much. No writer makes a reader wait (WAL),
        and what was committed before is seen.
        """
        try:
            return run_through(operation, self._reader)
        except sqlite3.Error as error:
            raise StoreError(f"the journal cannot be read: {error}") from None

    async def close(self) -> None:
        """As the protocol says."""
        await self.writer.close()
        self._reader.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class SQLiteStore(Store):
    """`Store` on one file. Use `SQLiteStore.open`."""

    def __init__(self, engine: SQLiteEngine) -> None:
        super().__init__(engine)
        self._writer = engine.writer

    @classmethod
    async def open(cls, path: str | Path) -> "SQLiteStore":
        """Open or create the file, as its only user. Raises StoreError, StoreLocked."""
        connection, reader, lock = open_file(Path(path))
        return cls(SQLiteEngine(Writer(connection), reader, lock))

    async def mark_moved(self, target: str) -> None:
        """Once its rows are in another database, `target` in words without secrets, the file is
        opened no more.
        """
        await self._writer.run(partial(mark_moved, target))

    async def ping(self) -> None:
        """As the facade says. Rewriting the version that is there is a real write, and changes
        nothing.
        """
        await self._writer.run(
            lambda db: db.execute(f"PRAGMA user_version = {version_of(db)}").rowcount
        )

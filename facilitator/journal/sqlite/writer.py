"""One thread that owns the SQLite connection, with group commit.

A commit waits for the disk; so what is asked while one is under way shares the next. Every
operation has a savepoint of its own: one that fails takes nothing with it. Nobody hears that an
operation is done before its commit is.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from facilitator.journal.engine import StoreError, Undo

# Operations a commit; more would only delay the first of them.
BATCH_LIMIT = 256

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]


class _Task:
    __slots__ = ("error", "future", "operation", "result")

    def __init__(self, operation: Operation[Any], future: asyncio.Future[Any]) -> None:
        self.operation = operation
        self.future = future
        self.result: object = None
        self.error: Exception | None = None


class Writer:
    """Runs operations on one database file, each all or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` in autocommit mode; from now on only the thread of this object uses it."""
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Task | None] = SimpleQueue()
        self._closed = False
        self._thread = Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    async def run(self, operation: Operation[T]) -> T:
        """The operation's result, once it is committed. Raises what it raised, or StoreError."""
        if self._closed:
            raise StoreError("the journal is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Task(operation, future))
        return await future

    async def close(self) -> None:
        """Run what was asked, then close the connection."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        ended = False
        while not ended:
            first = self._queue.get()
            batch = [] if first is None else [first]
            ended = first is None
            while not ended and len(batch) < BATCH_LIMIT:
                try:
                    task = self._queue.get_nowait()
                except Empty:
                    break
                if task is None:
                    ended = True
                else:
                    batch.append(task)
            if batch:
                self._commit(batch)
                self._deliver(batch)
        self._connection.close()

    def _commit(self, batch: list[_Task]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for task in batch:
                self._try(task)
            connection.execute("COMMIT")
        except Exception as error:
            # Disk full, I/O error, busy: whether the disk has any of it is unknown to all of them.
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            for task in batch:
                task.error = StoreError(f"the journal could not be written: {error}")

    def _try(self, task: _Task) -> None:
        connection = self._connection
        connection.execute("SAVEPOINT operation")
        try:
            task.result = task.operation(connection)
        except Undo as undo:
            connection.execute("ROLLBACK TO operation")
            task.result = undo.result
        except BaseException as error:  # nothing ends this thread while callers wait for it
            reported = _as_reported(error)
            if not connection.in_transaction:
                raise reported from error  # SQLite has undone the whole batch by itself
            connection.execute("ROLLBACK TO operation")
            task.error = reported
        connection.execute("RELEASE operation")

    def _deliver(self, batch: list[_Task]) -> None:
        def deliver() -> None:
            for task in batch:
                if task.future.done():
                    continue  # its caller went away
                if task.error is None:
                    task.future.set_result(task.result)
                else:
                    task.future.set_exception(task.error)

        with suppress(RuntimeError):  # the event loop is closed: nobody waits
            self._loop.call_soon_threadsafe(deliver)


def _as_reported(error: BaseException) -> Exception:
    """The exception that the caller of an operation gets, which raised `error`."""
    if isinstance(error, sqlite3.Error):
        return StoreError(f"the journal refused: {error}")
    if isinstance(error, StopIteration) or not isinstance(error, Exception):
        # A future takes neither of them.
        return StoreError(f"the operation was broken off by {type(error).__name__}")
    return error

"""Connections to PostgreSQL, and what a database transaction on one of them means to its caller.

Nothing here depends on the session of a connection, so that PgBouncer may hand out another one for
every transaction: settings are made for one transaction, and a statement that is prepared is used
in the transaction that prepared it where the cache of statements is off.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import asyncpg

from facilitator.config.database import PostgreSQL
from facilitator.config.parsers import ConfigError
from facilitator.journal.engine import StoreError, Undo
from facilitator.journal.postgres.connection import Driver, PostgresConnection
from facilitator.telemetry.redaction import add_changing_secret

CONNECT_TIMEOUT = 5.0  # seconds
ACQUIRE_TIMEOUT = 10.0  # seconds that an operation waits for a connection of the pool
COMMAND_TIMEOUT = 10.0  # seconds that one statement may take
CLOSE_TIMEOUT = 10.0  # seconds for operations that are under way when the pool is closed

# A replica that is frozen or cut off in the middle of a transaction keeps its locks that long.
IDLE_TIMEOUT_MS = 5_000
# Longer than the above: who waits for the locks of such a replica gets them.
LOCK_TIMEOUT_MS = 8_000

# One round trip. What an operator has set as the default for transactions is not relied on.
_SETTINGS = (
    f"SET LOCAL idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS};"
    f" SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"
)
BEGIN_WRITE = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {_SETTINGS}"
# Several statements that see one and the same state.
BEGIN_READ = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_SETTINGS}"

FAULTS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What asyncpg raises where the server's last word came while nothing was asked.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

T = TypeVar("T")


Operation = Callable[[PostgresConnection], Awaitable[T]]


class CommitUnknown(StoreError):
    """The connection broke while the commit was under way: it may have happened."""


class Pool:
    """Runs operations, each in a transaction of its own. Use `Pool.open`."""

    def __init__(self, connections: asyncpg.Pool) -> None:
        self._connections = connections
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    async def open(cls, settings: PostgreSQL) -> "Pool":
        """Connect once, to see that it works. Raises StoreError."""
        try:
            connections = await asyncpg.create_pool(
                **connect_arguments(settings),
                min_size=1,
                max_size=settings.pool_size,
                reset=_leave_as_it_is,
            )
        except (*FAULTS, ValueError) as fault:  # a file of certificates may be none
            raise StoreError(f"cannot open the journal {settings}: {describe(fault)}") from None
        return cls(connections)

    async def close(self) -> None:
        """Finish what was asked, then let go of the connections."""
        self._closed = True
        if self._under_way:
            await asyncio.wait(set(self._under_way))
        try:
            await asyncio.wait_for(self._connections.close(), CLOSE_TIMEOUT)
        except FAULTS:
            self._connections.terminate()

    async def write(self, operation: Operation[T], locks: Iterable[int] = ()) -> T:
        """The operation's result, once it is committed, or once it is rolled back by Undo. It runs
        under the advisory locks of these numbers, taken in this order.

        Raises what the operation raised, StoreError where nothing was written, and CommitUnknown.
        A caller that is cancelled does not end what it has asked for.
        """
        taken = "".join(f"; SELECT pg_advisory_xact_lock({number:d})" for number in locks)
        return await self._finish(self._transact(BEGIN_WRITE + taken, operation))

    async def read(self, operation: Operation[T]) -> T:
        """The result of an operation that only reads, from one state of the database."""
        return await self._finish(self._transact(BEGIN_READ, operation))

    async def look_up(self, operation: Operation[T]) -> T:
        """As `read`: one statement sees one state anyway."""
        return await self.read(operation)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            work.close()
            raise StoreError("the journal is closed")
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone away: nobody else would look at it

    async def _transact(self, begin: str, operation: Operation[T]) -> T:
        async with self._connection() as connection:
            try:
                await connection.execute(begin)
                result = await operation(PostgresConnection(connection))
            except Undo as undo:
                await _roll_back(connection)
                return undo.result  # type: ignore[return-value]  # said by who raises it
            except FAULTS as fault:
                await _roll_back(connection)
                raise StoreError(f"the journal refused: {describe(fault)}") from fault
            except BaseException:
                await _roll_back(connection)
                raise
            try:
                await connection.execute("COMMIT")
            except FAULTS as fault:
                _break_off(connection)
                raise CommitUnknown(f"the journal may be written: {describe(fault)}") from fault
            return result

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Driver]:
        try:
            connection = await self._connections.acquire(timeout=ACQUIRE_TIMEOUT)
        except (*FAULTS, ConfigError) as fault:
            raise StoreError(f"the journal is out of reach: {describe(fault)}") from None
        try:
            yield connection
        finally:
            with suppress(*FAULTS):  # a broken one is thrown away
                await self._connections.release(connection)


def connect_arguments(settings: PostgreSQL) -> dict[str, object]:
    """The arguments for asyncpg. The URL's parts are given one by one, since asyncpg would read
    what it does not find in a URL from the environment.
    """
    return {
        "dsn": settings.tls_url,
        "host": settings.host,
        "port": settings.port,
        "user": settings.user,
        # A file is read anew for every connection; None has asyncpg look into PGPASSFILE.
        "password": partial(_read_password, settings)
        if settings.password_file
        else settings.password,
        "database": settings.name,
        "timeout": CONNECT_TIMEOUT,
        "command_timeout": COMMAND_TIMEOUT,
        "statement_cache_size": settings.statement_cache,
        "server_settings": {"application_name": "facilitator"},
    }


def _read_password(settings: PostgreSQL) -> str | None:
    """As the file has it now, known to the log as a secret. Raises ConfigError."""
    password = settings.read_password()
    if password is not None:
        add_changing_secret(password)
    return password


def describe(fault: Exception) -> str:
    """A fault in words that hold no value of any row, and no password."""
    if isinstance(fault, asyncpg.PostgresError):
        return f"{type(fault).__name__} ({fault.sqlstate}): {fault.message}"
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    if isinstance(fault, asyncpg.InterfaceError | ConfigError | StoreError):
        return str(fault)
    return type(fault).__name__


async def _roll_back(connection: Driver) -> None:
    try:
        await connection.execute("ROLLBACK")
    except FAULTS:
        _break_off(connection)  # and the server rolls back what it has of it


def _break_off(connection: Driver) -> None:
    with suppress(*FAULTS):  # one that has ended is the pool's again already
        connection.terminate()


async def _leave_as_it_is(connection: object) -> None:
    """Nothing was set that outlives a transaction: asyncpg's own reset costs a round trip."""

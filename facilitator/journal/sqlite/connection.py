"""A connection to the SQLite file, on which operations run without waiting for anything.

An operation's text is PostgreSQL's; what SQLite says in another way is put into its words here.
"""

import re
import sqlite3
from collections.abc import Coroutine, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from facilitator.domain.settlement import Attempt
from facilitator.journal.engine import Operation, Row
from facilitator.journal.records import NewTransaction
from facilitator.journal.rows import attempt_columns

BUSY_TIMEOUT = 5.0  # seconds; only a backup tool could hold the lock

T = TypeVar("T")

_WORDS = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        # A list is bound as JSON.
        (r"= ANY\((\$\d+)\)", r"IN (SELECT value FROM json_each(\1))"),
        # There is one writer: nobody changes a row meanwhile.
        (r"\s+FOR UPDATE(\s+SKIP LOCKED)?", ""),
        # The order in which attempts were signed, which PostgreSQL has in a column of its own.
        (r"\battempt\.number\b", "attempt.rowid"),
        (r"\bgreatest\(", "max("),
        (r"::[a-z]+", ""),
        # SQLite takes $1 for a name, and ?1 for a number.
        (r"\$(\d+)", r"?\1"),
    )
)


@lru_cache(maxsize=256)
def in_sqlite(sql: str) -> str:
    """A statement as SQLite takes it."""
    for pattern, word in _WORDS:
        sql = pattern.sub(word, sql)
    return sql


def _as_json(values: object) -> str:
    return msgspec.json.encode(values).decode()


class SQLiteConnection:
    """`Connection` on a connection that is inside a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def _run(self, sql: str, parameters: Sequence[object]) -> sqlite3.Cursor:
        if list in map(type, parameters):
            parameters = [_as_json(each) if type(each) is list else each for each in parameters]
        return self._connection.execute(in_sqlite(sql), parameters)

    async def fetch(self, sql: str, *parameters: object) -> Sequence[Row]:
        """As the protocol says."""
        return self._run(sql, parameters).fetchall()

    async def fetchrow(self, sql: str, *parameters: object) -> Row | None:
        """As the protocol says. All rows are fetched: a statement is not done before its last."""
        rows: list[Row] = self._run(sql, parameters).fetchall()
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *parameters: object) -> Any:
        """As the protocol says."""
        rows = self._run(sql, parameters).fetchall()
        return rows[0][0] if rows else None

    async def execute(self, sql: str, *parameters: object) -> int:
        """As the protocol says."""
        return self._run(sql, parameters).rowcount

    async def lock(self, sql: str, *parameters: object) -> None:
        """Nobody else writes."""

    async def insert_signed(
        self,
        new: NewTransaction,
        account_nonce: int,
        attempt: Attempt,
        carried: Sequence[str],
        now: int,
    ) -> int:
        """As the protocol says: here each statement inserts into one table."""
        transaction_id = self._connection.execute(
            """INSERT INTO "transaction" (chain_id, signer, account_nonce, kind, target, calldata,
                   gas_limit, l1_fee, state, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)""",
            (
                *(new.chain_id, new.signer, account_nonce, new.kind),
                *(new.call.target, new.call.calldata, new.gas_limit, str(new.l1_fee), now),
            ),
        ).lastrowid
        assert transaction_id is not None
        self._connection.execute(
            """INSERT INTO attempt (transaction_id, hash, raw, max_fee_per_gas,
                   max_priority_fee_per_gas, signed_at)
               VALUES (?, ?, ?, ?, ?, ?)""",
            (transaction_id, *attempt_columns(attempt)),
        )
        self._connection.executemany(
            """INSERT INTO settlement_transaction (settlement_id, transaction_id, position)
               VALUES (?, ?, ?)""",
            [(each, transaction_id, position) for position, each in enumerate(carried)],
        )
        return transaction_id

    async def add_to_spent(self, chain_id: int, signer: bytes, day: int, wei: int) -> None:
        """As the protocol says, added up in Python: SQLite's integers have 64 bits."""
        key = chain_id, signer, day
        row = self._connection.execute(
            "SELECT wei FROM gas_spent WHERE chain_id = ? AND signer = ? AND day = ?", key
        ).fetchone()
        total = wei + (0 if row is None else int(row["wei"]))
        self._connection.execute(
            "INSERT OR REPLACE INTO gas_spent (chain_id, signer, day, wei) VALUES (?, ?, ?, ?)",
            (*key, str(total)),
        )


def run_through(operation: Operation[T], connection: sqlite3.Connection) -> T:
    """The result of an operation. It never waits, since nothing on a SQLiteConnection does."""
    steps = cast("Coroutine[Any, Any, T]", operation(SQLiteConnection(connection)))
    try:
        steps.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    steps.close()
    raise AssertionError("an operation waits for something else than the database")


def connect(path: Path) -> sqlite3.Connection:
    """Open the file; every commit is on the disk when it returns. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A second connection, which sees what is committed and can write nothing."""
    connection = connect(path)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA busy_timeout = 0")  # it runs where requests are served
    return connection

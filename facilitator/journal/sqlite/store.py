"""The journal in one SQLite file, for one process."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from facilitator.domain.settlement import Attempt, Settlement, SettlementCounts, Transaction
from facilitator.journal import forgetting, queries, signed
from facilitator.journal import statements as sql
from facilitator.journal.schema import APPLICATION_ID, MIGRATIONS, refuse_newer
from facilitator.journal.sqlite.file_lock import lock_file
from facilitator.journal.sqlite.moved import mark_moved, refuse_moved
from facilitator.journal.sqlite.writer import Writer, connect, connect_reader
from facilitator.journal.statements import ClaimedOrNot
from facilitator.journal.store import (
    BudgetSpent,
    Claimed,
    IdempotencyKeyTaken,
    KeptReply,
    NewSettlement,
    NewTransaction,
    OpenWork,
    Overcommitted,
    SettlementChange,
    SettlementRecord,
    StoreError,
    Taken,
    TransactionChange,
)

T = TypeVar("T")


class SQLiteStore:
    """`Store` on one file. Use `SQLiteStore.open`."""

    def __init__(self, writer: Writer, reader: sqlite3.Connection, lock: int) -> None:
        self._writer = writer
        self._reader = reader
        self._lock: int | None = lock

    @classmethod
    async def open(cls, path: str | Path) -> "SQLiteStore":
        """Open or create the file, as its only user. Raises StoreError, StoreLocked."""
        path = Path(path)
        try:
            lock = lock_file(path)
        except FileNotFoundError:
            raise StoreError(
                f"cannot open the journal {path}: create the directory {path.parent} first"
            ) from None
        except OSError as error:
            raise StoreError(f"cannot open the journal {path}: {error.strerror}") from None
        try:
            connection, reader = _open(path), connect_reader(path)
        except (OSError, sqlite3.Error, StoreError) as error:
            os.close(lock)
            raise StoreError(f"cannot open the journal {path}: {error}") from None
        return cls(Writer(connection), reader, lock)

    async def close(self) -> None:
        await self._writer.close()
        self._reader.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def mark_moved(self, target: str) -> None:
        """Once its rows are in another database, `target` in words without secrets, the file is
        opened no more.
        """
        await self._writer.run(partial(mark_moved, target))

    async def claim(
        self, new: NewSettlement, transaction: NewTransaction, now: int
    ) -> Claimed | Taken | IdempotencyKeyTaken | Overcommitted | BudgetSpent:
        told = await self.claim_group((new,), lambda _: transaction, now)
        return told if isinstance(told, BudgetSpent) else told[0]

    async def claim_group(
        self,
        group: Sequence[NewSettlement],
        transaction: Callable[[tuple[int, ...]], NewTransaction],
        now: int,
    ) -> tuple[ClaimedOrNot, ...] | BudgetSpent:
        return await self._writer.run(partial(sql.claim_group, group, transaction, now))

    async def settle_again(
        self, settlement_id: str, version: int, transaction: NewTransaction, now: int
    ) -> Transaction | BudgetSpent | None:
        return await self._writer.run(
            partial(sql.settle_again, settlement_id, version, transaction, now)
        )

    async def fill(
        self, transaction: NewTransaction, account_nonce: int, now: int
    ) -> Transaction | None:
        return await self._writer.run(partial(signed.fill, transaction, account_nonce, now))

    async def revive(self, chain_id: int, signer: bytes, account_nonce: int) -> bool:
        return await self._writer.run(partial(signed.revive, chain_id, signer, account_nonce))

    async def replace_with_filler(
        self,
        transaction: NewTransaction,
        account_nonce: int,
        outbid: Callable[[Attempt], Attempt],
        now: int,
    ) -> Transaction | None:
        return await self._writer.run(
            partial(signed.replace_with_filler, transaction, account_nonce, outbid, now)
        )

    async def add_attempt(
        self,
        transaction_id: int,
        attempt: Attempt,
        gas_budget: int | None,
        now: int,
        gas_limit: int | None = None,
    ) -> bool:
        return await self._writer.run(
            partial(signed.add_attempt, transaction_id, attempt, gas_budget, now, gas_limit)
        )

    async def record(
        self,
        transactions: Sequence[TransactionChange],
        settlements: Sequence[SettlementChange],
        now: int,
    ) -> tuple[Settlement, ...]:
        return await self._writer.run(partial(sql.record, transactions, settlements, now))

    async def finalize(self, chain_id: int, block_number: int) -> int:
        return await self._writer.run(partial(signed.finalize, chain_id, block_number))

    async def forget(
        self, chain_id: int, *, horizon: int, before: int, now: int, limit: int
    ) -> int:
        return await self._writer.run(
            partial(forgetting.forget, chain_id, horizon, before, now, limit)
        )

    async def used_by(self, keys: Sequence[str]) -> bytes | None:
        return self._read(partial(forgetting.used_by, keys))

    async def gas_spent(self, chain_id: int, signer: bytes, now: int) -> int:
        return self._read(partial(signed.gas_spent, chain_id, signer, now))

    async def find(self, key: str) -> Settlement | None:
        return self._read(partial(queries.find, (key,)))

    def _read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Look up a row by an index, in the caller's own thread: a few pages from memory, where
        handing it to another thread costs ten times as much. No writer makes a reader wait (WAL),
        and what was committed before is seen.
        """
        try:
            return operation(self._reader)
        except sqlite3.Error as error:
            raise StoreError(f"the journal cannot be read: {error}") from None

    async def get(self, settlement_id: str) -> SettlementRecord | None:
        def read(db: sqlite3.Connection) -> SettlementRecord | None:
            records = queries.records(db, "SELECT ?", (settlement_id,))
            return records[0] if records else None

        return await self._writer.run(read)

    async def find_transaction(self, transaction_hash: bytes) -> Settlement | None:
        return await self._writer.run(partial(queries.find_transaction, transaction_hash))

    async def open_work(self, chain_id: int) -> OpenWork:
        return await self._writer.run(partial(queries.open_work, chain_id))

    async def watched(self, chain_id: int, horizon: int) -> OpenWork:
        return await self._writer.run(partial(queries.watched, chain_id, horizon))

    async def outstanding(
        self, chain_id: int, asset: bytes, payer: bytes
    ) -> tuple[Settlement, ...]:
        return self._read(partial(queries.outstanding, chain_id, asset, payer))

    async def become_waiter(
        self, settlement_id: str, listener: str, until: int, now: int
    ) -> Settlement:
        def become(db: sqlite3.Connection) -> Settlement:
            db.execute(
                """UPDATE settlement SET listener = ?, listener_until = ?
                   WHERE id = ? AND replied_success_at IS NULL
                   AND (listener IS NULL OR listener_until <= ?)""",
                (listener, until, settlement_id, now),
            )
            return queries.get(db, settlement_id)

        return await self._writer.run(become)

    async def renew(self, settlement_id: str, listener: str, until: int) -> bool:
        changed = await self._writer.run(
            lambda db: (
                db.execute(
                    "UPDATE settlement SET listener_until = ? WHERE id = ? AND listener = ?",
                    (until, settlement_id, listener),
                ).rowcount
            )
        )
        return changed == 1

    async def let_go(self, settlement_id: str, listener: str) -> None:
        await self._writer.run(partial(sql.let_go, settlement_id, listener))

    async def mark_success_replied(
        self, settlement_id: str, listener: str, now: int, reply: bytes | None = None
    ) -> bool:
        changed = await self._writer.run(
            lambda db: (
                db.execute(
                    """UPDATE settlement SET replied_success_at = ?, reply = ?
                   WHERE id = ? AND listener = ? AND state = 'confirmed'
                   AND replied_success_at IS NULL""",
                    (now, reply, settlement_id, listener),
                ).rowcount
            )
        )
        return changed == 1

    async def mark_all_replied(self, now: int) -> int:
        return await self._writer.run(partial(sql.mark_all_replied, now))

    async def keep_reply(self, settlement_id: str, reply: bytes) -> None:
        await self._writer.run(partial(sql.keep_reply, settlement_id, reply))

    async def find_reply(self, tenant: str, idempotency_key: str) -> KeptReply | None:
        return self._read(partial(queries.find_reply, tenant, idempotency_key))

    async def raise_nonce_floor(self, chain_id: int, signer: bytes, floor: int) -> int:
        return await self._writer.run(partial(signed.raise_nonce_floor, chain_id, signer, floor))

    async def in_flight(self, chain_id: int) -> dict[bytes, int]:
        return await self._writer.run(partial(queries.in_flight, chain_id))

    async def settlement_counts(self, chain_id: int) -> SettlementCounts:
        return self._read(partial(queries.counts, chain_id))

    async def ping(self) -> None:
        # Rewriting the version that is there is a real write, and changes nothing.
        await self._writer.run(
            lambda db: db.execute(f"PRAGMA user_version = {_version(db)}").rowcount
        )


def _open(path: Path) -> sqlite3.Connection:
    # Signed payments are nobody else's to read; SQLite gives its other files the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = connect(path)
    try:
        refuse_moved(connection)
        _refuse_strangers(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        _migrate(connection)
        # Whoever listened did so in a process that is gone: the lock says that we are alone.
        connection.execute(
            """UPDATE settlement SET listener = NULL
               WHERE listener IS NOT NULL AND replied_success_at IS NULL"""
        )
    except BaseException:
        connection.close()
        raise
    return connection


def _version(db: sqlite3.Connection) -> int:
    """How many migrations were made."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def _refuse_strangers(db: sqlite3.Connection) -> None:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and tables:
        raise StoreError("it is the database of another program")


def _migrate(db: sqlite3.Connection) -> None:
    version, known = _version(db), len(MIGRATIONS)
    refuse_newer(version)
    for number in range(version, known):
        db.executescript(
            f"""BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1};
                PRAGMA application_id = {APPLICATION_ID}; COMMIT;"""
        )
